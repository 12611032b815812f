"""What shadows see, and that nobody but they suffer from what they do; what of predictions is kept."""

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deltalake
import pandas as pd
import pytest
from conftest import Run
from shops import metrics, post, predict, register, serving, wait_until



def logged(folder: Path, run: Run) -> pd.DataFrame:
    run("predictions", "replay")
    return deltalake.DeltaTable(folder / "state/offline/predictions/log").to_pandas()


def apply_routes(folder: Path, run: Run, routes: str) -> Any:
    (folder / "feature_defs" / "routes.yaml").write_text(f"prediction_routes:\n{routes}")
    return run("apply", "--yes")


def test_a_shadow_of_two_percent_sees_its_share_and_the_same_ids_each_time(
    asof_bin: str, project: Path, run: Run
) -> None:
    apply_routes(project, run, "  - {name: r, model: demand@1, shadows: [{model: demand@2, percent: 2}], log: {durability: process}}\n")
    ids = [f"id-{number}" for number in range(10_000)]
    with serving(asof_bin, project) as (address, _):
        for _ in range(2):
            for first in range(0, len(ids), 500):
                some = ids[first : first + 500]
                body = {"route": "r", "entities": {"shop": ["a"] * 500}, "request": {"price": [1.0] * 500}}
                assert len(post(address, "/predict", {**body, "prediction_ids": some})["predictions"]) == 500
        wait_until(lambda: shadow_rows(address, "done") == (logged(project, run)["role"] == "shadow").sum() > 300)
        time.sleep(0.5)
        assert shadow_rows(address, "dropped") == 0
        log = logged(project, run)
    seen = log[log["role"] == "shadow"]["prediction_id"].value_counts()
    assert set(seen) == {2}, "each id is chosen both times, or never"
    # The 99.9 % band of a binomial distribution, by its normal approximation.
    assert abs(len(seen) - 200) <= 3.2905 * (10_000 * 0.02 * 0.98) ** 0.5
    assert (log["role"] == "primary").sum() == 20_000


def shadow_rows(address: dict[str, str], outcome: str) -> int:
    lines = [line for line in metrics(address).splitlines() if line.startswith("asof_shadow_rows_total") and f'"{outcome}"' in line]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def looping_model(file: Path) -> None:
    """Adds one to `rating` as often as `loops` says."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["go_on"]),
            helper.make_node("Add", ["sum", "one"], ["sum_after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_after", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["loops", "scalar"], ["count"]),
            helper.make_node("Loop", ["count", "", "rating"], ["prediction"], body=body),
        ],
        "looping",
        [
            helper.make_tensor_value_info("rating", TensorProto.FLOAT, [None, 1]),
            helper.make_tensor_value_info("loops", TensorProto.INT64, [None, 1]),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("scalar", TensorProto.INT64, [0], [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


@contextmanager
def shadowed(asof_bin: str, project: Path, run: Run, loops: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server with a route whose shadow takes so many steps a row."""
    onnxruntime = pytest.importorskip("onnxruntime")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    monkeypatch.setenv("ORT_DYLIB_PATH", str(library))
    looping_model(project / "looping.onnx")
    asked = ["--service", "shops_v1", "--default", f"loops={loops}"]
    assert run("models", "register", "looping", str(project / "looping.onnx"), *asked)["version"] == 1
    apply_routes(project, run, "  - {name: r, model: demand@1, shadows: [{model: looping, percent: 100}], log: {durability: process}}\n")
    with serving(asof_bin, project) as served:
        yield served


def test_a_shadow_that_hangs_loses_only_its_own_work(
    asof_bin: str, project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shadowed(asof_bin, project, run, 10**15, monkeypatch) as (address, server):
        before = predict(address, "demand", ["a"], price=[1.0])
        latencies = []
        for number in range(600):
            begun = time.perf_counter()
            assert predict(address, "r", ["a"], price=[1.0])["predictions"] == before["predictions"], number
            latencies.append(time.perf_counter() - begun)
        # One that it works at, and those that its queue holds.
        assert shadow_rows(address, "dropped") == 600 - 256 - 1
        assert shadow_rows(address, "done") == 0
        assert statistics.median(latencies) < 0.1
        # It is replaced by one that does not hang: that one sees what comes.
        apply_routes(project, run, "  - {name: r, model: demand@1, shadows: [{model: demand@2, percent: 100}]}\n")
        wait_until(lambda: predict(address, "r", ["a"], price=[1.0]) and shadow_rows(address, "done") > 0)
        server.terminate()
        assert server.wait(timeout=20) == 0, "the server ends although a shadow does not"


def test_a_slow_shadow_is_given_what_its_queue_holds(
    asof_bin: str, project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shadowed(asof_bin, project, run, 1000, monkeypatch) as (address, _):
        for _ in range(400):
            predict(address, "r", ["a", "b"], price=[1.0, 2.0])
        wait_until(lambda: shadow_rows(address, "done") + shadow_rows(address, "dropped") == 800)
        log = logged(project, run)
        shadow = log[log["role"] == "shadow"]
        assert len(shadow) == shadow_rows(address, "done") > 0
        # `b` has no rating: the loop adds to what is missing.
        assert {values[0] for values in shadow["prediction"]} >= {1004.0}
        assert (log["role"] == "primary").sum() == 800


def test_a_shadow_that_cannot_be_asked_is_told_of_and_left_out(asof_bin: str, project: Path, run: Run) -> None:
    apply_routes(project, run, "  - {name: r, model: demand@1, shadows: [{model: nobody, percent: 100}]}\n")
    with serving(asof_bin, project) as (address, _):
        assert predict(address, "r", ["a"], price=[1.0])["model_version"] == 1
    for condition, message in [("zzz = 1", "zzz"), ("syntax (", "cannot be compiled"), ("price + 1", "bool")]:
        routes = f'  - {{name: r, model: demand@1, shadows: [{{model: demand@2, percent: 100, where: "{condition}"}}]}}\n'
        (project / "feature_defs" / "routes.yaml").write_text(f"prediction_routes:\n{routes}")
        refused = subprocess.run([asof_bin, "apply", "--yes"], cwd=project, capture_output=True, text=True, check=False)
        assert refused.returncode == 1 and "shadow `demand@2` is left out" in refused.stderr and message in refused.stderr
    run("apply", "--yes", "--allow-breaking")
    with serving(asof_bin, project) as (address, _):
        assert predict(address, "r", ["a"], price=[1.0])["model_version"] == 1
    refused = subprocess.run(
        [asof_bin, "models", "retire", "demand", "2"], cwd=project, capture_output=True, text=True, check=False
    )
    assert "is named by route `r`" in refused.stderr or "challenger" in refused.stderr


def test_a_share_of_predictions_is_kept_and_only_as_long_as_asked(asof_bin: str, project: Path, run: Run) -> None:
    apply_routes(project, run, "  - {name: r, model: demand@1, log: {sample: 0.1}}\n  - {name: brief, model: demand@1, log: {retention: 1s}}\n")
    ids = [f"id-{number}" for number in range(2000)]
    entities, request = {"shop": ["a"] * 2000}, {"price": [1.0] * 2000}
    with serving(asof_bin, project) as (address, _):
        for _ in range(2):
            post(address, "/predict", {"route": "r", "entities": entities, "request": request, "prediction_ids": ids})
        predict(address, "brief", ["a", "b"], price=[1.0, 1.0])
        log = logged(project, run)
        kept = log[log["route"] == "r"]["prediction_id"].value_counts()
        assert set(kept) == {2} and abs(len(kept) - 200) <= 3.2905 * (2000 * 0.1 * 0.9) ** 0.5
        assert (log["route"] == "brief").sum() == 2
    time.sleep(1)
    # What is old is deleted when a server starts, and once an hour.
    with serving(asof_bin, project):
        wait_until(lambda: (logged(project, run)["route"] == "brief").sum() == 0)
        assert len(logged(project, run)) == 2 * len(kept)
