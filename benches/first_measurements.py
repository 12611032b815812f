"""Measures the main road: materialization, the batch join beside DuckDB and Polars, online reads, stored bytes.

Every number is a median; peers run in turn with Asof, each as a process of its own, on the same files, and their
answers are compared. What carries over from one machine to another is the ratio, not the time.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = 1_700_000_000_000_000
SPAN = 90 * 86_400_000_000
FEATURES = [f"i{n}" for n in range(3)] + [f"f{n}" for n in range(7)]

DEFINITIONS = """
entities: [{name: customer, join_keys: [{name: customer, type: int64}]}]
sources:
  - {name: orders, batch: {format: parquet, path: orders.parquet}, event_timestamp: ordered_at}
  - {name: wide, batch: {format: parquet, path: wide.parquet}, event_timestamp: ordered_at}
feature_views:
  - {name: orders, entities: [customer], source: orders, ttl: 30d, features: [ORDERS]}
  - {name: wide, entities: [customer], source: wide, features: [WIDE]}
feature_services:
  - {name: orders_v1, features: [orders]}
  - {name: wide_v1, features: [wide]}
"""

DUCKDB = """
import duckdb, sys
c = duckdb.connect()
c.execute('''COPY (SELECT s.*, CASE WHEN o.ordered_at >= s.event_timestamp - INTERVAL 30 DAY THEN 1 END AS fresh, FEATURES
  FROM 'spine.parquet' s ASOF LEFT JOIN 'orders.parquet' o
    ON s.customer = o.customer AND s.event_timestamp >= o.ordered_at) TO 'duckdb.parquet' (FORMAT parquet)''')
"""

POLARS = """
import polars as pl
s = pl.read_parquet('spine.parquet').sort('event_timestamp')
o = pl.read_parquet('orders.parquet').sort('ordered_at')
s.join_asof(o, left_on='event_timestamp', right_on='ordered_at', by='customer', tolerance='30d',
            check_sortedness=False).write_parquet('polars.parquet')
"""


def write_data(folder: Path, rows: int, keys: int, spine_rows: int) -> None:
    random = np.random.default_rng(1)
    times = np.sort(random.integers(0, SPAN, rows)) + START
    # Distinct (key, time): no engine has a tie to break its own way.
    columns: dict[str, Any] = {
        "customer": pa.array(random.integers(0, keys, rows)),
        "ordered_at": pa.array(times, pa.timestamp("us", "UTC")),
    }
    for name in FEATURES:
        is_null = random.random(rows) < (0.1 if name in ("i0", "f0", "f1") else 0)
        values = random.integers(0, 1 << 40, rows) if name[0] == "i" else random.random(rows)
        columns[name] = pa.array(values, mask=is_null)
    pq.write_table(pa.table(columns), folder / "orders.parquet")
    spine = {
        "row": pa.array(np.arange(spine_rows)),
        "customer": pa.array(random.integers(0, keys, spine_rows)),
        "event_timestamp": pa.array(random.integers(0, SPAN, spine_rows) + START, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(spine), folder / "spine.parquet")
    wide_rows = min(rows // 10, 100_000)
    wide = {
        "customer": pa.array(np.arange(wide_rows)),
        "ordered_at": pa.array(random.integers(0, SPAN, wide_rows) + START, pa.timestamp("us", "UTC")),
    }
    wide |= {f"w{n}": pa.array(random.random(wide_rows)) for n in range(50)}
    pq.write_table(pa.table(wide), folder / "wide.parquet")


def write_project(folder: Path) -> None:
    (folder / "asof.yaml").write_text("project: bench\n")
    (folder / "feature_defs").mkdir()
    types = {"i": "int64", "f": "float64"}
    orders = ", ".join(f"{{name: {name}, type: {types[name[0]]}}}" for name in FEATURES)
    wide = ", ".join(f"{{name: w{n}, type: float64}}" for n in range(50))
    text = DEFINITIONS.replace("ORDERS", orders).replace("WIDE", wide)
    (folder / "feature_defs/bench.yaml").write_text(text)


def timed(folder: Path, command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of one process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def document(folder: Path, *arguments: str) -> Any:
    run = subprocess.run([*arguments, "--output", "json"], cwd=folder, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout)


def measure_materialization(folder: Path, asof: str) -> None:
    views = document(folder, asof, "materialize")["views"]
    print(f"\n{'materialize':24}{'rows':>12}{'s to Delta':>12}{'rows/s':>12}{'s to RocksDB':>14}{'rows/s':>12}")
    for view in views:
        rows, seconds, upload = view["rows_written"], view["seconds"], view["upload_seconds"]
        print(f"{view['view']:24}{rows:12,}{seconds:12.2f}{rows / seconds:12,.0f}{upload:14.2f}{rows / upload:12,.0f}")


def measure_join(folder: Path, asof: str, runs: int) -> None:
    python = sys.executable
    duckdb = DUCKDB.replace("FEATURES", ", ".join(f"o.{name}" for name in FEATURES))
    batch = [asof, "get-batch-features", "--service", "orders_v1", "--entities", "spine.parquet"]
    contestants = {
        "asof": [*batch, "--out", "asof.parquet"],
        "asof --from-source": [*batch, "--from-source", "--out", "asof_source.parquet"],
        "duckdb": [python, "-c", duckdb],
        "polars": [python, "-c", POLARS],
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(runs + 1):
        for name, command in contestants.items():
            measured[name].append(timed(folder, command))
    rows = pq.read_metadata(folder / "spine.parquet").num_rows
    median = {name: statistics.median(m[0] for m in runs_[1:]) for name, runs_ in measured.items()}
    memory = {name: statistics.median(m[1] for m in runs_[1:]) for name, runs_ in measured.items()}
    print(f"\n{'batch join':24}{'seconds':>12}{'spine rows/s':>14}{'peak MB':>10}{'time / asof':>13}{'memory / asof':>15}")
    for name in contestants:
        ratio, memory_ratio = median[name] / median["asof"], memory[name] / memory["asof"]
        print(f"{name:24}{median[name]:12.2f}{rows / median[name]:14,.0f}{memory[name]:10.0f}{ratio:13.2f}{memory_ratio:15.2f}")
    check_equal(folder)


def check_equal(folder: Path) -> None:
    expected = pq.read_table(folder / "asof.parquet").sort_by("row").select(["row", *FEATURES])
    duckdb = pq.read_table(folder / "duckdb.parquet").sort_by("row")
    stale = pa.compute.is_null(duckdb["fresh"])
    for name in FEATURES:
        fresh = pa.compute.if_else(stale, pa.scalar(None, duckdb[name].type), duckdb[name])
        duckdb = duckdb.set_column(duckdb.schema.get_field_index(name), name, fresh)
    others = {
        "asof --from-source": pq.read_table(folder / "asof_source.parquet").sort_by("row"),
        "duckdb": duckdb,
        "polars": pq.read_table(folder / "polars.parquet").sort_by("row"),
    }
    for name, table in others.items():
        if not table.select(["row", *FEATURES]).cast(expected.schema).equals(expected):
            sys.exit(f"the answers of asof and {name} differ")
    print("all answers are equal")


def measure_online(folder: Path, asof: str, seconds: float) -> None:
    command = [asof, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            text += server.stdout.readline()
        print(f"\n{'online':10}{'entities':>10}{'in flight':>11}{'requests/s':>12}{'values/s':>14}{'p50 us':>9}{'p99 us':>9}")
        for service in ("orders_v1", "wide_v1"):
            for entities, concurrency in ((1, 1), (1, 16), (10, 16), (100, 1), (100, 16)):
                load = ["--entities", str(entities), "--concurrency", str(concurrency), "--seconds", str(seconds)]
                m = document(folder, asof, "bench-serve", "--service", service, *load)
                if m["errors"]:
                    sys.exit(f"{m['errors']} requests failed")
                print(
                    f"{service:10}{entities:10}{concurrency:11}{m['requests_per_second']:12,.0f}"
                    f"{m['values_per_second']:14,.0f}{m['p50_us']:9,}{m['p99_us']:9,}"
                )
    finally:
        server.terminate()
        server.wait()


def measure_bytes(folder: Path, asof: str) -> None:
    """Of the 50-feature view alone."""
    shutil.rmtree(folder / "state/online")
    document(folder, asof, "materialize", "wide")
    stored = sum(file.stat().st_size for file in (folder / "state/online/db").glob("*.sst"))
    rows = pq.read_metadata(folder / "wide.parquet").num_rows
    print(f"\n{stored / rows / 50:.2f} bytes a stored float64 value ({rows:,} rows x 50 features, random bits)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asof", required=True)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--spine-rows", type=int, default=500_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each online measurement")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, arguments.rows, arguments.keys, arguments.spine_rows)
        write_project(folder)
        document(folder, arguments.asof, "apply", "--yes")
        measure_materialization(folder, arguments.asof)
        measure_join(folder, arguments.asof, arguments.runs)
        measure_online(folder, arguments.asof, arguments.seconds)
        measure_bytes(folder, arguments.asof)


if __name__ == "__main__":
    main()
