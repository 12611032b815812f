"""The training example: the notebook is the script, and runs without a screen from its first cell to its last."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import lightgbm
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/flights"
RUN_CELLS = """
import json, sys
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), globals())
"""


def test_the_notebook_is_the_script() -> None:
    made = runpy.run_path(str(EXAMPLE / "notebook.py"))
    written = (EXAMPLE / "train.ipynb").read_text()
    message = "run python examples/flights/notebook.py"
    assert written == made["text"](made["notebook"]((EXAMPLE / "train.py").read_text())), message


@pytest.fixture(scope="module")
def out(asof_bin: str, flights_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the notebook leaves."""
    folder = tmp_path_factory.mktemp("example")
    variables = {"MPLBACKEND": "agg", "ASOF_BIN": asof_bin, "ASOF_EXAMPLE_OUT": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_CELLS, EXAMPLE / "train.ipynb"],
        cwd=flights_project,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_model_is_better_than_chance_on_flights_of_later_months(out: Path) -> None:
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["test_rows"] > 10_000
    # A model that knew the future would be far better: the label's own delay separates perfectly.
    assert 0.70 < metrics["auc"] < 0.90
    assert metrics["log_loss"] < metrics["log_loss_of_the_mean"] - 0.03


def test_the_same_flights_have_the_same_predictions_online(out: Path) -> None:
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["online_rows"] >= 300
    assert metrics["online_differences"] == 0


def test_the_model_is_in_the_own_format_of_lightgbm(out: Path) -> None:
    assert (out / "arrival_delay.txt").read_text().startswith("tree\n")
    names = lightgbm.Booster(model_file=out / "arrival_delay.txt").feature_name()
    assert "carrier_delay_mean_1h" in names and "late" not in names
    training = json.loads((out / "arrival_delay.training.json").read_text())
    assert training["registry_version"] == 1 and "carrier_delay" in training["tables"]


@pytest.mark.parametrize("plot", ["feature_over_time", "importance", "calibration"])
def test_the_plots_are_there(out: Path, plot: str) -> None:
    image = (out / f"{plot}.png").read_bytes()
    assert image.startswith(b"\x89PNG") and len(image) > 10_000


def test_a_new_project_of_the_template_has_it(asof_bin: str, tmp_path: Path) -> None:
    subprocess.run([asof_bin, "init", "new", "--template", "flights"], cwd=tmp_path, check=True, capture_output=True)
    for name in ("train.py", "train.ipynb"):
        assert (tmp_path / "new/examples/flights" / name).read_bytes() == (EXAMPLE / name).read_bytes()
