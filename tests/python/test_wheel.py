"""One `pip install` of the built wheel in a fresh environment, ten lines of Python, a served feature."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TEN_LINES = """
import asof
open("orders.csv", "w").write("customer,at,total\\nann,2024-05-01T10:00:00Z,12.5\\nann,2024-05-02T10:00:00Z,7\\n")
customer = asof.Entity(name="customer", join_keys=[asof.Field("customer", "string")])
orders = asof.Source(name="orders", batch=asof.Batch("csv", "orders.csv"), event_timestamp="at")
spent = asof.Aggregation(name="spent", input="total", function="sum", windows=["lifetime"])
view = asof.FeatureView(name="customer_orders", entities=[customer], source=orders, aggregations=[spent])
with asof.Local(".", create=True) as store:
    store.apply(view)
    store.materialize()
    print(store.get_online_features(features=["customer_orders"], entities=[{"customer": "ann"}]).to_dict())
"""


@pytest.fixture(scope="module")
def environment(asof_bin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a new environment with nothing in it but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, REPOSITORY / "python/scripts/build_wheel.py", asof_bin, folder], check=True)
    (wheel,) = folder.glob("asof-*-py3-none-manylinux_*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    programs = folder / "venv" / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
    wheel.unlink()
    return programs


def run(environment: Path, *command: str, cwd: Path) -> str:
    """What a program of the environment prints, where no other asof can be found."""
    variables = {name: value for name, value in os.environ.items() if name not in ("ASOF_BIN", "PYTHONPATH")}
    variables["PATH"] = f"{environment}:/usr/bin:/bin"
    done = subprocess.run(
        [environment / command[0], *command[1:]], cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ten_lines_serve_a_feature(environment: Path, tmp_path: Path) -> None:
    assert len(TEN_LINES.strip().splitlines()) == 10
    assert run(environment, "python", "-c", TEN_LINES, cwd=tmp_path) == (
        "{'customer': ['ann'], 'spent_lifetime': [19.5]}\n"
    )


def test_the_command_is_there_too(environment: Path, tmp_path: Path) -> None:
    assert run(environment, "asof", "--version", cwd=tmp_path).startswith("asof ")
    run(environment, "asof", "init", "shop", cwd=tmp_path)
    assert '"entities"' in run(environment, "asof", "--project", "shop", "schema", cwd=tmp_path)
    usage = run(environment, "asof", "--help", cwd=tmp_path)
    assert "materialize" in usage and "import-feast" in usage
    (tmp_path / "defs.py").write_text(
        "import asof\ncarrier = asof.Entity(name='carrier', join_keys=[asof.Field('carrier', 'string')])\n"
    )
    run(environment, "asof", "export", "defs.py", "--project", "shop", cwd=tmp_path)
    assert "carrier" in (tmp_path / "shop/feature_defs/defs.yaml").read_text()
    run(environment, "asof", "--project", "shop", "apply", "--yes", cwd=tmp_path)
