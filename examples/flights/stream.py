"""A month of flights as a live stream: arrivals are pushed as they happen, features are asked at every departure.

Usage: stream.py --asof COMMAND [--days N] [--speed SECONDS]

The year's arrivals until the first of June lie in files and are materialized; from then on they are pushed, each at
the minute it landed. At every scheduled departure the features of the flight are asked online, as a prediction would
ask them. When the month is over, a batch request computes the same features as a training set, from the tables and
the archive of the stream, and every value is compared with what was answered online.

Needs the packages of scripts/python-requirements.txt and ./python (`make demo-stream` sees to that).
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import asof

ROOT = Path(__file__).resolve().parent.parent.parent
START = datetime(2013, 6, 1, tzinfo=timezone.utc)
SERVICE = "arrival_delay_v1"


def make_project(folder: Path) -> None:
    """The flights example with arrivals that are pushed from START on."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "feature_defs/flights", folder / "feature_defs/flights")
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "asof.yaml").write_text("project: flights_stream\n")
    sources = folder / "feature_defs/flights/sources.yaml"
    text = sources.read_text()
    stream = f"    stream: {{type: push}}\n    stream_from: {START:%Y-%m-%d}\n"
    sources.write_text(text.replace("    event_timestamp: landed_at\n", f"    event_timestamp: landed_at\n{stream}"))
    assert stream in sources.read_text()


def serve(command: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    arguments = [command, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--allow-request-time"]
    server = subprocess.Popen([*arguments, "--output", "json"], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    lines = [server.stdout.readline()]
    while lines[-1] not in ("}\n", ""):
        lines.append(server.stdout.readline())
    return server, json.loads("".join(lines))["grpc"]


def departures(end: datetime) -> pa.Table:
    """Every scheduled departure until `end`, in order."""
    flights = pq.read_table(ROOT / "data/nycflights13/flights.parquet")
    minutes = pc.cast(pc.multiply(flights["minute"], 60), pa.duration("s"))
    flights = flights.append_column("event_timestamp", pc.cast(pc.add(flights["time_hour"], minutes), pa.timestamp("us", "UTC")))
    columns = ["flight", "carrier", "tailnum", "origin", "dest", "distance", "event_timestamp"]
    return between(flights.select(columns), "event_timestamp", end).sort_by("event_timestamp")


def between(table: pa.Table, column: str, end: datetime) -> pa.Table:
    bounds = [pa.scalar(bound, pa.timestamp("us", "UTC")) for bound in (START, end)]
    return table.filter(pc.and_(pc.greater_equal(table[column], bounds[0]), pc.less(table[column], bounds[1])))


def play(client: asof.Client, asked: pa.Table, arrivals: pa.Table, speed: float) -> pa.Table:
    """Pushes what has landed, and asks for what departs, minute by minute; gives the online answers."""
    answers: list[pa.Table] = []
    landed = arrivals["landed_at"].to_pylist()
    times = asked["event_timestamp"].to_pylist()
    pushed = start = 0
    began = time.monotonic()
    while start < len(times):
        now, end = times[start], start
        while end < len(times) and times[end] == now:
            end += 1
        if speed > 0:
            time.sleep(max(0.0, (now - START).total_seconds() / speed - (time.monotonic() - began)))
        until = pushed
        while until < len(landed) and landed[until] <= now:
            until += 1
        if until > pushed:
            client.push("arrivals", arrivals.slice(pushed, until - pushed), acknowledge="visible")
            pushed = until
        rows = asked.slice(start, end - start)
        answers.append(client.get_online_features(SERVICE, rows, now=now, statuses=True).to_arrow())
        start = end
        if start * 10 // len(times) != (start - len(rows)) * 10 // len(times):
            print(f"  {now:%B %d %H:%M}  {pushed} arrivals pushed, {start} departures asked  {time.monotonic() - began:.0f} s")
    if pushed < len(landed):
        client.push("arrivals", arrivals.slice(pushed))
    return pa.concat_tables(answers)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--asof", required=True)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--speed", type=float, default=0, help="seconds of the month in one of ours; 0: as fast as it goes")
    options = parser.parse_args()
    command, folder = str(Path(options.asof).absolute()), ROOT / "state/demo_stream"
    end = START + timedelta(days=options.days)
    print(f"1. A project of its own in {folder.relative_to(ROOT)}: arrivals lie in files until {START:%B %d}, then they are pushed")
    make_project(folder)
    for arguments in (["apply", "--yes"], ["materialize"]):
        subprocess.run([command, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    asked = departures(end)
    arrivals = between(pq.read_table(ROOT / "data/nycflights13/arrivals.parquet"), "landed_at", end).sort_by("landed_at")
    print(f"2. {options.days} days: {arrivals.num_rows} arrivals to push, {asked.num_rows} departures to ask about")
    server, address = serve(command, folder)
    try:
        with asof.Client(address) as client:
            online = play(client, asked, arrivals, options.speed)
            print("3. The same departures as a training set, from the tables and the archive of the stream")
            batch = client.get_batch_features(SERVICE, asked, statuses=True).to_arrow()
    finally:
        server.terminate()
        server.wait()
    compared = wrong = 0
    for name in [name for name in batch.column_names if f"{name}__status" in batch.column_names]:
        for column in (name, f"{name}__status"):
            left, right = online[column].to_pylist(), batch[column].to_pylist()
            compared += len(left)
            wrong += sum(a != b for a, b in zip(left, right, strict=True))
    print(f"\n{asked.num_rows} departures, {compared} values and statuses compared, {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
