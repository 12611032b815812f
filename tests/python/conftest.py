"""A project in a temporary folder, driven through the built command (ASOF_BIN)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shops import project, shops

__all__ = ["project", "shops"]

Run = Callable[..., Any]
REPOSITORY = Path(__file__).parents[2]
# What runs a server is there, for the client's own tests and for these.
sys.path.append(str(REPOSITORY / "python" / "tests"))


@pytest.fixture(scope="session")
def asof_bin() -> str:
    if "ASOF_BIN" not in os.environ:
        pytest.fail("ASOF_BIN has to name the built command; `make python-test` sets it")
    return os.environ["ASOF_BIN"]


@pytest.fixture(scope="session")
def flights_project(asof_bin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flights example with a state of its own, materialized."""
    folder = tmp_path_factory.mktemp("flights")
    for name in ("asof.yaml", "feature_defs", "data", "examples"):
        (folder / name).symlink_to(REPOSITORY / name)
    for command in (["apply", "--yes"], ["materialize"]):
        subprocess.run([asof_bin, "--project", str(folder), *command], check=True, capture_output=True)
    return folder


@pytest.fixture
def run(asof_bin: str, tmp_path: Path) -> Run:
    """Runs the command in the project and gives the document it prints."""

    def run(*arguments: str) -> Any:
        done = subprocess.run(
            [asof_bin, *arguments, "--output", "json"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
