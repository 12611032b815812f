"""Measures predictions from the request to the answer, beside features alone and MLServer, and with shadows that misbehave.

    python benches/prediction_service.py --asof COMMAND [--mlserver PYTHON] [--onnx PYTHON] [--rounds N] [--seconds S]

LightGBM's model of 100 trees of depth 6 reads 25 features of a customer and 25 of a shop. Callers and servers share the
cores of the machine; in every round each is measured in turn, and numbers are medians of the rounds. MLServer, where a
Python with `mlserver-lightgbm` is named, and we are asked by the same load generator with the same messages of the Open
Inference Protocol, all 50 values in the request; and so is `asof bench-echo`, a bare gRPC server that sends the very messages
that we send, and does nothing else: no server of gRPC is faster here. For the latencies at half load the server has the first half of the
cores, and the callers the other half: what callers do is not what is measured. The shadows need a Python with `onnx` and `onnxruntime`: one hangs, one
takes 100 times as long as the model, and the route without shadows is measured before and after each.
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
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from serving import document, free_port, start

ENTITIES = 5_000
VIEWS = {"profile": ("customer", "a"), "history": ("shop", "b")}
CALLERS = 16
ROWS = (1, 200)
FEATURES_GOAL, MLSERVER_GOAL, P99_GOAL_MS, SHADOW_GOAL = 0.6, 10.0, 2.0, 1.05
# Steps of a loop that take about as long as the model, 100 times.
SLOW_LOOPS = 100
ENDLESS_LOOPS = 10**15

LOOPING_MODEL = """
import sys
from onnx import TensorProto, helper as h
body = h.make_graph(
    [h.make_node("Identity", ["condition"], ["go_on"]), h.make_node("Add", ["sum", "one"], ["after"])], "body",
    [h.make_tensor_value_info("number", TensorProto.INT64, []), h.make_tensor_value_info("condition", TensorProto.BOOL, []),
     h.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
    [h.make_tensor_value_info("go_on", TensorProto.BOOL, []), h.make_tensor_value_info("after", TensorProto.FLOAT, None)],
    [h.make_tensor("one", TensorProto.FLOAT, [], [1.0])])
graph = h.make_graph(
    [h.make_node("Reshape", ["loops", "scalar"], ["count"]), h.make_node("Loop", ["count", "", "a00"], ["prediction"], body=body)],
    "looping", [h.make_tensor_value_info("a00", TensorProto.FLOAT, [None, 1]),
    h.make_tensor_value_info("loops", TensorProto.INT64, [None, 1])],
    [h.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
    [h.make_tensor("scalar", TensorProto.INT64, [0], [])])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
open(sys.argv[1], "wb").write(model.SerializeToString())
import onnxruntime, pathlib
print(next((pathlib.Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")))
"""


def columns(letter: str) -> list[str]:
    return [f"{letter}{number:02}" for number in range(25)]


def write_project(folder: Path, asof: str) -> None:
    random = np.random.default_rng(1)
    times = pa.array(np.full(ENTITIES, time.time_ns() // 1000 - 3_600_000_000), pa.timestamp("us", "UTC"))
    definitions: dict[str, list[str]] = {"entities": [], "sources": [], "feature_views": []}
    for view, (entity, letter) in VIEWS.items():
        values = {name: pa.array(random.normal(size=ENTITIES)) for name in columns(letter)}
        keys = pa.array([f"{number:08}" for number in range(ENTITIES)])
        pq.write_table(pa.table({entity: keys, "at": times} | values), folder / f"{view}.parquet")
        features = ", ".join(f"{{name: {name}, type: float64}}" for name in columns(letter))
        batch = f"{{format: parquet, path: {view}.parquet}}"
        definitions["entities"].append(f"{{name: {entity}, join_keys: [{{name: {entity}, type: string}}]}}")
        definitions["sources"].append(f"{{name: {view}s, batch: {batch}, event_timestamp: at}}")
        definitions["feature_views"].append(
            f"{{name: {view}, entities: [{entity}], source: {view}s, features: [{features}]}}"
        )
    text = "".join(f"{kind}:\n" + "".join(f"  - {each}\n" for each in all_) for kind, all_ in definitions.items())
    (folder / "feature_defs").mkdir()
    (folder / "feature_defs/bench.yaml").write_text(text + "feature_services: [{name: all, features: [profile, history]}]\n")
    (folder / "asof.yaml").write_text("project: bench\nserver: {limits: {request_rows: 10000}}\n")
    train = random.normal(size=(20_000, 50))
    target = train[:, 0] * train[:, 1] + train[:, 2:12].sum(axis=1) * 0.3 + random.normal(size=len(train)) > 0
    parameters = {"objective": "binary", "max_depth": 6, "num_leaves": 64, "verbose": -1, "num_threads": 2}
    data = lightgbm.Dataset(train, target, feature_name=columns("a") + columns("b"))
    lightgbm.train(parameters, data, 100).save_model(folder / "model.txt")
    document(folder, asof, "apply", "--yes")
    document(folder, asof, "models", "register", "score", "model.txt", "--service", "all", "--matrix")
    document(folder, asof, "materialize")


def write_routes(folder: Path, asof: str, shadows: dict[str, str]) -> None:
    routes = [f"{{name: {name}, model: score, log: {{durability: {name}}}}}" for name in ("process", "machine", "none")]
    routes += [
        f"{{name: {name}, model: score, log: {{durability: process}}, shadows: [{{model: {model}, percent: 100}}]}}"
        for name, model in shadows.items()
    ]
    text = "prediction_routes:\n" + "".join(f"  - {route}\n" for route in routes)
    (folder / "feature_defs/routes.yaml").write_text(text)
    document(folder, asof, "apply", "--yes")


def register_shadows(folder: Path, asof: str, python: str) -> tuple[dict[str, str], dict[str, str]]:
    """Routes with the model of their shadow, and what the server's environment needs for them."""
    made = subprocess.run([python, "-c", LOOPING_MODEL, str(folder / "looping.onnx")], check=True, stdout=subprocess.PIPE, text=True)
    library = {"ORT_DYLIB_PATH": made.stdout.strip()}
    os.environ.update(library)
    for name, loops in (("slow", SLOW_LOOPS), ("hanging", ENDLESS_LOOPS)):
        asked = ["--service", "all", "--default", f"loops={loops}"]
        document(folder, asof, "models", "register", name, "looping.onnx", *asked)
    return {"slow_shadow": "slow", "hanging_shadow": "hanging"}, library


def start_mlserver(folder: Path, python: str) -> tuple[subprocess.Popen[bytes], str]:
    place = folder / "mlserver"
    place.mkdir()
    shutil.copy(folder / "model.txt", place / "model.txt")
    grpc = free_port()
    settings = {"http_port": free_port(), "grpc_port": grpc, "metrics_port": free_port(), "host": "127.0.0.1", "debug": False, "parallel_workers": 0}
    (place / "settings.json").write_text(json.dumps(settings))
    model = {"name": "score", "implementation": "mlserver_lightgbm.LightGBMModel", "parameters": {"uri": "./model.txt"}}
    (place / "model-settings.json").write_text(json.dumps(model))
    command = [str(Path(python).parent / "mlserver"), "start", str(place)]
    with (folder / "mlserver.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)
    return process, f"127.0.0.1:{grpc}"


class Load:
    def __init__(self, folder: Path, asof: str, seconds: float) -> None:
        self.folder, self.asof, self.seconds = folder, asof, seconds

    def __call__(self, server: str, rows: int, *asked: str) -> dict[str, float]:
        options = ["--server", server, "--entities", str(rows), "--seconds", str(self.seconds), "--warm-up", "0.5"]
        found = document(self.folder, self.asof, "bench-serve", *asked, *options)
        if found["errors"]:
            sys.exit(f"{asked}: {found['errors']} requests failed: {found['first_error']}")
        return {"rate": found["requests_per_second"], "p50": found["p50_us"] / 1e3, "p99": found["p99_us"] / 1e3,
                "cpu": found["server_cpu_us_per_request"] or float("nan")}  # fmt: skip


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def line(text: str, found: float, goal: float, is_met: bool) -> None:
    print(f"{text:70}{found:10.2f}{goal:10.2f}{'' if is_met else '  MISSED'}")


def measure(load: Load, ours: str, echo: str, mlserver: str | None, rounds: int) -> None:
    callers = ["--concurrency", str(CALLERS)]
    asked = {
        "features alone": (ours, ["--service", "all"]),
        "predictions": (ours, ["--route", "process"]),
        "predictions, logged through a crash of the machine": (ours, ["--route", "machine"]),
        "predictions, logged behind the answer": (ours, ["--route", "none"]),
    }
    inference = ["--inference", "score", "--width", "50"]
    asked |= {"open inference, asof": (ours, inference), "open inference, a bare server": (echo, inference)}
    if mlserver is not None:
        asked["open inference, MLServer"] = (mlserver, inference)
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for rows in ROWS:
            for name, (server, what) in asked.items():
                found.setdefault((name, rows), []).append(load(server, rows, *what, *callers))
    measured = {cell: medians(values) for cell, values in found.items()}
    print(f"\n{CALLERS} callers\n{'rows':>5}  {'':52}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>8}")
    for (name, rows), numbers in measured.items():
        print(f"{rows:5}  {name:52}{numbers['rate']:12,.0f}{numbers['p50']:9.2f}{numbers['p99']:9.2f}{numbers['cpu']:8,.0f}")
    print(f"\n{'':70}{'found':>10}{'goal':>10}")
    part = measured["predictions", 1]["rate"] / measured["features alone", 1]["rate"]
    line("predictions/s to requests for features alone", part, FEATURES_GOAL, part >= FEATURES_GOAL)
    if mlserver is not None:
        asof, bare, peer = (measured[f"open inference, {who}", 1]["rate"] for who in ("asof", "a bare server", "MLServer"))
        line("Open Inference Protocol, 1 row, to MLServer", asof / peer, MLSERVER_GOAL, asof / peer >= MLSERVER_GOAL)
        print(f"{'the same of a bare server':70}{bare / peer:10.2f}")


def measure_half_load(load: Load, rounds: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    os.sched_setaffinity(0, cores[:half] or cores)
    server, address = start(load.folder, load.asof, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    echo_server, echo = start(load.folder, load.asof, "bench-echo", "--server", address["grpc"])
    os.sched_setaffinity(0, cores[half:])
    try:
        ours, bare = address["grpc"], echo["grpc"]
        asked = ((ours, ["--route", "process"]), (ours, ["--service", "all"]), (bare, ["--service", "all"]))
        rate = load(ours, 1, *asked[0][1], "--concurrency", str(CALLERS))["rate"] / 2
        found = [[load(who, 1, *what, "--rate", str(rate)) for who, what in asked] for _ in range(rounds)]
    finally:
        os.sched_setaffinity(0, cores)
        for process in (echo_server, server):
            process.terminate()
            process.wait()
    predictions, features, bare_features = (medians([each[side] for each in found]) for side in range(3))
    named = {"predictions": predictions, "features alone": features, "features of a bare server": bare_features}
    for name, numbers in named.items():
        print(f"{name} at half load ({rate:,.0f} requests/s): p50 {numbers['p50']:.2f} ms, p99 {numbers['p99']:.2f} ms")
    line("p99 of predictions at half load, ms", predictions["p99"], P99_GOAL_MS, predictions["p99"] <= P99_GOAL_MS)


def measure_shadows(load: Load, ours: str, shadows: dict[str, str], rounds: int) -> None:
    rate = load(ours, 1, "--route", "process", "--concurrency", str(CALLERS))["rate"] / 4
    print(f"\n{rate:,.0f} requests/s: p50 and p99 in ms")
    for route in shadows:
        pairs = []
        for _ in range(rounds):
            plain, with_shadow = (load(ours, 1, "--route", name, "--rate", str(rate)) for name in ("process", route))
            pairs.append((plain, with_shadow))
        plain, with_shadow = (medians([pair[side] for pair in pairs]) for side in (0, 1))
        print(f"{route:20} without {plain['p50']:6.2f} {plain['p99']:6.2f}   with {with_shadow['p50']:6.2f} {with_shadow['p99']:6.2f}")
        ratio = with_shadow["p99"] / plain["p99"]
        line(f"p99 with {route} to that without", ratio, SHADOW_GOAL, ratio <= SHADOW_GOAL)


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asof", required=True, type=os.path.abspath)
    parser.add_argument("--mlserver", help="a Python with mlserver-lightgbm")
    parser.add_argument("--onnx", help="a Python with onnx and onnxruntime")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", choices=["predictions", "shadows"])
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="asof-bench-"))
    processes: list[subprocess.Popen[Any]] = []
    try:
        write_project(folder, options.asof)
        shadows: dict[str, str] = {}
        if options.onnx and options.only != "predictions":
            shadows, _ = register_shadows(folder, options.asof, options.onnx)
        write_routes(folder, options.asof, shadows)
        mlserver = None
        if options.mlserver and options.only != "shadows":
            process, mlserver = start_mlserver(folder, options.mlserver)
            processes.append(process)
            time.sleep(8)
        server, address = start(folder, options.asof, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
        processes.append(server)
        echo_server, echo = start(folder, options.asof, "bench-echo", "--server", address["grpc"])
        processes.append(echo_server)
        load = Load(folder, options.asof, options.seconds)
        if options.only != "shadows":
            measure(load, address["grpc"], echo["grpc"], mlserver, options.rounds)
        if shadows:
            measure_shadows(load, address["grpc"], shadows, options.rounds)
        if options.only != "shadows":
            for process in (echo_server, server):
                processes.remove(process)
                process.terminate()
                process.wait()
            measure_half_load(load, options.rounds)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
