"""A question about predictions from its arguments to its message, and from the server's message to its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ._answer import Answer, Metadata
from ._columns import decode, encode
from ._entities import to_table
from ._exceptions import InvalidError
from ._proto import prediction_pb2 as pb
from ._times import Time, to_micros

_TYPES = {
    pa.bool_(): "bool",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.string(): "string",
}


def predict_request(
    routes: Sequence[str],
    entities: Any,
    request: Mapping[str, Any] | None,
    prediction_ids: Sequence[str] | None,
    now: Time | None,
) -> tuple[pa.Table, pb.PredictRequest]:
    """The rows, and the message that asks routes about them."""
    if isinstance(routes, str) or not routes:
        raise InvalidError("give the names of the routes as a list, one at least")
    rows = to_table(entities, request)
    message = pb.PredictRequest(
        route=routes[0],
        other_routes=routes[1:],
        entities=[_column(name, rows[name]) for name in rows.column_names],
        prediction_ids=prediction_ids or (),
    )
    if now is not None:
        message.now = to_micros(now, "now")
    return rows, message


def _column(name: str, values: pa.ChunkedArray) -> Any:
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_null(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_integer(kind):
        kind = pa.int64()
    elif pa.types.is_floating(kind):
        kind = pa.float64()
    if kind not in _TYPES:
        raise InvalidError(f"column `{name}` is {values.type}; send numbers, booleans or texts")
    return encode(name, values.cast(kind), _TYPES[kind])


def predict_answer(rows: pa.Table, response: pb.PredictResponse) -> Answer:
    """The rows, then `prediction`, `model`, `model_version`, `prediction_id` and `defaults_used`."""
    ids = list(response.prediction_ids)

    def each(values: Sequence[Any]) -> list[Any]:
        return list(values) * len(ids) if len(values) == 1 else list(values)

    defaults = [list(used.inputs) for used in response.defaults_used] or [[] for _ in ids]
    columns = {
        "prediction": decode(response.predictions),
        "model": pa.array([model or None for model in each(response.models)], pa.string()),
        "model_version": pa.array([version or None for version in each(response.model_versions)], pa.int64()),
        "prediction_id": pa.array(ids, pa.string()),
        "defaults_used": pa.array(defaults, pa.list_(pa.string())),
    }
    for name in columns:
        if name in rows.column_names:
            raise InvalidError(f"column `{name}` of `entities` is named like a column of the answer; rename or drop it")
    given = {name: rows[name] for name in rows.column_names}
    return Answer(pa.table({**given, **columns}), Metadata(response.registry_version))
