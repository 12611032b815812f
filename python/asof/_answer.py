"""What both calls give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ._html import ROWS_SHOWN, table_html

if TYPE_CHECKING:
    import pandas
    import polars


class AsofWarning(UserWarning):
    """What the server remarks about an answer, for instance that times lie past what is materialized."""


class Status(StrEnum):
    """How a value came about; all but PRESENT are null."""

    PRESENT = "PRESENT"
    NULL_VALUE = "NULL_VALUE"
    """The newest row holds a null."""
    NOT_FOUND = "NOT_FOUND"
    """There is no row for the key at that time."""
    OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"
    """The newest row is older than the view's TTL."""


@dataclass(frozen=True)
class Metadata:
    """What an answer was made from."""

    registry_version: int
    tables: Mapping[str, int] = field(default_factory=dict)
    """View to the version of the table it was read from; batch answers only."""
    warnings: tuple[str, ...] = ()


class Answer:
    """Rows of features: the columns of the request, then one column a feature, in the order asked.

    >>> answer = Answer(pa.table({"carrier": ["UA"], "delay": [1.5]}), Metadata(registry_version=3))
    >>> answer.to_dict()
    {'carrier': ['UA'], 'delay': [1.5]}
    """

    def __init__(
        self,
        table: pa.Table,
        metadata: Metadata,
        statuses: Mapping[str, pa.Array | pa.ChunkedArray] | None = None,
        event_timestamps: pa.Table | None = None,
    ) -> None:
        self._table = table
        self._metadata = metadata
        self._statuses = dict(statuses or {})
        self._event_timestamps = event_timestamps

    @property
    def metadata(self) -> Metadata:
        """The versions the answer was made from, and the server's warnings."""
        return self._metadata

    @property
    def statuses(self) -> dict[str, list[Status]]:
        """Column name of each feature to the status of each value.

        A batch answer has them if the call asked for ``statuses=True``; an online answer always does.
        """
        return {name: [Status(text) for text in texts.to_pylist()] for name, texts in self._statuses.items()}

    @property
    def event_timestamps(self) -> dict[str, list[Any]]:
        """Column name of each feature to the event timestamp of each value, None where there is none.

        Online answers have them if the call asked for ``event_timestamps=True``.
        """
        return {} if self._event_timestamps is None else self._event_timestamps.to_pydict()

    def to_arrow(self) -> pa.Table:
        """The answer as it came: every column of its declared type."""
        return self._table

    def to_dict(self) -> dict[str, list[Any]]:
        """Column name to values; maps are dicts, timestamps are datetimes in UTC."""
        return {name: to_list(self._table[name]) for name in self._table.column_names}

    def to_pandas(self) -> pandas.DataFrame:
        """The answer as a pandas frame.

        Whole numbers and booleans with nulls come as pandas' nullable types, for no value changes type on its way.
        """
        import pandas

        names = self._table.column_names
        groups: dict[str, list[str]] = {"plain": [], "nullable": [], "objects": []}
        for name in names:
            groups[_group(self._table[name])].append(name)
        index, objects = pandas.RangeIndex(self._table.num_rows), groups["objects"]
        frames = [
            self._table.select(groups["plain"]).to_pandas(ignore_metadata=True),
            self._table.select(groups["nullable"]).to_pandas(ignore_metadata=True, types_mapper=_nullable),
            pandas.DataFrame({name: pandas.Series(to_list(self._table[name]), dtype=object) for name in objects}),
        ]
        filled = [frame.set_axis(index) for frame in frames if len(frame.columns)]
        frame = pandas.concat(filled, axis=1) if filled else pandas.DataFrame(index=index)
        ordered: pandas.DataFrame = frame if list(frame.columns) == names else frame[names]
        return ordered

    def to_polars(self) -> polars.DataFrame:
        """The answer as a polars frame; maps are lists of key and value, which is how polars has them."""
        import polars

        frame = polars.from_arrow(self._table)
        assert isinstance(frame, polars.DataFrame), "a table gives a frame"
        return frame

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        return f"<Answer {self._table.num_rows} rows: {', '.join(self._table.column_names)}>"

    def _repr_html_(self) -> str:
        names, shown = self._table.column_names, self._table.slice(0, ROWS_SHOWN)
        values = [to_list(shown[name]) for name in names]
        remarks = [self._remarks(name, shown.num_rows) for name in names]
        cells = [list(zip(column, remark, strict=True)) for column, remark in zip(values, remarks, strict=True)]
        heads = [(name, str(self._table[name].type)) for name in names]
        rows = f"{self._table.num_rows} rows" if self._table.num_rows != 1 else "1 row"
        caption = rows if self._table.num_rows <= ROWS_SHOWN else f"{rows}, the first {ROWS_SHOWN}"
        return table_html(caption, heads, list(zip(*cells, strict=True)))

    def _remarks(self, name: str, count: int) -> list[str]:
        statuses = self._statuses.get(name)
        return [""] * count if statuses is None else statuses.slice(0, count).to_pylist()


def to_list(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values as Python has them; maps are dicts."""
    values: list[Any] = column.to_pylist()
    if pa.types.is_map(column.type):
        return [None if value is None else dict(value) for value in values]
    return values


def _group(column: pa.ChunkedArray) -> str:
    """How pandas gets a column: as it is, with a type that has nulls, or as Python has its values."""
    if pa.types.is_map(column.type) or _has_lists_with_nulls(column):
        # A list with a null would be an array of floats.
        return "objects"
    return "nullable" if column.null_count and _nullable(column.type) is not None else "plain"


def _nullable(data_type: pa.DataType) -> Any:
    """The pandas type that has nulls beside whole numbers and truth values."""
    import pandas

    if pa.types.is_boolean(data_type):
        return pandas.BooleanDtype()
    if not pa.types.is_integer(data_type):
        return None
    return pandas.api.types.pandas_dtype(str(data_type).replace("uint", "UInt").replace("int", "Int"))


def _has_lists_with_nulls(column: pa.ChunkedArray) -> bool:
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    return (
        is_list
        and not pa.types.is_floating(column.type.value_type)
        and any(chunk.flatten().null_count for chunk in column.chunks)
    )
