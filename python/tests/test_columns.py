"""Wire columns: every type there and back, and casts to declared types."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

import asof
from asof._columns import decode, decode_event_timestamps, encode
from asof._proto import feature_store_pb2 as pb
from asof._types import arrow_type, cast

UTC = UTC
VALUES: dict[str, list[Any]] = {
    "bool": [True, None, False],
    "int32": [-(2**31), None, 2**31 - 1],
    "int64": [-(2**63), None, 2**63 - 1],
    "float32": [1.5, None, float("inf")],
    "float64": [0.1, None, float("-inf")],
    "string": ["UA", None, "", "日本"],
    "bytes": [b"\x00\xff", None, b""],
    "timestamp": [datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), None, datetime(2024, 5, 1, tzinfo=UTC)],
    "date": [date(1969, 12, 31), None, date(2024, 5, 1)],
    "list<int64>": [[1, 2], None, [], [None, 3]],
    "list<string>": [["a"], None, [""], []],
}


@pytest.mark.parametrize("type_name", VALUES)
@pytest.mark.parametrize("rows", [slice(0), slice(None), slice(1, None), slice(0, 1)], ids=str)
def test_columns_come_back_as_they_went(type_name: str, rows: slice) -> None:
    array = pa.array(VALUES[type_name], arrow_type(type_name))
    # A slice of an array keeps its buffers and begins within them.
    sent = array[rows]
    assert decode(pb.Column.FromString(encode("x", sent, type_name).SerializeToString())).equals(sent)


def test_long_columns_come_back_as_they_went() -> None:
    for values in ([None if i % 3 == 0 else i for i in range(1000)], list(range(1000))):
        array = pa.chunked_array([values[:17], values[17:600], values[600:]], pa.int64())
        assert decode(encode("x", array, "int64")).to_pylist() == values


def test_maps_are_read() -> None:
    column = pb.Column(
        name="x",
        type="map<string, int64>",
        maps=pb.MapValues(
            lengths=[2, 0, 1],
            keys=pb.Column(strings=pb.StringValues(values=["a", "b", "c"])),
            values=pb.Column(int64s=pb.Int64Values(values=[1, 0, 3]), validity=b"\x05"),
        ),
        validity=b"\x05",
    )
    array = decode(column)
    array.validate(full=True)
    assert array.to_pylist() == [[("a", 1), ("b", None)], None, [("c", 3)]]


def test_event_timestamps_are_read() -> None:
    column = pb.Column(event_timestamps=[1_000_000, 0], event_timestamps_validity=b"\x01")
    assert decode_event_timestamps(column).to_pylist() == [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), None]


def test_a_column_of_another_kind_than_its_type_is_a_bug_of_the_server() -> None:
    with pytest.raises(asof.InternalError, match="declared int64 and carries `strings`"):
        decode(pb.Column(name="x", type="int64", strings=pb.StringValues(values=["a"])))
    with pytest.raises(asof.InternalError, match="the type `decimal`"):
        decode(pb.Column(name="x", type="decimal"))


NANOSECOND = timedelta(microseconds=1) / 1000


@pytest.mark.parametrize(
    ("values", "type_name", "expected"),
    [
        (pa.array([1, 2]), "int32", [1, 2]),
        (pa.array([1.0, None]), "int64", [1, None]),
        (pa.array([1, None]), "float64", [1.0, None]),
        (pa.array([0.1]), "float32", [pytest.approx(0.1)]),
        (pa.nulls(2), "string", [None, None]),
        (pa.array(["UA"], pa.large_string()), "string", ["UA"]),
        (pa.array(["UA"], pa.string_view()), "string", ["UA"]),
        (pa.array(["UA", "UA", None]).dictionary_encode(), "string", ["UA", "UA", None]),
        (pa.chunked_array([["UA"], ["AA"]]), "string", ["UA", "AA"]),
        (pa.chunked_array([], pa.string()), "string", []),
        (pa.array([datetime(2024, 5, 1)]), "timestamp", [datetime(2024, 5, 1, tzinfo=UTC)]),
        (
            pa.array([datetime(2024, 5, 1, 12)], pa.timestamp("s", "Europe/Berlin")),
            "timestamp",
            [datetime(2024, 5, 1, 12, tzinfo=UTC)],
        ),
        # Cut to the microsecond below, before the epoch too.
        (pa.array([-1, 1999], pa.timestamp("ns")), "timestamp", [-1, 1]),
        (pa.array([date(2024, 5, 1)], pa.date64()), "date", [date(2024, 5, 1)]),
        (pa.array([[1]], pa.list_(pa.int32())), "list<int64>", [[1]]),
    ],
)
def test_values_take_their_declared_type(values: Any, type_name: str, expected: list[Any]) -> None:
    array = cast(values, type_name, "x")
    assert array.type == arrow_type(type_name)
    if type_name == "timestamp" and isinstance(expected[0], int):
        array = array.view(pa.int64())
    assert array.to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "type_name"),
    [
        (pa.array(["1"]), "list<int64>"),
        (pa.array([1]), "string"),
        (pa.array([1.5]), "int64"),
        (pa.array([2**31]), "int32"),
        (pa.array([True]), "int64"),
        (pa.array([1]), "timestamp"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: Any, type_name: str) -> None:
    with pytest.raises(asof.InvalidError, match=f"column `x` is {values.type} and is declared {type_name}"):
        cast(values, type_name, "x")


def test_texts_stay_texts_which_the_server_reads() -> None:
    assert encode("x", pa.array(["1", None]), "int64").type == "string"


def test_keys_that_the_type_cannot_hold_are_null() -> None:
    for values in (pa.array([2**31, -(2**31), 7]), pa.array([2**32 - 1, 1, 7], pa.uint32())):
        assert cast(values, "int32", "x", is_key=True).to_pylist() == [None, *values.to_pylist()[1:]]
