"""Measures online reads of sliding windows beside a plain row, and what more windows and more events add to them.

    python benches/window_aggregation_online.py --asof COMMAND [--scale small|default] [--rounds N] [--seconds S]

One server answers all; `asof bench-serve` asks with one request in flight, for one view after the other in every round,
and numbers are medians of the rounds. Requests for 100 entities show what an entity costs where the call itself does
not count. Every store has as many orders, evenly over the last 35 days; a dense store has ten times as many.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from windows.generate import amounts
from windows.workloads import DAY_US

STORES = {"small": 10, "default": 40}
ORDERS_A_STORE = 5_000
DENSITY = 10
SPAN_US = 35 * DAY_US
FUNCTIONS = ["count", "sum", "mean", "min", "max"]
FOUR = ["1h", "1d", "7d", "30d"]
EIGHT = ["1h", "3h", "12h", "1d", "3d", "7d", "14d", "30d"]


@dataclass(frozen=True)
class View:
    name: str
    source: str
    windows: list[str]


VIEWS = [
    View("four_windows", "orders", FOUR),
    View("one_window", "orders", ["30d"]),
    View("eight_windows", "orders", EIGHT),
    View("four_windows_dense", "dense_orders", FOUR),
    View("one_window_dense", "dense_orders", ["30d"]),
]
PLAIN = "plain_row"
# A row of the table: the view, what it is held against, and how many times its time it may take.
RATIOS = [
    ("four_windows", PLAIN, 3.0),
    ("four_windows_dense", PLAIN, 3.0),
    ("eight_windows", "one_window", 1.5),
    ("four_windows_dense", "four_windows", None),
    ("one_window_dense", "one_window", None),
]
PLAIN_FEATURES = [f"profile_{number}" for number in range(len(FOUR) * len(FUNCTIONS))]


def write_sources(folder: Path, stores: int) -> None:
    random = np.random.default_rng(1)
    now = time.time_ns() // 1000

    def write(name: str, rows: int, columns: dict[str, Any]) -> None:
        times = np.sort(random.integers(now - SPAN_US, now, rows))
        keys = {"store": pa.array(np.arange(rows) % stores), "ordered_at": pa.array(times, pa.timestamp("us", "UTC"))}
        pq.write_table(pa.table(keys | columns), folder / f"{name}.parquet")

    for name, density in (("orders", 1), ("dense_orders", DENSITY)):
        rows = stores * ORDERS_A_STORE * density
        write(name, rows, {"amount": pa.array(amounts(random, rows))})
    write("profiles", stores, {name: pa.array(random.random(stores)) for name in PLAIN_FEATURES})


def write_project(folder: Path) -> None:
    (folder / "asof.yaml").write_text("project: bench\n")
    (folder / "feature_defs").mkdir()
    names = ["orders", "dense_orders", "profiles"]
    batch = {name: f"batch: {{format: parquet, path: {name}.parquet}}" for name in names}
    sources = [f"  - {{name: {name}, {batch[name]}, event_timestamp: ordered_at}}\n" for name in names]
    features = ", ".join(f"{{name: {name}, type: float64}}" for name in PLAIN_FEATURES)
    views = [f"  - {{name: {PLAIN}, entities: [store], source: profiles, features: [{features}]}}\n"]
    for view in VIEWS:
        aggregations = ", ".join(
            f"{{name: {view.name}_{function}, input: amount, function: {function}, windows: [{', '.join(view.windows)}]}}"
            for function in FUNCTIONS
        )
        views.append(
            f"  - {{name: {view.name}, entities: [store], source: {view.source}, aggregations: [{aggregations}]}}\n"
        )
    services = [f"  - {{name: {name}, features: [{name}]}}\n" for name in [PLAIN, *(view.name for view in VIEWS)]]
    (folder / "feature_defs/bench.yaml").write_text(
        "entities: [{name: store, join_keys: [{name: store, type: int64}]}]\n"
        f"sources:\n{''.join(sources)}feature_views:\n{''.join(views)}feature_services:\n{''.join(services)}"
    )


def document(folder: Path, *arguments: str) -> Any:
    run = subprocess.run([*arguments, "--output", "json"], cwd=folder, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout)


def start_server(folder: Path, asof: str) -> subprocess.Popen[str]:
    command = [asof, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    text = ""
    while not text.rstrip().endswith("}"):
        line = server.stdout.readline()
        if not line:
            sys.exit("the server does not start")
        text += line
    return server


Measured = dict[tuple[str, int], dict[str, float]]


def measure(folder: Path, asof: str, arguments: argparse.Namespace) -> Measured:
    """For each service and number of entities the medians of what was measured."""
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number in range(arguments.rounds + 1):
        for service in [PLAIN, *(view.name for view in VIEWS)]:
            for entities in (1, 100):
                load = ["--entities", str(entities), "--concurrency", "1", "--seconds", str(arguments.seconds)]
                found = document(folder, asof, "bench-serve", "--service", service, *load)
                if found["errors"]:
                    sys.exit(f"{found['errors']} requests for {service} failed")
                # The first round fills caches.
                if number:
                    runs.setdefault((service, entities), []).append(found)
    names = ["p50_us", "p99_us", "requests_per_second"]
    return {key: {name: statistics.median(run[name] for run in found) for name in names} for key, found in runs.items()}


def print_table(measured: Measured) -> None:
    print(f"\n{'':22}{'entities':>10}{'features':>10}{'p50 us':>9}{'p99 us':>9}{'requests/s':>12}{'p50 / plain':>13}")
    features = {PLAIN: len(PLAIN_FEATURES)} | {view.name: len(view.windows) * len(FUNCTIONS) for view in VIEWS}
    for (service, entities), found in sorted(measured.items(), key=lambda item: item[0][1]):
        ratio = found["p50_us"] / measured[PLAIN, entities]["p50_us"]
        print(
            f"{service:22}{entities:10}{features[service]:10}{found['p50_us']:9,.0f}{found['p99_us']:9,.0f}"
            f"{found['requests_per_second']:12,.0f}{ratio:13.2f}"
        )


def print_ratios(measured: Measured) -> None:
    """The goals are those of one entity a request."""
    print(f"\n{'p50 of':22}{'to that of':16}{'1 entity':>10}{'100':>8}{'goal':>9}")
    for view, other, goal in RATIOS:
        one, many = (measured[view, n]["p50_us"] / measured[other, n]["p50_us"] for n in (1, 100))
        wanted = "" if goal is None else f"< {goal}"
        print(f"{view:22}{other:16}{one:10.2f}{many:8.2f}{wanted:>9}{'  MISSED' if goal and one >= goal else ''}")


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asof", required=True, type=os.path.abspath, help="the command to measure")
    parser.add_argument("--scale", choices=STORES, default="default")
    parser.add_argument("--rounds", type=int, default=5, help="that count; one before them does not")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    arguments = parser.parse_args()
    stores = STORES[arguments.scale]
    print(f"{stores} stores, {ORDERS_A_STORE:,} orders a store in 35 days; {DENSITY} times as many of a dense one")
    folder = Path(tempfile.mkdtemp(prefix="asof-bench-"))
    try:
        write_sources(folder, stores)
        write_project(folder)
        document(folder, arguments.asof, "apply", "--yes")
        for view in document(folder, arguments.asof, "materialize")["views"]:
            rows, seconds = view["rows_written"], view["upload_seconds"]
            print(f"materialized {view['view']}: {rows:,} rows, uploaded in {seconds:.1f} s")
        server = start_server(folder, arguments.asof)
        try:
            measured = measure(folder, arguments.asof, arguments)
        finally:
            server.terminate()
            server.wait()
        print_table(measured)
        print_ratios(measured)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
