"""Answers in every form, without a value changing its type."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pandas
import polars
import pyarrow as pa
import pytest

from asof import Answer, Metadata
from asof._times import to_micros

BIG = 2**53 + 1
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "id": (pa.int64(), [BIG, None]),
    "whole": (pa.int64(), [BIG, 1]),
    "flag": (pa.bool_(), [True, None]),
    "ratio": (pa.float64(), [0.5, None]),
    "carrier": (pa.string(), ["UA", None]),
    "raw": (pa.binary(), [b"\x00", None]),
    "at": (pa.timestamp("us", "UTC"), [NOON, None]),
    "day": (pa.date32(), [date(2024, 5, 1), None]),
    "embedding": (pa.list_(pa.float32()), [[0.5], None]),
    "counts": (pa.map_(pa.string(), pa.int64()), [{"a": 1}, None]),
}
TABLE = pa.table({name: pa.array(values, type_) for name, (type_, values) in VALUES.items()})
ANSWER = Answer(TABLE, Metadata(registry_version=1))


def test_a_dict_has_python_values() -> None:
    assert ANSWER.to_dict() == {name: values for name, (_, values) in VALUES.items()}
    assert len(ANSWER) == 2
    assert ANSWER.to_arrow() is TABLE


def test_a_pandas_frame_keeps_whole_numbers_exact() -> None:
    frame = ANSWER.to_pandas()
    assert list(frame.columns) == list(VALUES)
    assert frame["id"].dtype == pandas.Int64Dtype()
    assert frame["whole"].dtype == "int64"
    assert frame["flag"].dtype == pandas.BooleanDtype()
    assert frame["id"].tolist() == [BIG, pandas.NA]
    assert frame["counts"].tolist() == [{"a": 1}, None]
    assert frame["at"][0] == NOON
    assert pa.Table.from_pandas(frame[["id", "whole", "ratio"]], preserve_index=False).equals(
        TABLE.select(["id", "whole", "ratio"])
    )


def test_a_polars_frame_keeps_whole_numbers_exact() -> None:
    frame = ANSWER.to_polars()
    assert frame["id"].to_list() == [BIG, None]
    assert frame["id"].dtype == polars.Int64
    assert frame["at"].to_list() == [NOON, None]


def test_an_answer_of_no_rows_has_its_columns() -> None:
    empty = Answer(TABLE.slice(0, 0), Metadata(registry_version=1))
    assert list(empty.to_pandas().columns) == list(VALUES) == empty.to_polars().columns
    assert empty.to_pandas().shape == (0, len(VALUES))


@pytest.mark.parametrize(
    ("time", "micros"),
    [
        (datetime(1970, 1, 1, 0, 0, 1), 1_000_000),
        (datetime.fromisoformat("1970-01-01T02:00:00+02:00"), 0),
        (date(1970, 1, 2), 86_400_000_000),
        ("1970-01-01", 0),
        ("1970-01-01 00:00:00.25Z", 250_000),
        ("1969-12-31T23:59:59.999999Z", -1),
        (pandas.Timestamp("1969-12-31T23:59:59.999999999Z"), -1),
    ],
)
def test_times_become_microseconds(time: Any, micros: int) -> None:
    assert to_micros(time, "start") == micros


@pytest.mark.parametrize("time", ["yesterday", "", 7, pandas.NaT])
def test_what_is_no_time_is_refused(time: Any) -> None:
    with pytest.raises(ValueError, match="`start` is"):
        to_micros(time, "start")


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("names", [["plain"], ["whole"], ["counts"], ["counts", "plain", "whole"], []])
def test_pandas_has_the_columns_in_order_and_the_rows_in_number(names: list[str], rows: int) -> None:
    columns = {
        "plain": pa.array(["a", "b"]),
        "whole": pa.array([1, None]),
        "counts": pa.array([{"x": 1}, None], pa.map_(pa.string(), pa.int64())),
    }
    table = pa.table({name: columns[name] for name in names}).slice(0, rows)
    frame = Answer(table, Metadata(registry_version=1)).to_pandas()
    assert list(frame.columns) == names
    assert list(frame.index) == list(range(table.num_rows))
