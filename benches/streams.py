"""Pushed events: how many a second with durable acknowledgement, how soon they are visible, how long a restart takes.

Usage: streams.py --asof COMMAND [--events N]
       streams.py --asof COMMAND --soak MINUTES     a steady stream, and the server's memory meanwhile

The client runs on the same cores as the server. What the server itself takes is told by its CPU seconds.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import asof
import numpy as np
import pyarrow as pa

KEYS = 10_000
BATCH = 16_384
START = 1_714_521_600_000_000
# Events a second that no server takes.
TOO_FAST = 1e7

DEFINITIONS = """
entities:
  - {{name: store, join_keys: [{{name: store, type: int64}}]}}
sources:
  - name: orders
    schema: [{{name: order, type: int64}}, {{name: store, type: int64}}, {{name: at, type: timestamp}}, {{name: amount, type: float64}}]
    event_timestamp: at
    stream: {{type: push}}
    {event_id}
feature_views:
{views}
"""
WINDOWS = """  - name: sales
    entities: [store]
    source: orders
    aggregations:
      - {function: count, windows: [1h, 1d, 7d]}
      - {input: amount, function: sum, windows: [1h, 1d, 7d]}
      - {input: amount, function: max, windows: [1h, 1d, 7d]}
"""
ROWS = "  - {name: newest, entities: [store], source: orders, features: [{name: amount, type: float64}]}\n"


class Server:
    def __init__(self, command: str, folder: Path) -> None:
        began = time.monotonic()
        arguments = [command, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"]
        self.process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline()]
        while lines[-1] not in ("}\n", ""):
            lines.append(self.process.stdout.readline())
        self.client = asof.Client(json.loads("".join(lines))["grpc"])
        self.started_s = time.monotonic() - began

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def project(command: str, views: str, event_id: str = "") -> Path:
    folder = Path(tempfile.mkdtemp(prefix="asof-streams-"))
    (folder / "feature_defs").mkdir()
    (folder / "asof.yaml").write_text("project: streams\n")
    (folder / "feature_defs/orders.yaml").write_text(DEFINITIONS.format(views=views, event_id=event_id))
    subprocess.run([command, "apply", "--yes"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def events(first: int, count: int, rate: int = 2_000) -> pa.Table:
    """`rate` events for each second of event time, a little out of order."""
    generator = np.random.default_rng(first)
    numbers = np.arange(first, first + count)
    at = START + numbers * (1_000_000 // rate) - generator.integers(0, 60_000_000, count)
    return pa.table(
        {
            "order": numbers,
            "store": generator.integers(0, KEYS, count),
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "amount": np.round(generator.lognormal(3, 1, count), 2),
        }
    )


def throughput(command: str, name: str, views: str, count: int, event_id: str = "") -> None:
    folder = project(command, views, event_id)
    server = Server(command, folder)
    server.client.push("orders", events(0, BATCH))
    table = events(BATCH, count)
    cpu, began = server.cpu_s(), time.monotonic()
    result = server.client.push("orders", table, acknowledge="visible")
    seconds, cpu = time.monotonic() - began, server.cpu_s() - cpu
    assert result.accepted == count, result
    print(f"| {name} | {count / seconds:,.0f} | {count / cpu:,.0f} | {server.rss_mb():.0f} |", flush=True)
    server.stop()
    shutil.rmtree(folder)


def paced(server: Server, rate: float, per_push: int, seconds: float, first: int = 0) -> tuple[float, np.ndarray]:
    """Pushes that are due at a steady rate, whatever becomes of those before; events a second, and milliseconds from
    when each push was due until it was visible."""
    pushes = int(rate * seconds / per_push)
    tables = [events(first + number * per_push, per_push) for number in range(pushes)]
    latencies: list[float] = []
    began = time.monotonic()
    lock = threading.Lock()
    place = iter(range(pushes))

    def work() -> None:
        while True:
            with lock:
                number = next(place, None)
            if number is None:
                return
            due = began + number * per_push / rate
            time.sleep(max(0.0, due - time.monotonic()))
            server.client.push("orders", tables[number], acknowledge="visible")
            latencies.append(time.monotonic() - due)

    threads = [threading.Thread(target=work) for _ in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return pushes * per_push / (time.monotonic() - began), np.array(latencies) * 1000


def freshness(command: str, rate: float, per_push: int, seconds: float) -> float:
    """Gives the rate that was achieved."""
    folder = project(command, WINDOWS)
    server = Server(command, folder)
    achieved, latencies = paced(server, rate, per_push, seconds)
    p50, p99 = np.percentile(latencies, [50, 99])
    wanted = f"{rate:,.0f}" if rate < TOO_FAST else "as many as go"
    print(f"| {wanted} | {per_push} | {achieved:,.0f} | {p50:.1f} | {p99:.1f} |", flush=True)
    server.stop()
    shutil.rmtree(folder)
    return achieved


def soak(command: str, minutes: float, rate: float = 10_000, per_push: int = 500) -> None:
    """Every kind of state: tiles, rows, ids of events that are forgotten after a minute; beside little cache."""
    folder = project(command, WINDOWS + ROWS, event_id="event_id: order\n    deduplicate_for: 1m")
    # What is kept in memory is full soon, and what grows besides is seen.
    with (folder / "asof.yaml").open("a") as settings:
        settings.write("online_store: {type: rocksdb, block_cache: 32MiB}\n")
    server = Server(command, folder)
    print("| minutes | events | RSS MB | log MB | online MB | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- | --- | --- |")
    began, first, slice_s = time.monotonic(), 0, 30.0
    while time.monotonic() - began < minutes * 60:
        _, latencies = paced(server, rate, per_push, slice_s, first)
        first += int(rate * slice_s / per_push) * per_push
        p50, p99 = np.percentile(latencies, [50, 99])
        log, online = (folder_mb(folder / "state" / name) for name in ("online.push", "online"))
        elapsed = (time.monotonic() - began) / 60
        print(f"| {elapsed:.1f} | {first:,} | {server.rss_mb():.0f} | {log:.0f} | {online:.0f} | {p50:.1f} | {p99:.1f} |", flush=True)
    assert server.client.status().streams[0].accepted == first
    server.stop()
    shutil.rmtree(folder)


def folder_mb(folder: Path) -> float:
    sizes = []
    for path in folder.rglob("*"):
        # Files come and go meanwhile.
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sum(sizes) / 1e6


def recovery(command: str, count: int) -> None:
    folder = project(command, WINDOWS)
    server = Server(command, folder)
    chunk = 1_000_000
    for first in range(0, count, chunk):
        server.client.push("orders", events(first, min(chunk, count - first)))
    rss = server.rss_mb()
    server.kill()
    again = Server(command, folder)
    began = time.monotonic()
    again.client.get_online_features(["sales"], {"store": [1, 2, 3]})
    ready = again.started_s + time.monotonic() - began
    began = time.monotonic()
    again.client.push("orders", events(count, 1), acknowledge="visible")
    print(f"| {count:,} | {rss:.0f} | {ready:.2f} | {ready + time.monotonic() - began:.2f} |", flush=True)
    again.stop()
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--asof", required=True)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--recovery", type=int, default=10_000_000)
    parser.add_argument("--soak", type=float, help="minutes")
    options = parser.parse_args()
    command = str(Path(options.asof).absolute())
    if options.soak:
        soak(command, options.soak)
        return
    print(f"Durable pushes of {BATCH} events, one client; {KEYS} keys\n")
    print("| view | events/s | events per CPU second of the server | RSS MB |\n| --- | --- | --- | --- |")
    throughput(command, "windows (9 features, 3 levels of tiles)", WINDOWS, options.events)
    throughput(command, "rows", ROWS, options.events)
    throughput(command, "windows and rows, with event ids", WINDOWS + ROWS, options.events, event_id="event_id: order")
    print("\nFrom when an event is due to its being visible, open loop\n")
    print("| events/s | events a push | achieved | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- |")
    freshness(command, 1_000, 10, 15)
    for per_push in (100, 1_000):
        most = freshness(command, TOO_FAST, per_push, 400_000 / TOO_FAST)
        freshness(command, most / 2, per_push, 10)
    print("\nKilled after the last acknowledgement\n")
    print("| events before | RSS MB | s until it answers | s until a push is visible |\n| --- | --- | --- | --- |")
    recovery(command, options.recovery)


if __name__ == "__main__":
    main()
