"""The Parquet files of a workload, the same in every run: orders by time, spines in random order.

No two orders of a table have one event timestamp, hence no engine has a tie to break its own way.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from join.generate import SPAN_US, START_US, Integers, Random, key_drawer, rising, slices, timestamps, write_parts

from .workloads import DAY_US, Events, Workload

# Questions are asked from here on: before them lies the longest window.
ASKED_FROM_US = START_US + 30 * DAY_US
ASKED_SPAN_US = SPAN_US - 30 * DAY_US
# How many consumers order from one store; those of neighbouring stores are partly the same.
CONSUMERS_A_STORE = 300


def ensure_events(file: Path, events: Events) -> None:
    if not file.exists():
        write_parts(file, event_parts(events))


def ensure_spine(file: Path, workload: Workload, events_file: Path) -> None:
    if not file.exists():
        write_parts(file, spine_parts(workload, events_file))


def event_parts(events: Events) -> Iterator[pa.Table]:
    draw = key_drawer(events)
    for random, start, rows in slices(events.name, events.rows):
        span = SPAN_US * rows // events.rows
        times = START_US + SPAN_US * start // events.rows + rising(random, rows, span)
        stores = draw(random, rows)
        columns = {
            "store": pa.array(stores),
            "event_timestamp": timestamps(times),
            "consumer": pa.array(stores * 100 + (random.random(rows) ** 2 * CONSUMERS_A_STORE).astype(np.int64)),
            "amount": pa.array(amounts(random, rows)),
        }
        yield pa.table(columns)


def amounts(random: Random, rows: int) -> np.ndarray:
    """Of 24 on average, from 0.50 on, with two decimals: most of them no sum of few powers of two."""
    return np.round(np.maximum(random.lognormal(3.0, 0.6, rows), 0.5), 2)


def spine_parts(workload: Workload, events_file: Path) -> Iterator[pa.Table]:
    draw = key_drawer(workload.view.events)
    for random, start, rows in slices(f"spine of {workload.name}", workload.spine_rows):
        stores = draw(random, rows)
        times = ASKED_FROM_US + random.integers(0, ASKED_SPAN_US, rows)
        ask_at_the_edges(random, stores, times, workload, events_file)
        yield pa.table(
            {
                "order_id": pa.array(np.arange(start, start + rows)),
                "store": pa.array(stores),
                "event_timestamp": timestamps(times),
            }
        )


def ask_at_the_edges(random: Random, stores: Integers, times: Integers, workload: Workload, events_file: Path) -> None:
    """Lets one question in a hundred fall on the very moment that an order enters or leaves a window, and one in a
    hundred name a store that has no orders."""
    rows = len(stores)
    groups = pq.read_metadata(events_file).num_row_groups
    stored = pq.ParquetFile(events_file).read_row_group(int(random.integers(0, groups)))
    exact = np.flatnonzero(random.random(rows) < 0.01)
    picked = random.integers(0, stored.num_rows, len(exact))
    windows = np.array(sorted({0} | {aggregate.window_us for aggregate in workload.view.aggregates}))
    asked = stored["event_timestamp"].cast(pa.int64()).to_numpy()[picked] + random.choice(windows, len(exact))
    is_asked = (asked >= ASKED_FROM_US) & (asked < ASKED_FROM_US + ASKED_SPAN_US)
    times[exact[is_asked]] = asked[is_asked]
    stores[exact[is_asked]] = stored["store"].to_numpy()[picked][is_asked]
    if workload.view.events.keys > 1:
        stores[random.random(rows) < 0.01] = workload.view.events.keys
