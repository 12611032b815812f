"""Values keep their types and their worth, there and back, in both answers and in every form."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from real_server import materialize, serving

import asof

BIG = 2**53 + 1
NOW = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
AT = pa.timestamp("us", "UTC")
COLUMNS: dict[str, tuple[pa.DataType, str, list[Any]]] = {
    "whole": (pa.int64(), "int64", [BIG, None, -(2**63)]),
    "small": (pa.int32(), "int32", [7, None, -(2**31)]),
    "real": (pa.float64(), "float64", [0.1, None, math.inf]),
    "half": (pa.float32(), "float32", [0.5, None, -1.25]),
    "flag": (pa.bool_(), "bool", [True, None, False]),
    "text": (pa.string(), "string", ["é", None, ""]),
    "raw": (pa.binary(), "bytes", [b"\x00\xff", None, b""]),
    "seen": (AT, "timestamp", [NOW, None, dt.datetime(1960, 1, 1, 0, 0, 0, 1, dt.UTC)]),
    "day": (pa.date32(), "date", [dt.date(2024, 2, 29), None, dt.date(1950, 1, 1)]),
    "ids": (pa.list_(pa.int64()), "list<int64>", [[BIG, None], None, []]),
    "embedding": (pa.list_(pa.float32()), "list<float32>", [[0.5, -0.25], None, [1.0]]),
    "flags": (pa.list_(pa.bool_()), "list<bool>", [[True, False], None, [True]]),
}
KEYS = [BIG, 2, 3]


@pytest.fixture(scope="module")
def client(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[asof.Client]:
    folder: Path = tmp_path_factory.mktemp("types")
    arrays = {name: pa.array(values, kind) for name, (kind, _, values) in COLUMNS.items()}
    times = pa.array([NOW - dt.timedelta(hours=1)] * 3, AT)
    pq.write_table(pa.table({"id": KEYS, "name": ["a", "b", "c"], "at": times, **arrays}), folder / "rows.parquet")
    source = asof.Source(name="rows", batch=asof.Batch("parquet", "rows.parquet"), event_timestamp="at")
    view = asof.FeatureView(
        name="every",
        entities=[asof.Entity(name="thing", join_keys=[asof.Field("id", "int64"), asof.Field("name", "string")])],
        source=source,
        features=[asof.Field(name, kind) for name, (_, kind, _) in COLUMNS.items()],
    )
    (folder / "asof.yaml").write_text("project: types\n")
    asof.DefinitionSet([view]).write(folder / "feature_defs/every.yaml")
    materialize(binary, folder)
    with serving(binary, folder) as address, asof.Client(address) as client:
        yield client


def both(client: asof.Client, entities: Any) -> tuple[asof.Answer, asof.Answer]:
    batch = client.get_batch_features(features=["every"], entities=entities, timestamp_column="event_timestamp")
    return batch, client.get_online_features(features=["every"], entities=entities, now=NOW)


def spine(**columns: Any) -> pa.Table:
    return pa.table({"id": KEYS, "name": ["a", "b", "c"], "event_timestamp": pa.array([NOW] * 3, AT), **columns})


def test_both_answers_have_the_declared_types_and_the_written_values(client: asof.Client) -> None:
    for answer in both(client, spine()):
        table = answer.to_arrow()
        for name, (kind, _, values) in COLUMNS.items():
            assert table.schema.field(name).type.equals(kind), name
            assert table[name].to_pylist() == values, name
    batch, online = (answer.to_arrow() for answer in both(client, spine()))
    assert batch.select(list(COLUMNS)).equals(online.select(list(COLUMNS)))


def test_pandas_changes_no_value(client: asof.Client) -> None:
    for answer in both(client, spine()):
        frame = answer.to_pandas()
        assert frame["whole"].dtype == pandas.Int64Dtype() and frame["whole"][0] == BIG
        assert frame["flag"].dtype == pandas.BooleanDtype() and frame["small"].dtype == pandas.Int32Dtype()
        assert str(frame["seen"].dtype) == "datetime64[us, UTC]"
        assert frame["seen"][2] == pandas.Timestamp("1960-01-01T00:00:00.000001Z")
        assert list(frame["ids"][0]) == [BIG, None] and frame["day"][0] == dt.date(2024, 2, 29)
        assert frame["embedding"][0].dtype == "float32"


def test_polars_changes_no_value(client: asof.Client) -> None:
    for answer in both(client, spine()):
        frame = answer.to_polars()
        assert frame["whole"].to_list() == [BIG, None, -(2**63)]
        assert frame.schema["seen"] == polars.Datetime("us", "UTC") and frame.schema["half"] == polars.Float32
        assert frame["ids"].to_list() == [[BIG, None], None, []]


EASTERN = pandas.Series([NOW] * 3).dt.tz_convert("America/New_York")
FORMS: dict[str, Any] = {
    "categories": {"name": pandas.Series(["a", "b", "c"], dtype="category")},
    "a dictionary array": {"name": pa.array(["a", "b", "c"]).dictionary_encode()},
    "nullable integers": {"id": pandas.Series(KEYS, dtype="Int64")},
    "integers of Arrow": {"id": pandas.Series(KEYS, dtype="int64[pyarrow]")},
    "unsigned integers": {"id": pa.array(KEYS, pa.uint64())},
    "large strings": {"name": pa.array(["a", "b", "c"], pa.large_string())},
    "string views": {"name": pa.array(["a", "b", "c"], pa.string_view())},
    "pandas strings": {"name": pandas.Series(["a", "b", "c"], dtype="string")},
    "a zone": {"event_timestamp": EASTERN},
    "nanoseconds with a zone": {"event_timestamp": EASTERN.dt.as_unit("ns")},
    "no zone": {"event_timestamp": pandas.Series([NOW.replace(tzinfo=None)] * 3)},
    "milliseconds": {"event_timestamp": pa.array([NOW] * 3, pa.timestamp("ms", "UTC"))},
}


@pytest.mark.parametrize("form", FORMS)
def test_keys_and_times_come_in_many_types(client: asof.Client, form: str) -> None:
    columns = {name: pa.array(values) for name, values in FORMS[form].items()}
    table = spine()
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    frame = table.to_pandas(types_mapper={pa.int64(): pandas.Int64Dtype()}.get)
    for entities in (table, frame, {name: table[name] for name in table.column_names}):
        for answer in both(client, entities):
            assert answer.to_dict()["whole"] == COLUMNS["whole"][2]


def test_columns_that_are_carried_along_come_back_as_they_were(client: asof.Client) -> None:
    carried = {
        "label": pa.array([1, None, BIG]),
        "segment": pa.array(["x", None, "x"]).dictionary_encode(),
        "local": pa.array([NOW] * 3, pa.timestamp("ns", "America/New_York")),
        "price": pa.array([Decimal("1.10"), None, Decimal("-3.00")], pa.decimal128(10, 2)),
        "tags": pa.array([["a"], None, []], pa.list_(pa.large_string())),
        "tiny": pa.array([1, None, 255], pa.uint8()),
    }
    for answer in both(client, spine(**carried)):
        table = answer.to_arrow()
        for name, values in carried.items():
            assert table.schema.field(name).type.equals(values.type), name
            assert table[name].to_pylist() == values.to_pylist(), name
        assert list(answer.to_pandas()["label"]) == [1, pandas.NA, BIG]


def test_decimals_are_refused_with_advice(client: asof.Client) -> None:
    keys = pa.array([Decimal(1)] * 3, pa.decimal128(20, 0))
    table = spine().set_column(0, "id", keys)
    with pytest.raises(asof.InvalidError, match=r"column `id`.*decimal.*int64"):
        client.get_online_features(features=["every"], entities=table, now=NOW)
    with pytest.raises(asof.InvalidError, match=r"column `id`.*[Dd]ecimal.*int64.*; cast it to that, or send it as text"):
        client.get_batch_features(features=["every"], entities=table, timestamp_column="event_timestamp")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", pa.array([1.5, 2.0, 3.0])),
        ("id", pa.array(["one", "2", "3"])),
        ("id", pa.array([True, False, True])),
        ("name", pa.array([1, 2, 3])),
    ],
)
def test_keys_that_would_change_are_refused_by_name(client: asof.Client, column: str, values: pa.Array) -> None:
    table = spine()
    table = table.set_column(table.column_names.index(column), column, values)
    with pytest.raises(asof.InvalidError, match=f"`{column}`"):
        client.get_online_features(features=["every"], entities=table, now=NOW)
    with pytest.raises(asof.InvalidError, match=f"`{column}`"):
        client.get_batch_features(features=["every"], entities=table, timestamp_column="event_timestamp")


@pytest.mark.parametrize(
    ("ids", "known"),
    [
        (pa.array([str(BIG), None, "3"]), [True, False, True]),
        (pa.array([str(BIG), None, "3"], pa.large_string()), [True, False, True]),
        (pa.array([str(BIG), None, "3"]).dictionary_encode(), [True, False, True]),
        (pa.array([str(2**63), "-9223372036854775809", "3"]), [False, False, True]),
        (pa.array([BIG, None, 3]).dictionary_encode(), [True, False, True]),
        (pa.array([2**63, 2, 3], pa.uint64()), [False, True, True]),
        (pa.array([Decimal(1), Decimal(2), None], pa.decimal128(9, 0)), [False, True, False]),
        (pa.array([None, 2.0, 3.0]), [False, True, True]),
    ],
)
def test_keys_of_other_types_are_the_same_keys_in_both(client: asof.Client, ids: pa.Array, known: list[bool]) -> None:
    for answer in both(client, spine().set_column(0, "id", ids)):
        assert [value is not None for value in answer.to_dict()["half"]] == [
            is_known and value is not None for is_known, value in zip(known, COLUMNS["half"][2], strict=True)
        ]
        assert answer.to_arrow()["id"].combine_chunks().equals(ids)


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_times_beyond_the_calendar_are_times(client: asof.Client, zone: str | None) -> None:
    far = pa.array([2**63 - 1, -(2**63), 0], pa.timestamp("us", zone))
    with pytest.warns(asof.AsofWarning, match="later rows are answered from what there is"):
        answer = client.get_batch_features(["every"], spine().set_column(2, "event_timestamp", far), statuses=True)
    assert answer.to_arrow()["half__status"].to_pylist() == ["PRESENT", "NOT_FOUND", "NOT_FOUND"]
    assert answer.to_arrow()["event_timestamp"].combine_chunks().equals(far)
