"""An online question from its arguments to its message, and from the server's message to its answer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ._answer import Answer, Metadata, Status, to_list
from ._columns import decode, decode_event_timestamps, decode_list, encode
from ._entities import to_table
from ._exceptions import InternalError, InvalidError
from ._proto import feature_store_pb2 as pb
from ._signature import Definitions, Features, selection, signature
from ._times import Time, to_micros
from ._types import arrow_type

# No feature is called so: in names two underscores stand between a view and its feature.
_ROWS = "__rows"


@dataclass(frozen=True)
class OnlineQuestion:
    """What are these features worth now?"""

    features: pb.FeatureSelection
    rows: pa.Table
    options: Mapping[str, Any]
    with_statuses: bool

    @staticmethod
    def of(
        features: Features,
        entities: Any,
        request: Mapping[str, Any] | None,
        *,
        full_feature_names: bool,
        statuses: bool,
        event_timestamps: bool,
        now: Time | None,
    ) -> OnlineQuestion:
        options: dict[str, Any] = {"full_feature_names": full_feature_names, "event_timestamps": event_timestamps}
        if now is not None:
            options["now"] = to_micros(now, "now")
        return OnlineQuestion(selection(features), to_table(entities, request), options, statuses)

    def request(self, definitions: Definitions) -> pb.GetOnlineFeaturesRequest:
        """The columns that the features need, of the types they are declared with; the others stay here."""
        needed = signature(self.features, definitions)

        def columns(types: Mapping[str, str], is_key: bool) -> list[pb.Column]:
            given = {name: kind for name, kind in types.items() if self._has(name)}
            return [encode(name, self._column(name, kind), kind, is_key=is_key) for name, kind in given.items()]

        entities = columns(needed.join_keys, is_key=True)
        if not needed.join_keys and not needed.request:
            # Features of no entity: a column that the server only carries along says how many rows ask for them.
            entities = [encode(_ROWS, pa.nulls(self.rows.num_rows, pa.bool_()), "bool")]
        return pb.GetOnlineFeaturesRequest(
            features=self.features, entities=entities, request=columns(needed.request, is_key=False), **self.options
        )

    def _has(self, name: str) -> bool:
        return name in self.rows.column_names or self._asks_nothing()

    def _column(self, name: str, type_name: str) -> Any:
        return pa.array([], arrow_type(type_name)) if self._asks_nothing() else self.rows[name]

    def _asks_nothing(self) -> bool:
        """No rows and no columns: an empty list of dicts."""
        return bool(self.rows.num_columns == 0 and self.rows.num_rows == 0)

    def answer(self, request: pb.GetOnlineFeaturesRequest, response: pb.GetOnlineFeaturesResponse) -> Answer:
        """The rows as they were given, every column of them, then the features."""
        features = response.columns[len(request.entities) :]
        given, rows = set(self.rows.column_names), self.rows.num_rows
        for column in features:
            if column.name in given:
                raise InvalidError(
                    f"column `{column.name}` of `entities` is named like an asked feature; "
                    "rename or drop it, or ask with full_feature_names=True"
                )
            if self.with_statuses and f"{column.name}__status" in given:
                raise InvalidError(
                    f"column `{column.name}__status` of `entities` is named like the status of an asked feature; "
                    "rename or drop it"
                )
            if given and len(column.statuses) != rows:
                raise InternalError(f"{len(column.statuses)} values of `{column.name}` came for {rows} rows")
        return _OnlineAnswer(self, features, response.registry_version)


class _OnlineAnswer(Answer):
    """An answer whose values stay as they came until somebody looks at them: much of a small call's time."""

    def __init__(self, question: OnlineQuestion, features: Sequence[pb.Column], registry_version: int) -> None:
        self._question, self._features = question, features
        self._metadata = Metadata(registry_version)

    @functools.cached_property
    def _table(self) -> pa.Table:
        columns = dict(zip(self._question.rows.column_names, self._question.rows.columns, strict=True))
        for column in self._features:
            columns[column.name] = decode(column)
            if self._question.with_statuses:
                columns[f"{column.name}__status"] = _status_names(column).cast(pa.string())
        return pa.table(columns)

    @property
    def statuses(self) -> dict[str, list[Status]]:
        return {column.name: [_STATUSES[number] for number in column.statuses] for column in self._features}

    @property
    def event_timestamps(self) -> dict[str, list[Any]]:
        if not self._question.options["event_timestamps"]:
            return {}
        return {column.name: decode_event_timestamps(column).to_pylist() for column in self._features}

    def to_dict(self) -> dict[str, list[Any]]:
        rows = self._question.rows
        values = {name: to_list(rows[name]) for name in rows.column_names}
        for column in self._features:
            values[column.name] = decode_list(column)
            if self._question.with_statuses:
                values[f"{column.name}__status"] = [str(_STATUSES[number]) for number in column.statuses]
        return values

    def _remarks(self, name: str, count: int) -> list[str]:
        statuses = next((column.statuses for column in self._features if column.name == name), None)
        return [""] * count if statuses is None else [str(_STATUSES[number]) for number in statuses[:count]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as values: what came cannot be pickled."""
        statuses = {column.name: _status_names(column).cast(pa.string()) for column in self._features}
        times = None
        if self._question.options["event_timestamps"]:
            times = pa.table({column.name: decode_event_timestamps(column) for column in self._features})
        return Answer, (self._table, self._metadata, statuses, times)

    def __len__(self) -> int:
        return len(self._features[0].statuses) if self._features else int(self._question.rows.num_rows)


_STATUSES = {
    pb.PRESENT: Status.PRESENT,
    pb.NULL_VALUE: Status.NULL_VALUE,
    pb.NOT_FOUND: Status.NOT_FOUND,
    pb.OUTSIDE_MAX_AGE: Status.OUTSIDE_MAX_AGE,
}


def _status_names(column: pb.Column) -> pa.DictionaryArray:
    numbers = pa.array(column.statuses, pa.int8())
    return pa.DictionaryArray.from_arrays(numbers, pa.array(pb.Status.keys(), pa.string()))
