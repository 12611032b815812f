"""Entities in whatever form they come, as one Arrow table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from ._exceptions import InvalidError

if TYPE_CHECKING:
    import pandas
    import polars

    Entities: TypeAlias = (
        Sequence[Mapping[str, Any]]
        | Mapping[str, Sequence[Any]]
        | pa.Table
        | pa.RecordBatch
        | pandas.DataFrame
        | polars.DataFrame
    )
    """A list of dicts, a dict of lists, an Arrow table, a pandas or polars frame; whatever else
    speaks Arrow's C stream interface will do, too."""

    Spine: TypeAlias = Entities | pa.RecordBatchReader
    """Entities, or a reader of more rows than memory holds."""

_FORMS = "give a list of dicts, a dict of lists, or an Arrow, pandas or polars table"


def to_table(
    entities: Any,
    request: Mapping[str, Any] | None = None,
    *,
    argument: str = "entities",
    dicts_are_maps: bool = False,
) -> pa.Table:
    """The rows of `entities` with the columns of `request` after them.

    A key that some dicts lack is null there. A pandas index is no column. Messages call the rows `argument`. A value
    that is a dict is a struct, or a map.

    >>> to_table([{"carrier": "UA"}, {"carrier": "AA"}], {"distance": [1.0, 2.0]}).column_names
    ['carrier', 'distance']
    """
    table = _to_table(entities, argument, dicts_are_maps)
    if request is None:
        return table
    values = _columns(request, "request")
    for name in values.column_names:
        if name in table.column_names:
            raise InvalidError(f"column `{name}` is in both `entities` and `request`; leave it in one of them")
        if table.num_columns and values.num_rows != table.num_rows:
            raise InvalidError(
                f"`request` column `{name}` has {values.num_rows} rows and `entities` has {table.num_rows}; "
                "give one value for each row"
            )
        table = table.append_column(name, values[name])
    return table


def to_spine(entities: Any, request: Mapping[str, Any] | None = None) -> pa.Table | pa.RecordBatchReader:
    """The rows of a batch question: a reader stays one, and is read as it is sent."""
    if not isinstance(entities, pa.RecordBatchReader):
        return to_table(entities, request)
    if request is not None:
        raise InvalidError("`request` has a value for each row; let the reader of `entities` carry its columns")
    _refuse_twice(entities.schema.names, "entities")
    return entities


def _refuse_twice(names: list[str], argument: str) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidError(f"`{argument}` has two columns `{twice[0]}`; rename or drop one of them")


def _if_imported(name: str) -> Any:
    """The module, if anybody has imported it; waits for a thread that is about to."""
    return importlib.import_module(name) if name in sys.modules else None


def _to_table(entities: Any, argument: str, dicts_are_maps: bool) -> pa.Table:
    pandas, polars = _if_imported("pandas"), _if_imported("polars")
    if isinstance(entities, pa.Table):
        table = entities
    elif isinstance(entities, pa.RecordBatch):
        table = pa.Table.from_batches([entities])
    elif pandas is not None and isinstance(entities, pandas.DataFrame):
        table = _arrow(lambda: pa.Table.from_pandas(entities, preserve_index=False), argument)
    elif polars is not None and isinstance(entities, polars.DataFrame):
        table = entities.to_arrow()
    elif isinstance(entities, Mapping):
        return _columns(entities, argument, dicts_are_maps)
    elif hasattr(entities, "__arrow_c_stream__"):
        table = _arrow(lambda: pa.table(entities), argument)
    elif isinstance(entities, Iterable) and not isinstance(entities, (str, bytes)):
        return _rows(list(entities), argument, dicts_are_maps)
    else:
        raise InvalidError(f"`{argument}` is a {type(entities).__name__}; {_FORMS}")
    _refuse_twice(table.column_names, argument)
    # What pandas writes about its index is of no use to a server.
    return table.replace_schema_metadata(None)


def _columns(columns: Mapping[str, Any], argument: str, dicts_are_maps: bool = False) -> pa.Table:
    if not isinstance(columns, Mapping):
        raise InvalidError(f"`{argument}` is a {type(columns).__name__}; give a dict of lists")
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, (str, bytes)) or not isinstance(values, (Iterable, pa.Array, pa.ChunkedArray)):
            raise InvalidError(f"`{argument}` column `{name}` is {values!r}; give a list with one value for each row")
        arrays[_name(name)] = _array(values, name, argument, dicts_are_maps)
    lengths = {name: len(array) for name, array in arrays.items()}
    first = next(iter(lengths), "")
    for name, length in lengths.items():
        if length != lengths[first]:
            raise InvalidError(
                f"`{argument}` column `{first}` has {lengths[first]} rows and `{name}` has {length}; "
                "give every column one value for each row"
            )
    return pa.table(arrays)


def _rows(rows: Sequence[Any], argument: str, dicts_are_maps: bool) -> pa.Table:
    names: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InvalidError(f"row {number} of `{argument}` is a {type(row).__name__}; {_FORMS}")
        names.update(dict.fromkeys(map(_name, row)))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pa.table({name: _array(values, name, argument, dicts_are_maps) for name, values in columns.items()})


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidError(f"column name {name!r} is a {type(name).__name__}; column names are text")
    return name


def _array(values: Any, name: str, argument: str, dicts_are_maps: bool = False) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    polars = _if_imported("polars")
    if polars is not None and isinstance(values, polars.Series):
        return values.to_arrow()
    if not hasattr(values, "__array__") and not isinstance(values, Sequence):
        values = list(values)
    place = f"{argument}` column `{name}"
    is_plain = dicts_are_maps and not hasattr(values, "__array__")
    if is_plain and isinstance(next((value for value in values if value is not None), None), Mapping):
        return _arrow(lambda: _maps(values), place)
    return _arrow(lambda: pa.array(values, from_pandas=hasattr(values, "__array__")), place)


def _maps(values: Sequence[Any]) -> pa.Array:
    """Dicts as a column of maps, whatever keys each has."""
    if any(value is not None and not isinstance(value, Mapping) for value in values):
        raise TypeError("some values are dicts, and some are not")
    pairs = [None if value is None else list(value.items()) for value in values]
    items = [item for pair in pairs for item in pair or ()]
    keys, inner = pa.array([key for key, _ in items]), pa.array([value for _, value in items])
    key_type = pa.string() if pa.types.is_null(keys.type) else keys.type
    return pa.array(pairs, pa.map_(key_type, inner.type))


def _arrow(convert: Any, what: str) -> Any:
    try:
        return convert()
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidError(f"`{what}` cannot be read: {error}") from error
