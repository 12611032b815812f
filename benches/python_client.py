"""Measures what the Python client adds: to a batch question over the command line's time, to an online call over the
server's; and Feast's SDK beside it, where ASOF_FEAST_PYTHON names a Python that has it.

    python benches/python_client.py --asof COMMAND [--spine ROWS] [--rounds N] [--calls N]

Batch: a Parquet spine to a Parquet answer with ten features a row, by `asof get-batch-features` and by the client, one
after the other in every round; and into a pandas frame. Online: one entity, then a hundred, with fifty features each;
`asof bench-serve` stands for the server and the transport. All numbers are medians.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import asof

KEYS = 10_000
ROWS = 1_000_000
BATCH_FEATURES = [f"value_{number}" for number in range(10)]
ONLINE_FEATURES = [f"profile_{number}" for number in range(50)]
START_US = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
SPAN_US = 90 * 86_400_000_000
MICROS = pa.timestamp("us", "UTC")


def write_project(folder: Path, spine_rows: int) -> None:
    """Events with ten values over 90 days, a profile of fifty values a key, and a spine in random order."""
    random = np.random.default_rng(1)

    def times(count: int) -> pa.Array:
        return pa.array(random.integers(START_US, START_US + SPAN_US, count), MICROS)

    order = pa.array(np.sort(random.integers(START_US, START_US + SPAN_US, ROWS)), MICROS)
    events = {"key": pa.array(random.integers(0, KEYS, ROWS)), "event_timestamp": order}
    pq.write_table(pa.table(events | {name: random.random(ROWS) for name in BATCH_FEATURES}), folder / "events.parquet")
    profiles = {"key": pa.array(range(KEYS)), "event_timestamp": pa.array([START_US] * KEYS, MICROS)}
    profiles |= {name: random.random(KEYS) for name in ONLINE_FEATURES}
    pq.write_table(pa.table(profiles), folder / "profiles.parquet")
    spine = {"key": pa.array(random.integers(0, KEYS, spine_rows)), "event_timestamp": times(spine_rows)}
    pq.write_table(pa.table(spine), folder / "spine.parquet")
    entity = asof.Entity(name="key", join_keys=[asof.Field("key", "int64")])
    views = [
        asof.FeatureView(
            name=name,
            entities=[entity],
            source=asof.Source(
                name=name, batch=asof.Batch("parquet", f"{name}.parquet"), event_timestamp="event_timestamp"
            ),
            features=[asof.Field(feature, "float64") for feature in features],
        )
        for name, features in (("events", BATCH_FEATURES), ("profiles", ONLINE_FEATURES))
    ]
    services = [asof.FeatureService(name=f"{view.name}_v1", features=[view]) for view in views]
    asof.DefinitionSet(services).write(folder / "feature_defs/all.yaml")
    (folder / "asof.yaml").write_text("project: bench\n")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_batch(store: asof.Local, binary: str, rounds: int) -> None:
    spine, out = store.project / "spine.parquet", store.project / "out.parquet"

    def command() -> None:
        arguments = ["get-batch-features", "--service", "events_v1", "--entities", str(spine), "--out", str(out)]
        subprocess.run([binary, "--project", store.project, *arguments], check=True, capture_output=True)

    def client() -> None:
        pq.write_table(store.get_batch_features("events_v1", pq.read_table(spine)).to_arrow(), out)

    def stream() -> None:
        with pq.ParquetFile(spine) as file:
            reader = pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches())
            with (
                store.stream_batch_features("events_v1", reader) as answer,
                pq.ParquetWriter(out, answer.schema) as writer,
            ):
                for batch in answer:
                    writer.write_batch(batch)

    def pandas() -> None:
        store.get_batch_features("events_v1", pq.read_table(spine)).to_pandas()

    ways = {"the command, file to file": command, "the client, file to file": client}
    ways |= {"the client, streamed": stream, "the client, into pandas": pandas}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            took = seconds(work)
            if number:  # The first round warms up.
                taken[name].append(took)
    rows = pq.read_metadata(spine).num_rows
    base = statistics.median(taken["the command, file to file"])
    print(f"\n{rows:,} spine rows, {len(BATCH_FEATURES)} features | seconds | rows/s | to the command\n---|---|---|---")
    for name, each in taken.items():
        median = statistics.median(each)
        print(f"{name} | {median:.2f} | {rows / median:,.0f} | {median / base:.2f}")


def micros(call: Callable[[], object], calls: int) -> float:
    """The median of a call."""
    for _ in range(calls // 10 + 1):
        call()
    return statistics.median(seconds(call) for _ in range(calls)) * 1e6


def measure_online(store: asof.Local, binary: str, rounds: int, calls: int) -> dict[int, float]:
    """Medians in microseconds by the number of entities."""
    medians = {}
    print(f"\n{len(ONLINE_FEATURES)} features | entities | p50 us | over the server\n---|---|---|---")
    for count in (1, 100):
        entities = [{"key": key} for key in range(count)]
        rounds_of: dict[str, list[float]] = {"bench-serve": [], "call": [], "call and to_dict()": []}
        for _ in range(rounds):
            arguments = ["bench-serve", "--service", "profiles_v1", "--entities", str(count), "--concurrency", "1"]
            done = subprocess.run(
                [binary, "--project", store.project, *arguments, "--seconds", "2", "--output", "json"],
                check=True,
                capture_output=True,
            )
            rounds_of["bench-serve"].append(json.loads(done.stdout)["p50_us"])
            call = partial(store.get_online_features, "profiles_v1", entities)
            rounds_of["call"].append(micros(call, calls))
            rounds_of["call and to_dict()"].append(micros(lambda call=call: call().to_dict(), calls))
        base = statistics.median(rounds_of["bench-serve"])
        for name, each in rounds_of.items():
            median = statistics.median(each)
            print(f"{name} | {count} | {median:.0f} | {median - base:+.0f}")
            medians[count] = median
    return medians


FEAST = """
import json, statistics, sys, time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64
folder, calls = Path(sys.argv[1]), int(sys.argv[2])
names = json.loads(sys.argv[3])
store = FeatureStore(config=RepoConfig(
    project="bench", provider="local", registry=str(folder / "registry.db"), entity_key_serialization_version=3,
    online_store={"type": "sqlite", "path": str(folder / "online.db")}, offline_store={"type": "dask"}))
key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
source = FileSource(name="profiles", path=str(folder / "few.parquet"), timestamp_field="event_timestamp")
view = FeatureView(name="profiles", entities=[key], ttl=timedelta(0), source=source,
                   schema=[Field(name=name, dtype=Float64) for name in names])
store.apply([key, view])
store.materialize(datetime(2023, 12, 31, tzinfo=timezone.utc), datetime(2024, 1, 2, tzinfo=timezone.utc))
features = [f"profiles:{name}" for name in names]
medians = {}
for count in (1, 100):
    rows = [{"key": key} for key in range(count)]
    taken = []
    for number in range(max(20, calls // count)):
        started = time.perf_counter()
        store.get_online_features(features=features, entity_rows=rows).to_dict()
        taken.append(time.perf_counter() - started)
    medians[count] = statistics.median(taken[len(taken) // 10:]) * 1e6
print("\\n" + json.dumps(medians))
"""


def measure_feast(folder: Path, ours: dict[int, float], calls: int) -> None:
    python = os.environ.get("ASOF_FEAST_PYTHON")
    if python is None:
        print("\nASOF_FEAST_PYTHON names no Python that has feast: not measured beside it")
        return
    pq.write_table(pq.read_table(folder / "profiles.parquet").slice(0, 100), folder / "few.parquet")
    done = subprocess.run(
        [python, "-W", "ignore", "-c", FEAST, folder, str(calls), json.dumps(ONLINE_FEATURES)],
        check=True,
        capture_output=True,
        text=True,
    )
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    print("\nFeast's SDK, in process, SQLite | entities | p50 us | to the client's call and to_dict()\n---|---|---|---")
    for count, median in theirs.items():
        print(f"get_online_features, to_dict() | {count} | {median:.0f} | {median / ours[int(count)]:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asof", required=True)
    parser.add_argument("--spine", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    binary = str(Path(options.asof).resolve())
    os.environ["ASOF_BIN"] = binary
    folder = Path(tempfile.mkdtemp())
    try:
        write_project(folder, options.spine)
        with asof.Local(folder, timeout=None) as store:
            store.apply()
            store.materialize(end="2025-01-01")
            measure_batch(store, binary, options.rounds)
            ours = measure_online(store, binary, options.rounds, options.calls)
        measure_feast(folder, ours, options.calls)
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
