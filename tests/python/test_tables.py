"""Other engines read the views' tables as they are, and a value keeps its type and bits on the whole road."""

import datetime as dt
import json
import os
import subprocess
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import Run
from deltalake import DeltaTable

UTC = dt.timezone.utc
EVENTS = [dt.datetime(2024, 1, 1, 0, 0, 0, 1, UTC), dt.datetime(1931, 5, 6, 7, 8, 9, 999_999, UTC)]
BIG = 2**53 + 1

VALUES = {
    "flag": pa.array([True, None]),
    "small": pa.array([-(2**31), None], pa.int32()),
    "big": pa.array([BIG, None], pa.int64()),
    "single": pa.array([0.1, None], pa.float32()),
    "double": pa.array([-0.0, None], pa.float64()),
    "text": pa.array(["", None]),
    "raw": pa.array([b"\x00\xff", None], pa.binary()),
    "moment": pa.array([EVENTS[1], None], pa.timestamp("us", "UTC")),
    "day": pa.array([dt.date(1969, 12, 31), None], pa.date32()),
    "embedding": pa.array([[0.1, None, 3.5], None], pa.list_(pa.float32())),
    "ids": pa.array([[BIG], []], pa.list_(pa.int64())),
    "names": pa.array([["a", ""], None], pa.list_(pa.string())),
}
TYPES = ["bool", "int32", "int64", "float32", "float64", "string", "bytes", "timestamp", "date"]
TYPES += ["list<float32>", "list<int64>", "list<string>"]


def make_project(folder: Path) -> None:
    table = pa.table({"key": pa.array([1, 2]), "at": pa.array(EVENTS, pa.timestamp("us", "UTC")), **VALUES})
    pq.write_table(table, folder / "rows.parquet")
    features = ", ".join(f"{{name: {name}, type: '{type_}'}}" for name, type_ in zip(VALUES, TYPES, strict=True))
    (folder / "asof.yaml").write_text("project: types\n")
    (folder / "feature_defs").mkdir()
    (folder / "feature_defs/all.yaml").write_text(
        f"""
entities: [{{name: thing, join_keys: [{{name: key, type: int64}}]}}]
sources: [{{name: rows, batch: {{format: parquet, path: rows.parquet}}, event_timestamp: at}}]
feature_views: [{{name: all_types, entities: [thing], source: rows, features: [{features}]}}]
"""
    )


def test_a_value_keeps_its_type_and_bits(tmp_path: Path, run: Run) -> None:
    make_project(tmp_path)
    run("apply", "--yes")
    run("materialize")
    stored = DeltaTable(str(tmp_path / "state/offline/views/all_types")).to_pyarrow_table().sort_by("key")
    spine = pa.table({"key": [1, 2, 3], "event_timestamp": pa.array([dt.datetime(2025, 1, 1)] * 3, pa.timestamp("us", "UTC"))})
    pq.write_table(spine, tmp_path / "spine.parquet")
    run("get-batch-features", "--features", "all_types", "--entities", "spine.parquet", "--out", "out.parquet")
    answer = pq.read_table(tmp_path / "out.parquet")
    online = run("get-online-features", "--features", "all_types", "--entity", "key=1", "--entity", "key=2")
    columns = {column["name"]: column for column in online["columns"]}
    for name, expected in VALUES.items():
        for table in (stored, answer):
            found = table[name].combine_chunks().slice(0, 2)
            assert found.cast(expected.type).equals(expected), name
            assert str(found.type) == str(expected.type).replace("item", "element") or found.type == expected.type, name
        assert answer[name][2].as_py() is None
        assert columns[name]["values"] == [as_json(value) for value in expected], name
    assert columns["big"]["values"][0] == BIG


def as_json(value: pa.Scalar) -> object:
    """What JSON shows of a value."""
    if value.as_py() is None:
        return None
    if pa.types.is_list(value.type):
        return [as_json(item) for item in value]
    if pa.types.is_timestamp(value.type):
        return value.as_py().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if pa.types.is_date(value.type):
        return value.as_py().isoformat()
    if pa.types.is_binary(value.type):
        return "AP8="
    if pa.types.is_float32(value.type):
        return json.loads(str(pd.Series([value.as_py()], dtype="float32").to_numpy()[0]))
    return value.as_py()


def test_other_engines_read_the_tables(tmp_path: Path, run: Run) -> None:
    make_project(tmp_path)
    run("apply", "--yes")
    run("materialize")
    path = str(tmp_path / "state/offline/views/all_types")
    assert DeltaTable(path).to_pandas().shape == (2, 3 + len(VALUES))
    frame = pl.read_delta(path).sort("key")
    assert frame["big"].to_list() == [BIG, None]
    assert frame.columns[:3] == ["key", "event_timestamp", "created_timestamp"]
    files = DeltaTable(path).file_uris()
    assert duckdb.sql(f"SELECT count(*), max(big) FROM read_parquet({files!r})").fetchall() == [(2, BIG)]


def test_late_and_restated_rows_reach_both_stores(tmp_path: Path, run: Run) -> None:
    (tmp_path / "asof.yaml").write_text("project: late\n")
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "feature_defs/all.yaml").write_text(
        """
entities: [{name: thing, join_keys: [{name: key, type: string}]}]
sources: [{name: rows, batch: {format: csv, path: rows.csv}, event_timestamp: at, created_timestamp: written}]
feature_views: [{name: v, entities: [thing], source: rows, features: [{name: x, type: int64}]}]
"""
    )
    (tmp_path / "rows.csv").write_text("key,at,written,x\n007,2024-01-10,2024-01-10,1\n")
    run("apply", "--yes")
    run("materialize", "--end", "2024-02-01")

    def answers() -> list[object]:
        found = []
        for day in ("2024-01-05", "2024-01-15"):
            now = run("get-online-features", "--features", "v", "--entity", "key=007", "--now", day)
            (tmp_path / "spine.csv").write_text(f"key,event_timestamp\n007,{day}\n")
            run("get-batch-features", "--features", "v", "--entities", "spine.csv", "--out", "out.ndjson")
            batch = json.loads((tmp_path / "out.ndjson").read_text())
            assert batch["x"] == now["columns"][1]["values"][0]
            found.append(batch["x"])
        return found

    assert answers() == [None, 1]
    # An older row arrives late, and the newest one is corrected and then restated.
    (tmp_path / "rows.csv").write_text(
        "key,at,written,x\n007,2024-01-10,2024-01-10,1\n007,2024-01-01,2024-01-20,2\n007,2024-01-10,2024-01-21,3\n"
    )
    run("materialize", "--start", "2024-01-01", "--end", "2024-02-01")
    assert answers() == [2, 3]
    (tmp_path / "rows.csv").write_text("key,at,written,x\n007,2024-01-01,2024-01-20,4\n")
    run("materialize", "--start", "2024-01-01", "--end", "2024-02-01")
    assert answers() == [4, 4]


def test_an_answer_can_be_made_anew(tmp_path: Path, run: Run) -> None:
    (tmp_path / "asof.yaml").write_text("project: anew\n")
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "feature_defs/all.yaml").write_text(
        """
entities: [{name: thing, join_keys: [{name: key, type: string}]}]
sources: [{name: rows, batch: {format: csv, path: rows.csv}, event_timestamp: at}]
feature_views: [{name: v, entities: [thing], source: rows, features: [{name: x, type: int64}]}]
"""
    )
    (tmp_path / "rows.csv").write_text("key,at,x\na,2024-01-10,1\nb,2024-01-11,2\n")
    (tmp_path / "spine.csv").write_text("key,event_timestamp\nb,2024-02-01\na,2024-02-01\n")
    run("apply", "--yes")
    run("materialize", "--end", "2024-03-01")

    def ask(out: str, *more: str) -> bytes:
        run("get-batch-features", "--features", "v", "--entities", "spine.csv", "--out", out, *more)
        return (tmp_path / out).read_bytes()

    first = ask("first.parquet")
    record = json.loads((tmp_path / "first.parquet.asof.json").read_text())
    assert record["registry_version"] == 1
    (tmp_path / "rows.csv").write_text("key,at,x\na,2024-01-10,7\nb,2024-01-11,8\n")
    run("materialize", "--start", "2024-01-01", "--end", "2024-03-01")
    run("optimize")
    newer = ask("newer.parquet")
    assert pq.read_table(tmp_path / "newer.parquet")["x"].to_pylist() == [8, 7]
    assert newer != first
    assert ask("again.parquet", "--at-version", "first.parquet.asof.json") == first
    assert ask("named.parquet", "--at-version", f"v={record['table_versions']['v']}") == first


def test_optimizing_changes_files_but_no_row(tmp_path: Path, run: Run) -> None:
    (tmp_path / "asof.yaml").write_text("project: small_runs\n")
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "feature_defs/all.yaml").write_text(
        """
entities: [{name: thing, join_keys: [{name: key, type: int64}]}]
sources: [{name: rows, batch: {format: csv, path: rows.csv}, event_timestamp: at}]
feature_views: [{name: v, entities: [thing], source: rows, lookback: 1ms, features: [{name: x, type: int64}]}]
"""
    )
    days = [f"2024-01-{day:02}" for day in range(1, 11)]
    lines = [f"{key},{day},{key * 100 + number}" for key in range(20) for number, day in enumerate(days)]
    (tmp_path / "rows.csv").write_text("\n".join(["key,at,x", *lines]))
    run("apply", "--yes")
    for day in days:
        run("materialize", "--end", f"{day}T12:00:00Z")
    path = str(tmp_path / "state/offline/views/v")
    before = DeltaTable(path)
    rows = before.to_pyarrow_table().sort_by([("key", "ascending"), ("event_timestamp", "ascending")])
    assert len(before.file_uris()) == len(days)
    assert not run("status")["views"][0]["online_is_behind"]
    assert run("optimize", "v")["views"][0]["files_before"] == len(days)
    after = DeltaTable(path)
    assert len(after.file_uris()) < len(days)
    assert after.to_pyarrow_table().sort_by([("key", "ascending"), ("event_timestamp", "ascending")]).equals(rows)
    assert not run("status")["views"][0]["online_is_behind"]
    assert run("materialize", "--end", "2024-01-10T12:00:00Z")["views"][0]["rows_uploaded"] == 0
    online = run("get-online-features", "--features", "v", "--entity", "key=7", "--now", "2024-01-04T13:00:00Z")
    assert online["columns"][1]["values"] == [703]
    assert run("optimize", "v")["views"] == []


def test_files_of_one_source_may_encode_their_columns_each_in_its_way(tmp_path: Path, run: Run) -> None:
    (tmp_path / "asof.yaml").write_text("project: encodings\n")
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "feature_defs/all.yaml").write_text(
        """
entities: [{name: thing, join_keys: [{name: key, type: string}]}]
sources: [{name: rows, batch: {format: parquet, path: rows}, event_timestamp: at}]
feature_views:
  - name: v
    entities: [thing]
    source: rows
    features: [{name: text, type: string}, {name: raw, type: bytes}, {name: words, type: list<string>}]
  - name: counts
    entities: [thing]
    sources: [rows]
    sql: "SELECT key, at AS event_timestamp, text || '!' AS loud FROM rows WHERE key <> 'zz'"
    features: [{name: loud, type: string}]
"""
    )
    (tmp_path / "rows").mkdir()
    texts = [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string()), pa.string_view()]
    raws = [pa.binary(), pa.large_binary(), pa.binary(2), pa.binary_view(), pa.binary()]
    lists = [pa.list_, pa.large_list, lambda item: pa.list_(item, 1), pa.list_, pa.large_list]
    at = pa.timestamp("us", "UTC")
    for number, (text, raw, listed) in enumerate(zip(texts, raws, lists, strict=True)):
        columns = {
            "key": pa.array([f"k{number}", "same"]).cast(text),
            "at": pa.array([dt.datetime(2024, 1, 1 + number, tzinfo=UTC)] * 2, at),
            "text": pa.array([f"t{number}", None]).cast(text),
            "raw": pa.array([b"\x00\xff", None], raw),
            "words": pa.array([[f"w{number}"], ["x"]], listed(pa.large_string() if number == 1 else pa.string())),
        }
        pq.write_table(pa.table(columns), tmp_path / f"rows/{number}.parquet")
    run("apply", "--yes")
    run("materialize", "--end", "2024-02-01")
    spine = "".join(f"k{number},2024-02-01\n" for number in range(5))
    (tmp_path / "spine.csv").write_text(f"key,event_timestamp\n{spine}same,2024-01-03\n")
    for more in ([], ["--from-source"]):
        run("get-batch-features", "--features", "v,counts", "--entities", "spine.csv", "--out", "out.parquet", *more)
        answer = pq.read_table(tmp_path / "out.parquet")
        assert answer["text"].to_pylist() == [f"t{number}" for number in range(5)] + [None]
        assert answer["loud"].to_pylist() == [f"t{number}!" for number in range(5)] + [None]
        assert answer["raw"].to_pylist() == [b"\x00\xff"] * 5 + [None]
        assert answer["words"].to_pylist() == [[f"w{number}"] for number in range(5)] + [["x"]]
    online = run("get-online-features", "--features", "v", "--entity", "key=k3", "--now", "2024-02-01")
    assert online["columns"][1]["values"] == ["t3"]
    numbers = pa.table({"key": ["k9"], "at": pa.array([dt.datetime(2024, 1, 9)], at), "text": [9]})
    pq.write_table(numbers, tmp_path / "rows/9.parquet")
    refused = subprocess.run([os.environ["ASOF_BIN"], "validate"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "`rows/9.parquet` has columns of other types" in refused.stderr


def test_a_gap_between_runs_is_filled_by_the_next_and_told_before(tmp_path: Path, run: Run) -> None:
    at = [dt.datetime(2024, month, day, tzinfo=UTC) for month, day in ((1, 1), (1, 10), (2, 2))]
    pq.write_table(pa.table({"key": [1, 1, 1], "at": pa.array(at, pa.timestamp("us", "UTC")), "x": [1, 10, 100]}), tmp_path / "rows.parquet")
    (tmp_path / "asof.yaml").write_text("project: gaps\n")
    (tmp_path / "feature_defs").mkdir()
    definitions = """
entities: [{name: thing, join_keys: [{name: key, type: int64}]}]
sources: [{name: rows, batch: {format: parquet, path: rows.parquet}, event_timestamp: at}]
feature_views:
  - name: sums
    entities: [thing]
    source: rows
    where: x < LIMIT
    aggregations: [{input: x, function: sum, windows: [lifetime], name: total}]
"""
    (tmp_path / "feature_defs/all.yaml").write_text(definitions.replace("LIMIT", "1000"))
    (tmp_path / "spine.csv").write_text("key,event_timestamp\n1,2024-02-03T00:00:00Z\n")

    def answer() -> tuple[int, str]:
        done = run("get-batch-features", "--features", "sums", "--entities", "spine.csv", "--out", "out.parquet")
        return pq.read_table(tmp_path / "out.parquet")["total_lifetime"][0].as_py(), " ".join(done["warnings"])

    run("apply", "--yes")
    run("materialize", "--end", "2024-01-05")
    run("materialize", "--start", "2024-02-01", "--end", "2024-02-05")
    total, warning = answer()
    assert total == 101
    assert "is materialized until 2024-01-05" in warning
    run("materialize")
    assert answer() == (111, "")
    (tmp_path / "feature_defs/all.yaml").write_text(definitions.replace("LIMIT", "50"))
    run("apply", "--yes")
    total, warning = answer()
    assert total == 111
    assert "asof materialize sums" in warning
    run("materialize")
    assert answer() == (11, "")


def test_the_times_of_a_spine_may_be_texts(tmp_path: Path, run: Run) -> None:
    make_project(tmp_path)
    run("apply", "--yes")
    times = ["2025-01-01T00:00:00Z", "1931-05-06T07:08:09.999999Z", None]
    for name, column in (("texts", times), ("instants", pa.array([t and dt.datetime.fromisoformat(t) for t in times], pa.timestamp("us", "UTC")))):
        pq.write_table(pa.table({"key": [1, 2, 1], "event_timestamp": column}), tmp_path / f"{name}.parquet")
        files = ("--entities", f"{name}.parquet", "--out", f"{name}.out.parquet")
        run("get-batch-features", "--features", "all_types:big", "--from-source", *files)
    found, expected = (pq.read_table(tmp_path / f"{name}.out.parquet")["big"].to_pylist() for name in ("texts", "instants"))
    assert found == expected == [BIG, None, None]
