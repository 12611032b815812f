"""A project in a temporary folder, driven through the built command (ASOF_BIN)."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def asof_bin() -> str:
    if "ASOF_BIN" not in os.environ:
        pytest.fail("ASOF_BIN has to name the built command; `make python-test` sets it")
    return os.environ["ASOF_BIN"]


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
