"""Measures online serving beside what bounds it and beside other stores, all in one run.

    python benches/serving.py --asof COMMAND [--scale small|default] [--rounds N] [--seconds S] [--redis BIN] [--feast PYTHON]

Peers: `asof bench-echo` is a bare gRPC server that sends the very messages our server sends, and does nothing else; Redis
has the same values twice, as a hash of 50 fields an entity and packed in one string, and is asked by its own C client;
Feast's HTTP server reads from a Redis, and from SQLite, where a Python with `feast[redis]` is named. Requests are for 1, 10 and 100
entities of 50 float64 features, from 1, 16 and 64 callers at once; callers and servers share the cores of the machine.
In every round each cell is measured in each server in turn, and numbers are medians of the rounds.
"""

import argparse
import csv
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEATURES = [f"f{number:02}" for number in range(50)]
ENTITIES = {"small": 5_000, "default": 100_000}
ROWS = (1, 10, 100)
CALLERS = (1, 16, 64)
# Requests/s of ours, as a part of the echo's, by entities a request.
ECHO_GOALS = {1: 0.75, 10: 0.75, 100: 0.6}
VALUES_GOAL = 20e6
HALF_LOAD_P99_GOAL = 2.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Cell = tuple[int, int]
Number = dict[str, float]


def key(entity: int) -> str:
    return f"{entity:012}"


def write_project(folder: Path, entities: int) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(1).random((entities, len(FEATURES)))
    times = pa.array(np.full(entities, time.time_ns() // 1000 - 3_600_000_000), pa.timestamp("us", "UTC"))
    columns = {name: pa.array(values[:, number]) for number, name in enumerate(FEATURES)}
    keys = pa.array([key(entity) for entity in range(entities)])
    pq.write_table(pa.table({"entity": keys, "at": times} | columns), folder / "rows.parquet")
    (folder / "asof.yaml").write_text("project: bench\n")
    (folder / "feature_defs").mkdir()
    features = ", ".join(f"{{name: {name}, type: float64}}" for name in FEATURES)
    (folder / "feature_defs/bench.yaml").write_text(
        "entities: [{name: entity, join_keys: [{name: entity, type: string}]}]\n"
        "sources: [{name: rows, batch: {format: parquet, path: rows.parquet}, event_timestamp: at}]\n"
        f"feature_views: [{{name: profile, entities: [entity], source: rows, features: [{features}]}}]\n"
        "feature_services: [{name: model, features: [profile]}]\n"
    )
    return values


def document(folder: Path, *arguments: str) -> Any:
    run = subprocess.run([*arguments, "--output", "json"], cwd=folder, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout)


def start(folder: Path, *command: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """A server of ours, and where it listens."""
    process = subprocess.Popen([*command, "--output", "json"], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = ""
    while not text.rstrip().endswith("}"):
        line = process.stdout.readline()
        if not line:
            sys.exit(f"{command} does not start")
        text += line
    return process, json.loads(text)


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Grpc:
    """Our server, or the echo."""

    def __init__(self, folder: Path, asof: str, address: str, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.command = [asof, "bench-serve", "--service", "model", "--server", address]

    def load(self, rows: int, *arguments: str) -> Number:
        options = ["--entities", str(rows), "--seconds", str(self.seconds), "--warm-up", "0.5"]
        found = document(self.folder, *self.command, *options, *arguments)
        if found["errors"]:
            sys.exit(f"{found['errors']} requests failed: {found['first_error']}")
        return {
            "rate": found["requests_per_second"],
            "p50": found["p50_us"],
            "p99": found["p99_us"],
            "p99.9": found["p999_us"],
            "cpu": found["server_cpu_us_per_request"],
        }

    def measure(self, rows: int, callers: int) -> Number:
        return self.load(rows, "--concurrency", str(callers))


class Redis:
    """Redis, asked by redis-benchmark for an entity's 50 fields, or for its packed value."""

    def __init__(self, binaries: Path, folder: Path, values: np.ndarray[Any, Any], packed: bool, seconds: float) -> None:
        self.binaries, self.packed, self.seconds, self.entities = binaries, packed, seconds, len(values)
        self.port = free_port()
        command = [binaries / "redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        options = ["--bind", "127.0.0.1", "--dir", str(folder), "--daemonize", "no"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        self.wait()
        self.fill(values)

    def wait(self) -> None:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

    def fill(self, values: np.ndarray[Any, Any]) -> None:
        command = [self.binaries / "redis-cli", "-p", str(self.port), "--pipe"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as filler:
            assert filler.stdin is not None
            for entity, row in enumerate(values):
                name = f"e:{key(entity)}".encode()
                if self.packed:
                    words = [b"SET", name, row.tobytes()]
                else:
                    pairs = zip(FEATURES, row, strict=True)
                    words = [b"HSET", name, *(part for f, v in pairs for part in (f.encode(), v.tobytes()))]
                parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)]
                filler.stdin.write(b"".join(parts))

    def measure(self, rows: int, callers: int) -> Number:
        # What a request of ours asks at once is one MGET, or as many HMGETs in a pipeline as it has entities.
        keys = ["e:__rand_int__"] * (rows if self.packed else 1)
        words = ["MGET", *keys] if self.packed else ["HMGET", *keys, *FEATURES]
        pipeline = 1 if self.packed else rows
        address = ["-p", str(self.port), "-r", str(self.entities), "--csv"]

        def run(commands: int) -> tuple[dict[str, str], float]:
            load = ["-c", str(callers), "-P", str(pipeline), "-n", str(commands)]
            started = time.monotonic()
            command = [self.binaries / "redis-benchmark", *address, *load, *words]
            text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            return next(iter(csv.DictReader(io.StringIO(text)))), time.monotonic() - started

        # How many commands fill the time is found by a short run.
        short = max(callers * pipeline * 20, 1000)
        rate = float(run(short)[0]["rps"])
        commands = max(short, int(rate * self.seconds))
        before = cpu_seconds(self.process.pid)
        found, _ = run(commands)
        requests = commands / pipeline
        cpu = (cpu_seconds(self.process.pid) - before) / requests * 1e6
        latency = {"p50": float(found["p50_latency_ms"]) * 1e3, "p99": float(found["p99_latency_ms"]) * 1e3}
        return {"rate": float(found["rps"]) / pipeline, "p99.9": float("nan"), "cpu": cpu} | latency

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class Feast:
    """Feast's HTTP server, reading from an online store that `feast materialize` filled; `store`: of its settings."""

    def __init__(self, python: str, store: str, project: Path, folder: Path, seconds: float) -> None:
        self.seconds, self.folder = seconds, folder
        (folder / "feature_store.yaml").write_text(
            f"project: bench\nregistry: registry.db\nprovider: local\nonline_store: {store}\n"
            "entity_key_serialization_version: 3\n"
        )
        fields = ", ".join(f"Field(name='{name}', dtype=Float64)" for name in FEATURES)
        (folder / "definitions.py").write_text(
            "from datetime import timedelta\n"
            "from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType\n"
            "from feast.types import Float64\n"
            "entity = Entity(name='entity', join_keys=['entity'], value_type=ValueType.STRING)\n"
            f"rows = FileSource(path='{project / 'rows.parquet'}', timestamp_field='at')\n"
            "profile = FeatureView(name='profile', entities=[entity], ttl=timedelta(0), source=rows,\n"
            f"    schema=[{fields}])\n"
            "model = FeatureService(name='model', features=[profile])\n"
        )
        feast = str(Path(python).parent / "feast")
        subprocess.run([feast, "apply"], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        load = [feast, "materialize", "2000-01-01T00:00:00", "2100-01-01T00:00:00"]
        subprocess.run(load, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.port = free_port()
        serve = [feast, "serve", "-p", str(self.port), "--workers", "2", "--no-access-log"]
        self.process = subprocess.Popen(serve, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        Redis.wait(self)  # type: ignore[arg-type]
        self.entities = pq.read_metadata(project / "rows.parquet").num_rows

    def measure(self, rows: int, callers: int) -> Number:
        random = np.random.default_rng(2)
        until = time.monotonic() + self.seconds

        def call(_: int) -> list[float]:
            connection, latencies = HTTPConnection("127.0.0.1", self.port), []
            while time.monotonic() < until:
                asked = [key(entity) for entity in random.integers(0, self.entities, rows)]
                body = json.dumps({"feature_service": "model", "entities": {"entity": asked}})
                started = time.perf_counter()
                try:
                    connection.request("POST", "/get-online-features", body, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                except (ConnectionError, HTTPException):
                    # Its workers are replaced after so many requests.
                    connection.close()
                    continue
                if answer.status != 200:
                    sys.exit(f"Feast answers {answer.status}")
                latencies.append((time.perf_counter() - started) * 1e6)
            return latencies

        started = time.monotonic()
        with ThreadPoolExecutor(callers) as pool:
            latencies = np.concatenate(list(pool.map(call, range(callers))))
        p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9])
        rate = len(latencies) / (time.monotonic() - started)
        return {"rate": rate, "p50": p50, "p99": p99, "p99.9": p999, "cpu": float("nan")}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def medians(rounds: list[Number]) -> Number:
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def print_table(measured: dict[str, dict[Cell, Number]]) -> None:
    print(f"\n{'entities':>8}{'callers':>8}  {'':14}{'requests/s':>11}{'of echo':>9}{'M values/s':>11}", end="")
    print(f"{'p50 us':>9}{'p99 us':>9}{'p99.9 us':>9}{'CPU us':>8}")
    for cell in next(iter(measured.values())):
        for name, cells in measured.items():
            if cell not in cells:
                continue
            found = cells[cell]
            part = found["rate"] / measured["echo"][cell]["rate"]
            values = found["rate"] * cell[0] * len(FEATURES) / 1e6
            latencies = "".join(f"{found[name]:9,.0f}" for name in ("p50", "p99", "p99.9"))
            print(f"{cell[0]:8}{cell[1]:8}  {name:14}{found['rate']:11,.0f}{part:9.2f}{values:11.1f}", end="")
            print(f"{latencies}{found['cpu']:8,.0f}")


def print_goals(measured: dict[str, dict[Cell, Number]], half_load: dict[str, Number]) -> None:
    def line(text: str, found: float, goal: float, met: bool) -> None:
        print(f"{text:66}{found:12,.2f}{goal:12,.2f}{'' if met else '  MISSED'}")

    print(f"\n{'':66}{'found':>12}{'goal':>12}")
    ours, echo = measured["asof"], measured["echo"]
    for (rows, callers), found in ours.items():
        part = found["rate"] / echo[rows, callers]["rate"]
        line(f"part of the echo's requests/s, {rows} entities, {callers} callers", part, ECHO_GOALS[rows], part >= ECHO_GOALS[rows])
    values = max(found["rate"] * rows for (rows, _), found in ours.items() if rows == 100) * len(FEATURES)
    line("million values/s at 100 entities", values / 1e6, VALUES_GOAL / 1e6, values >= VALUES_GOAL)
    ratio = half_load["asof"]["p99"] / half_load["echo"]["p99"]
    line("p99 at half load to the echo's at the same rate, 1 entity", ratio, HALF_LOAD_P99_GOAL, ratio <= HALF_LOAD_P99_GOAL)
    goals = {"redis hash": 1.0, "redis packed": 1.0, "feast redis": 30.0, "feast sqlite": 30.0}
    for name, goal in goals.items():
        if name in measured:
            worst = min(ours[cell]["rate"] / found["rate"] for cell, found in measured[name].items())
            line(f"requests/s to those of {name}, the worst cell", worst, goal, worst >= goal)


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asof", required=True, type=os.path.abspath, help="the command to measure")
    parser.add_argument("--load", type=os.path.abspath, help="the command that makes the load, if another one")
    parser.add_argument("--scale", choices=ENTITIES, default="default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--redis", type=Path, default=shutil.which("redis-server"), help="redis-server, its tools beside it")
    parser.add_argument("--feast", help="a Python with feast[redis]")
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS)
    arguments = parser.parse_args()
    load = arguments.load or arguments.asof
    folder = Path(tempfile.mkdtemp(prefix="asof-bench-"))
    processes: list[subprocess.Popen[str]] = []
    peers: dict[str, Any] = {}
    stores: dict[str, Redis] = {}
    try:
        values = write_project(folder, ENTITIES[arguments.scale])
        document(folder, arguments.asof, "apply", "--yes")
        document(folder, arguments.asof, "materialize")
        listen = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        server, ours = start(folder, arguments.asof, "serve", *listen)
        echo_server, echo = start(folder, load, "bench-echo", "--server", ours["grpc"])
        processes += [server, echo_server]
        peers["echo"] = Grpc(folder, load, echo["grpc"], arguments.seconds)
        peers["asof"] = Grpc(folder, load, ours["grpc"], arguments.seconds)
        if arguments.redis:
            for name, packed in (("redis hash", False), ("redis packed", True)):
                place = folder / name.replace(" ", "-")
                place.mkdir()
                peers[name] = Redis(Path(arguments.redis).parent, place, values, packed, arguments.seconds)
            if arguments.feast:
                (folder / "feast-redis").mkdir()
                empty = np.empty((0, len(FEATURES)))
                stores["redis"] = Redis(Path(arguments.redis).parent, folder / "feast-redis", empty, True, arguments.seconds)
                redis = f"{{type: redis, connection_string: 'localhost:{stores['redis'].port}'}}"
                for name, store in (("redis", redis), ("sqlite", "{type: sqlite, path: online.db}")):
                    place = folder / f"feast-{name}"
                    place.mkdir(exist_ok=True)
                    peers[f"feast {name}"] = Feast(arguments.feast, store, folder, place, arguments.seconds)
        print(f"{len(values):,} entities of {len(FEATURES)} features; {os.cpu_count()} cores for servers and callers")
        rounds: dict[str, dict[Cell, list[Number]]] = {name: {} for name in peers}
        for _ in range(arguments.rounds):
            for cell in [(rows, callers) for rows in ROWS for callers in arguments.callers]:
                for name, peer in peers.items():
                    # One number is enough of what is tens of times slower.
                    if not name.startswith("feast") or cell[1] == 16:
                        rounds[name].setdefault(cell, []).append(peer.measure(*cell))
        measured = {name: {cell: medians(found) for cell, found in cells.items()} for name, cells in rounds.items()}
        print_table(measured)
        half = measured["asof"][1, max(arguments.callers)]["rate"] / 2
        half_loads = {
            name: medians([peers[name].load(1, "--rate", str(half)) for _ in range(arguments.rounds)])
            for name in ("asof", "echo")
        }
        print_goals(measured, half_loads)
    finally:
        for peer in [*peers.values(), *stores.values()]:
            if hasattr(peer, "close"):
                peer.close()
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
