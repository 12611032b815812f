"""The asof command on projects: fixtures for tests, and for the examples in docstrings."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import asof

PROJECT = {
    "asof.yaml": "project: client_test\n",
    "feature_defs/all.yaml": """\
entities:
  - {name: origin, join_keys: [{name: origin, type: string}]}
sources:
  - name: weather
    batch: {format: csv, path: weather.csv}
    event_timestamp: observed_at
feature_views:
  - name: origin_weather
    entities: [origin]
    source: weather
    ttl: 3h
    features: [{name: temp, type: float64}, {name: gusts, type: int64}]
on_demand_feature_views:
  - name: comfort
    request: [{name: wanted, type: float64}]
    features_from: ["origin_weather:temp"]
    features: [{name: too_cold_by, type: float64, expression: "wanted - temp"}]
feature_services:
  - {name: comfort_v1, features: [origin_weather, comfort]}
""",
    "weather.csv": """\
origin,observed_at,temp,gusts
EWR,2024-01-01T00:00:00Z,1.5,10
EWR,2024-01-01T01:00:00Z,2.5,
JFK,2024-01-01T00:30:00Z,-4.0,9007199254740993
""",
}


@pytest.fixture(scope="session")
def binary() -> str:
    if "ASOF_BIN" not in os.environ:
        pytest.skip("ASOF_BIN does not name the asof binary")
    return os.environ["ASOF_BIN"]


@pytest.fixture(scope="session")
def real_project(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of three rows, materialized."""
    project = tmp_path_factory.mktemp("project")
    for name, text in PROJECT.items():
        path = project / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    materialize(binary, project)
    return project


@pytest.fixture(scope="session")
def real_address(binary: str, real_project: Path) -> Iterator[str]:
    """A server of the binary that ASOF_BIN names."""
    with serving(binary, real_project) as address:
        yield address


def materialize(binary: str, project: Path, end: str = "2024-01-02") -> None:
    """Applies and materializes a project."""
    for command in (["apply", "--yes"], ["materialize", "--end", end]):
        subprocess.run([binary, *command], cwd=project, check=True)


@contextmanager
def serving(binary: str, project: Path) -> Iterator[str]:
    """Runs a server and gives its address."""
    listen = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"]
    server = subprocess.Popen(
        [binary, "serve", "--allow-request-time", *listen], cwd=project, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    document = ""
    for line in server.stdout:
        document += line
        if line == "}\n":
            break
    try:
        yield json.loads(document)["grpc"]
    finally:
        server.terminate()
        server.wait(timeout=30)
        server.stdout.close()


@pytest.fixture(autouse=True)
def examples(request: pytest.FixtureRequest) -> Iterator[None]:
    """Examples in docstrings that ask a `client`, or start a server, have the real one, and a folder of their own."""
    example = getattr(request.node, "dtest", None)
    source = "" if example is None else "".join(each.source for each in example.examples)
    if "client." not in source and "asof.Local" not in source:
        yield
        return
    namespace: dict[str, Any] = request.getfixturevalue("doctest_namespace")
    request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
    with asof.Client(request.getfixturevalue("real_address")) as client:
        namespace.update(client=client, datetime=datetime, asof=asof)
        yield
