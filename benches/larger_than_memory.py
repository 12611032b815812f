"""Asks a server for rows out of an online store that is ten times its caches.

    python benches/larger_than_memory.py --asof COMMAND [--scale small|default] [--seconds S] [--memory MIB]

The store holds one row of 50 random float64 features an entity, which do not compress, in files of ten times the block
cache; the cache of rows is small. So nearly every row is read from a file. Its pages are in the system's own cache if
there is memory for them: the first table is of that. With `--memory` (Linux, as root) a
second table is of a server whose process, with the pages of files that it reads, may have so much memory and no more, so
that rows come from the disk. Requests are for 1, 10 and 100 entities chosen at random, from 1 and 16 callers.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serving import FEATURES, ROWS, document, key, start

MIB = 1 << 20
ROW_BYTES = len(FEATURES) * 8
BLOCK_CACHE = {"small": 4 * MIB, "default": 64 * MIB}
CALLERS = (1, 16)
CHUNK = 50_000
# Control groups of version 2, and those of version 1 that machines may have still.
GROUPS = [(Path("/sys/fs/cgroup"), "memory.max"), (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")]


def write_project(folder: Path, entities: int, block_cache: int) -> None:
    random = np.random.default_rng(1)
    at = time.time_ns() // 1000 - 3_600_000_000
    fields = [("entity", pa.string()), ("at", pa.timestamp("us", "UTC")), *((name, pa.float64()) for name in FEATURES)]
    schema = pa.schema(fields)
    with pq.ParquetWriter(folder / "rows.parquet", schema, use_dictionary=False, compression="none") as writer:
        for first in range(0, entities, CHUNK):
            count = min(CHUNK, entities - first)
            keys = pa.array([key(entity) for entity in range(first, first + count)])
            columns = [keys, pa.array(np.full(count, at), schema.field("at").type)]
            writer.write_table(pa.table([*columns, *(pa.array(random.random(count)) for _ in FEATURES)], schema))
    store = f"{{type: rocksdb, block_cache: {block_cache}, row_cache: {block_cache // 8}}}"
    (folder / "asof.yaml").write_text(f"project: bench\nonline_store: {store}\nengine: {{memory: 1GiB}}\n")
    (folder / "feature_defs").mkdir()
    features = ", ".join(f"{{name: {name}, type: float64}}" for name in FEATURES)
    (folder / "feature_defs/bench.yaml").write_text(
        "entities: [{name: entity, join_keys: [{name: entity, type: string}]}]\n"
        "sources: [{name: rows, batch: {format: parquet, path: rows.parquet}, event_timestamp: at}]\n"
        f"feature_views: [{{name: profile, entities: [entity], source: rows, features: [{features}]}}]\n"
        "feature_services: [{name: model, features: [profile]}]\n"
    )


def files_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*.sst")) / MIB


def forget_pages(folder: Path) -> None:
    """Takes files out of the system's cache: pages that are there count for whoever read them first."""
    for path in folder.rglob("*.sst"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes(process: int) -> int:
    lines = Path(f"/proc/{process}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


@contextmanager
def group_of(memory: int) -> Iterator[Path]:
    """A control group whose processes, and the pages of files that they read, have so many MiB."""
    parent, limit = next((parent, limit) for parent, limit in reversed(GROUPS) if (parent / "cgroup.procs").exists())
    group = parent / "asof-bench"
    group.mkdir()
    try:
        (group / limit).write_text(str(memory * MIB))
        yield group
    finally:
        group.rmdir()


def measure(folder: Path, asof: str, seconds: float, group: Path | None) -> None:
    process, address = start(folder, asof, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    try:
        if group:
            (group / "cgroup.procs").write_text(str(process.pid))
        bench = [asof, "bench-serve", "--service", "model", "--server", address["grpc"], "--seconds", str(seconds)]
        header = ["entities", "callers", "requests/s", "rows/s", "p50 us", "p99 us", "p99.9 us", "disk KiB/row"]
        print("".join(f"{name:>14}" for name in header))
        for rows in ROWS:
            for callers in CALLERS:
                before = read_bytes(process.pid)
                found = document(folder, *bench, "--entities", str(rows), "--concurrency", str(callers))
                if found["errors"]:
                    sys.exit(f"{found['errors']} requests failed: {found['first_error']}")
                asked = found["requests"] * rows
                disk = (read_bytes(process.pid) - before) / max(asked, 1) / 1024
                numbers = [found["requests_per_second"], found["requests_per_second"] * rows]
                numbers += [found["p50_us"], found["p99_us"], found["p999_us"]]
                print(f"{rows:14}{callers:14}" + "".join(f"{number:14,.0f}" for number in numbers) + f"{disk:14.1f}")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asof", required=True, type=os.path.abspath, help="the command to measure")
    parser.add_argument("--scale", choices=BLOCK_CACHE, default="default")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--memory", type=int, help="MiB that the server of the second table may have")
    parser.add_argument("--folder", type=Path, help="where a project of this benchmark is left, and taken up again")
    arguments = parser.parse_args()
    block_cache = BLOCK_CACHE[arguments.scale]
    entities = 10 * block_cache // ROW_BYTES
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="asof-bench-"))
    try:
        if not (folder / "asof.yaml").exists():
            folder.mkdir(exist_ok=True)
            write_project(folder, entities, block_cache)
            document(folder, arguments.asof, "apply", "--yes")
            document(folder, arguments.asof, "materialize")
        print(f"{entities:,} rows; {files_mib(folder / 'state/online'):,.0f} MiB of files, a block cache of {block_cache // MIB} MiB")
        print("\nfiles in the system's cache")
        measure(folder, arguments.asof, arguments.seconds, None)
        if arguments.memory:
            print(f"\n{arguments.memory} MiB for the server and the pages of its files")
            forget_pages(folder / "state/online")
            with group_of(arguments.memory) as group:
                measure(folder, arguments.asof, arguments.seconds, group)
    finally:
        if not arguments.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
