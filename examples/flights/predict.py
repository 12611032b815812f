"""Arrivals stream in, a model predicts every departure, a second one watches, and the log is made again.

Usage: predict.py --asof COMMAND [--days N]

As in stream.py the year's arrivals lie in files until the first of June, and are pushed from then on. Two models learn
which of the flights of May were late, one from all features and one from few. The first answers at every departure; the
second, in the shadow, sees the same values. In the end every logged prediction is replayed, and the departures are
scored once more as a batch: the predictions are the same.

Needs the packages of scripts/python-requirements.txt and ./python (`make demo-predict` sees to that).
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from stream import ROOT, SERVICE, START, between, departures, make_project, serve

import asof

LATE_MINUTES = 15
KEYS = ["origin", "dest", "carrier", "tailnum", "distance"]
ROUTE = """
prediction_routes:
  - name: arrival_delay
    model: arrival_delay@champion
    shadows: [{model: arrival_delay@challenger, percent: 50}]
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--asof", required=True)
    parser.add_argument("--days", type=int, default=3)
    options = parser.parse_args()
    command, folder = str(Path(options.asof).absolute()), ROOT / "state/demo_predict"

    def run(*arguments: str) -> Any:
        done = subprocess.run([command, *arguments, "--output", "json"], cwd=folder, check=True, capture_output=True)
        return json.loads(done.stdout)

    print(f"1. A project of its own in {folder.relative_to(ROOT)}, and two models that learn from May")
    make_project(folder)
    run("apply", "--yes")
    run("materialize")
    train(run, folder)
    (folder / "feature_defs/flights/routes.yaml").write_text(ROUTE)
    run("apply", "--yes")
    end = START + timedelta(days=options.days)
    asked = departures(end)
    arrivals = between(pq.read_table(ROOT / "data/nycflights13/arrivals.parquet"), "landed_at", end).sort_by("landed_at")
    print(f"2. {options.days} days: {arrivals.num_rows} arrivals to push, {asked.num_rows} departures to predict")
    server, address = serve(command, folder)
    try:
        with asof.Client(address) as client:
            online = play(client, asked, arrivals)
            time.sleep(1)
            print("3. Every logged prediction again")
            replayed = run("predictions", "replay")["replayed"]
            pq.write_table(asked, folder / "asked.parquet")
            run("predict-batch", "arrival_delay", "--entities", "asked.parquet", "--out", "scored.parquet")
    finally:
        server.terminate()
        server.wait()
    scored = pq.read_table(folder / "scored.parquet")["prediction"].to_pylist()
    shutil.rmtree(folder)
    wrong = sum(a != b for a, b in zip(online, scored, strict=True))
    print(f"\n{asked.num_rows} departures, {replayed} predictions replayed to the bit, {wrong} differ from the batch's")
    return 1 if wrong or replayed <= asked.num_rows else 0


def train(run: Any, folder: Path) -> None:
    """Registers two versions: the first one is the champion, the second the challenger."""
    flights = pq.read_table(ROOT / "data/nycflights13/flights.parquet")
    minutes = pc.cast(pc.multiply(flights["minute"], 60), pa.duration("s"))
    times = pc.cast(pc.add(flights["time_hour"], minutes), pa.timestamp("us", "UTC"))
    flights = flights.append_column("event_timestamp", times)
    begin = pa.scalar(datetime(2013, 5, 1, tzinfo=timezone.utc), pa.timestamp("us", "UTC"))
    is_of_may = pc.and_(pc.greater_equal(times, begin), pc.less(times, pa.scalar(START, times.type)))
    spine = flights.filter(pc.and_(is_of_may, pc.is_valid(flights["arr_delay"])))
    pq.write_table(spine.select([*KEYS, "event_timestamp", "arr_delay"]), folder / "may.parquet")
    run("get-batch-features", "--service", SERVICE, "--entities", "may.parquet", "--out", "training.parquet")
    frame = pq.read_table(folder / "training.parquet").to_pandas()
    late = frame["arr_delay"] > LATE_MINUTES
    numbers = frame.drop(columns=["arr_delay"]).select_dtypes(["number", "bool"])
    for version, inputs in enumerate([list(numbers.columns), [name for name in numbers.columns if "delay" in name]], start=1):
        data = lightgbm.Dataset(numbers[inputs].astype(float).to_numpy(), late, feature_name=inputs)
        model = lightgbm.train({"objective": "binary", "verbose": -1, "seed": 1, "num_threads": 2}, data, 60)
        model.save_model(folder / f"model_{version}.txt")
        rows = numbers[inputs].astype(float).head(20)
        golden = [
            {**{name: value for name, value in row.items() if not np.isnan(value)}, "prediction": prediction}
            for row, prediction in zip(rows.to_dict("records"), model.predict(rows.to_numpy()), strict=True)
        ]
        (folder / "golden.ndjson").write_text("".join(json.dumps(row) + "\n" for row in golden))
        run(
            "models", "register", "arrival_delay", f"model_{version}.txt", "--service", SERVICE,
            "--golden", "golden.ndjson", "--training", "training.parquet.asof.json",
        )  # fmt: skip
    run("models", "alias", "arrival_delay", "challenger", "2")


def play(client: asof.Client, asked: pa.Table, arrivals: pa.Table) -> list[float]:
    """Pushes what has landed, and predicts what departs, minute by minute."""
    predictions: list[float] = []
    landed, times = arrivals["landed_at"].to_pylist(), asked["event_timestamp"].to_pylist()
    pushed = start = 0
    while start < len(times):
        now, end = times[start], start
        while end < len(times) and times[end] == now:
            end += 1
        until = pushed
        while until < len(landed) and landed[until] <= now:
            until += 1
        if until > pushed:
            client.push("arrivals", arrivals.slice(pushed, until - pushed), acknowledge="visible")
            pushed = until
        rows = asked.select(KEYS).slice(start, end - start)
        ids = [f"{now:%m%d%H%M}-{number}" for number in range(start, end)]
        answer = client.predict("arrival_delay", rows, prediction_ids=ids, now=now)
        predictions.extend(answer.to_dict()["prediction"])
        start = end
    return predictions


if __name__ == "__main__":
    sys.exit(main())
