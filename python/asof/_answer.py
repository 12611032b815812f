"""What both calls give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pyarrow as pa

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
        statuses: Mapping[str, list[Status]] | None = None,
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
        return self._statuses

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
        return {name: _to_list(self._table[name]) for name in self._table.column_names}

    def to_pandas(self) -> pandas.DataFrame:
        """The answer as a pandas frame.

        Whole numbers and booleans with nulls come as pandas' nullable types, for no value changes type on its way.
        """
        import pandas

        nullable = {
            pa.int32(): pandas.Int32Dtype(),
            pa.int64(): pandas.Int64Dtype(),
            pa.bool_(): pandas.BooleanDtype(),
        }
        columns = {}
        for name in self._table.column_names:
            column = self._table[name]
            mapper = nullable.get if column.null_count else None
            if pa.types.is_map(column.type):
                columns[name] = pandas.Series(_to_list(column), dtype=object)
            else:
                columns[name] = column.to_pandas(types_mapper=mapper)
        return pandas.DataFrame(columns, index=pandas.RangeIndex(self._table.num_rows))

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


def _to_list(column: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_map(column.type):
        return [None if value is None else dict(value) for value in values]
    return values
