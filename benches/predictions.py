"""The evaluator of tree models beside its peers: 100 trees of depth 6 over 50 features, one thread, one run.

Usage: predictions.py --asof COMMAND [--rounds N]

ONNX Runtime, LightGBM's C API (its fast path for single rows; for 100 rows its matrix call) and lleaves, each where it
is installed; a round measures all of them after each other, and the medians of the rounds are printed. LightGBM's C API
is called through ctypes with everything prepared, so that Python adds about a microsecond. lleaves needs `llvmlite<0.45`.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np

FEATURES, TREES, ROWS = 50, 100, 1000


def timed(call: Callable[[int], object], calls: int) -> float:
    """The median of a call in microseconds."""
    for number in range(calls // 10):
        call(number)
    times = []
    for number in range(calls):
        begun = time.perf_counter_ns()
        call(number)
        times.append(time.perf_counter_ns() - begun)
    return statistics.median(times) / 1e3


def c_api(model: Path, data: np.ndarray, batch: int) -> Callable[[int], object]:
    library, handle, count = lightgbm.basic._LIB, ctypes.c_void_p(), ctypes.c_int()
    library.LGBM_BoosterCreateFromModelfile(str(model).encode(), ctypes.byref(count), ctypes.byref(handle))
    parameters, length = b"num_threads=1", ctypes.c_int64()
    result = (ctypes.c_double * batch)()
    pointers = [ctypes.c_void_p(data[start:].ctypes.data) for start in range(0, len(data) - batch + 1, batch)]
    if batch == 1:
        fast = ctypes.c_void_p()
        library.LGBM_BoosterPredictForMatSingleRowFastInit(
            handle, 0, 0, -1, 1, FEATURES, parameters, ctypes.byref(fast)
        )  # fmt: skip
        return lambda number: library.LGBM_BoosterPredictForMatSingleRowFast(
            fast, pointers[number % len(pointers)], ctypes.byref(length), result
        )
    return lambda number: library.LGBM_BoosterPredictForMat(
        handle, pointers[number % len(pointers)], 1, batch, FEATURES, 1, 0, 0, -1, parameters, ctypes.byref(length), result
    )


def onnx(model: Path, folder: Path, data: np.ndarray, batch: int) -> Callable[[int], object]:
    import onnxruntime
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    kind = [("input", FloatTensorType([None, FEATURES]))]
    converted = convert_lightgbm(lightgbm.Booster(model_file=model), initial_types=kind, zipmap=False, target_opset=15)
    (folder / "model.onnx").write_bytes(converted.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    rows = data.astype(np.float32)
    batches = [{"input": rows[start : start + batch]} for start in range(0, len(rows) - batch + 1, batch)]
    return lambda number: session.run(["probabilities"], batches[number % len(batches)])


def lleaves(model: Path, data: np.ndarray, batch: int) -> Callable[[int], object]:
    import lleaves

    compiled = lleaves.Model(model_file=str(model))
    compiled.compile()
    batches = [data[start : start + batch] for start in range(0, len(data) - batch + 1, batch)]
    return lambda number: compiled.predict(batches[number % len(batches)], n_jobs=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--asof", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    train, data = rng.normal(size=(20_000, FEATURES)), rng.normal(size=(ROWS, FEATURES))
    target = train[:, 0] * train[:, 1] + train[:, 2:12].sum(axis=1) * 0.3 + rng.normal(size=len(train)) > 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.txt"
        parameters = {"objective": "binary", "max_depth": 6, "num_leaves": 64, "verbose": -1, "num_threads": 2}
        lightgbm.train(parameters, lightgbm.Dataset(train, target), TREES).save_model(model)
        (folder / "rows.ndjson").write_text("".join(json.dumps(row.tolist()) + "\n" for row in data))

        def asof(batch: int) -> float:
            arguments = ["models", "bench", str(model), "--rows", str(folder / "rows.ndjson"), "--batch", str(batch), "--seconds", "1"]
            done = subprocess.run([options.asof, *arguments, "--output", "json"], check=True, capture_output=True)
            return float(json.loads(done.stdout)["p50_us"])

        for batch in (1, 100):
            peers: dict[str, Callable[[int], object]] = {"LightGBM C API": c_api(model, data, batch)}
            for peer, make in (
                ("ONNX Runtime", lambda: onnx(model, folder, data, batch)),
                ("lleaves", lambda: lleaves(model, data, batch)),
            ):
                try:
                    peers[peer] = make()
                except ImportError as error:
                    print(f"{peer} is left out: {error}")
            times: dict[str, list[float]] = {"asof": [], **{peer: [] for peer in peers}}
            for _ in range(options.rounds):
                times["asof"].append(asof(batch))
                for peer, call in peers.items():
                    times[peer].append(timed(call, 4000 // batch))
            medians = {peer: statistics.median(values) for peer, values in times.items()}
            fastest = min(median for peer, median in medians.items() if peer != "asof")
            for peer, median in medians.items():
                print(f"{batch:4} rows  {peer:15} {median:9.2f} us  {median / medians['asof']:6.2f}")
            print(f"{batch:4} rows  the fastest peer takes {fastest / medians['asof']:.2f} times as long")


if __name__ == "__main__":
    main()
