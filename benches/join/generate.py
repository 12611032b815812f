"""The Parquet files of a workload, the same in every run: tables ordered by time, spines in random order.

Files are written a row group at a time, so that a large one needs no more memory than a small one. No two rows of a
table have one event timestamp, hence no engine has a tie to break its own way; only a corrected row shares the key
and the event timestamp of the row that it corrects.
"""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .workloads import DAY_US, HOUR_US, View, Workload

START_US = 1_700_000_000_000_000
SPAN_US = 90 * DAY_US
ROW_GROUP = 250_000
ZIPF_EXPONENT = 1.1

Random = np.random.Generator
Integers = np.ndarray[Any, np.dtype[np.int64]]
Draw = Callable[[Random, int], Integers]


def ensure_table(file: Path, view: View) -> None:
    if not file.exists():
        write_parts(file, table_parts(view))


def ensure_spine(file: Path, workload: Workload, tables: dict[str, Path]) -> None:
    """`tables` are the files of the workload's views."""
    if not file.exists():
        write_parts(file, spine_parts(workload, tables))


def write_parts(file: Path, parts: Iterator[pa.Table]) -> None:
    """Writes a row group a part; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    first = next(parts)
    # Random values repeat too rarely for a dictionary to be of use to any reader.
    with pq.ParquetWriter(unfinished, first.schema, compression="snappy", use_dictionary=False) as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)
    unfinished.rename(file)


def table_parts(view: View) -> Iterator[pa.Table]:
    draw = key_drawer(view)
    for random, start, rows in slices(view.name, view.rows):
        span = SPAN_US * rows // view.rows
        times = START_US + SPAN_US * start // view.rows + rising(random, rows, span)
        row_of = corrected_rows(random, rows) if view.corrected else np.arange(rows)
        columns = {view.key: pa.array(draw(random, rows)[row_of]), "event_timestamp": timestamps(times[row_of])}
        if view.corrected:
            columns["created_timestamp"] = timestamps(written_down(random, times, row_of))
        for name in view.features:
            kind = {"is_integer": name in view.integers, "nullable": name in view.nullable}
            columns[name] = feature(random, len(row_of), **kind)
        yield pa.table(columns)


def spine_parts(workload: Workload, tables: dict[str, Path]) -> Iterator[pa.Table]:
    draws = {key: key_drawer(view) for key, view in workload.key_views.items()}
    for random, start, rows in slices(f"spine of {workload.name}", workload.spine_rows):
        columns = {key: draw(random, rows) for key, draw in draws.items()}
        columns["event_timestamp"] = START_US + random.integers(0, SPAN_US, rows)
        ask_at_the_edges(random, columns, workload.views[0], tables[workload.views[0].name])
        times = timestamps(columns.pop("event_timestamp"))
        order_id = pa.array(np.arange(start, start + rows))
        keys = {key: pa.array(columns[key]) for key in sorted(columns)}
        yield pa.table({"order_id": order_id, **keys, "event_timestamp": times})


def slices(seed: str, rows: int) -> Iterator[tuple[Random, int, int]]:
    """Parts of `rows` rows, each with random numbers of its own: (random, first row, number of rows)."""
    for start in range(0, rows, ROW_GROUP):
        yield np.random.default_rng([zlib.crc32(seed.encode()), start]), start, min(ROW_GROUP, rows - start)


def rising(random: Random, count: int, below: int) -> Integers:
    """Distinct numbers in ascending order."""
    return np.sort(random.integers(0, below - count, count)) + np.arange(count)


def key_drawer(view: View) -> Draw:
    match view.spread:
        case "zipf":
            weights = np.cumsum(np.arange(1, view.keys + 1) ** -ZIPF_EXPONENT)
            # A key's number says nothing about how frequent it is.
            key_of_rank = np.random.default_rng(view.keys).permutation(view.keys)
            return lambda random, count: key_of_rank[np.searchsorted(weights, random.random(count) * weights[-1])]
        case "hot":
            hot = view.keys // 3
            return lambda random, count: np.where(
                random.random(count) < 0.3, hot, random.integers(0, view.keys, count)
            )
        case _:
            return lambda random, count: random.integers(0, view.keys, count)


def corrected_rows(random: Random, rows: int) -> Integers:
    """Row numbers in ascending order, one in a hundred of them twice."""
    return np.repeat(np.arange(rows), 1 + (random.random(rows) < 0.01))


def written_down(random: Random, times: Integers, row_of: Integers) -> Integers:
    """Created timestamps: within the hour, of one of two equal rows a day later, whichever of them comes first."""
    created = times[row_of] + random.integers(0, HOUR_US, len(row_of))
    second = np.flatnonzero(row_of[1:] == row_of[:-1]) + 1
    created[second - random.integers(0, 2, len(second))] += DAY_US
    return created


def ask_at_the_edges(random: Random, columns: dict[str, Integers], view: View, table: Path) -> None:
    """Lets one question in a hundred fall on the very moment of a row, or of that row's end of life, and one in a
    hundred name a key that no row has."""
    rows = len(columns[view.key])
    group = int(random.integers(0, pq.read_metadata(table).num_row_groups))
    stored = pq.ParquetFile(table).read_row_group(group, columns=[view.key, "event_timestamp"])
    exact = np.flatnonzero(random.random(rows) < 0.01)
    picked = random.integers(0, stored.num_rows, len(exact))
    columns[view.key][exact] = stored[view.key].to_numpy()[picked]
    times = stored["event_timestamp"].cast(pa.int64()).to_numpy()[picked]
    columns["event_timestamp"][exact] = times + random.integers(0, 2, len(exact)) * (view.ttl_us or 0)
    columns[view.key][random.random(rows) < 0.01] = view.keys


def timestamps(micros: Integers) -> pa.Array:
    return pa.array(micros, pa.timestamp("us", "UTC"))


def feature(random: Random, rows: int, *, is_integer: bool, nullable: bool) -> pa.Array:
    values = random.integers(0, 1 << 40, rows) if is_integer else random.random(rows)
    return pa.array(values, mask=random.random(rows) < 0.1 if nullable else None)
