"""A project of shops with two versions of a model and routes over them, and what asks its server."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

DEFINITIONS = """
entities:
  - {name: shop, join_keys: [{name: shop, type: string}]}
sources:
  - {name: profile, batch: {format: csv, path: shops.csv}, event_timestamp: at}
feature_views:
  - name: shop_profile
    entities: [shop]
    source: profile
    features: [{name: rating, type: float64}, {name: orders, type: int64}, {name: city, type: string}]
feature_services:
  - {name: shops_v1, features: [shop_profile]}
"""
ROUTES = """
prediction_routes:
  - name: demand
    model: demand@champion
    shadows: [{model: demand@challenger, percent: 100, where: "city = 'Bern'"}]
  - name: trial
    model: demand@champion
    experiment: {name: second, unit: visitor, variants: [{model: demand@1, weight: 50}, {model: demand@2, weight: 50}]}
  - name: chain
    steps: [{model: demand@1, as: first}, {when: "first > 0", model: demand@2, else: demand@1}]
  - name: known
    lookup: shop_profile:rating
    fallback: demand@1
"""
SHOPS = """at,shop,rating,orders,city
2024-01-01T00:00:00Z,a,4.5,10,Bern
2024-01-01T00:00:00Z,b,,3,Basel
2024-01-02T00:00:00Z,a,4.0,12,Bern
2024-01-01T00:00:00Z,c,3.5,,Bern
"""


@pytest.fixture(scope="session")
def shops(asof_bin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, made once: its tests take copies."""
    tmp_path = tmp_path_factory.mktemp("shops")

    def run(*arguments: str) -> None:
        subprocess.run([asof_bin, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "asof.yaml").write_text("project: shops\n")
    (tmp_path / "shops.csv").write_text(SHOPS)
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "feature_defs" / "shops.yaml").write_text(DEFINITIONS)
    run("apply", "--yes")
    run("materialize")
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"rating": rng.uniform(1, 5, 300), "orders": rng.integers(0, 20, 300), "price": rng.uniform(0, 9, 300)})
    frame["city"] = pd.Categorical(np.array(["Basel", "Bern"])[rng.integers(0, 2, 300)])
    for version, factor in enumerate((1.0, -1.0), start=1):
        target = factor * (frame["rating"] - 3 + frame["orders"] / 10 - frame["price"] / 9)
        booster = lightgbm.train({"verbose": -1, "num_leaves": 7, "min_data_per_group": 5, "seed": version}, lightgbm.Dataset(frame, target), 20)
        booster.save_model(tmp_path / f"{version}.txt")
        golden = frame.iloc[:3].to_dict("records")
        lines = [json.dumps({**row, "prediction": value}) for row, value in zip(golden, booster.predict(frame.iloc[:3]))]
        (tmp_path / f"{version}.ndjson").write_text("\n".join(lines))
        run(*register(Path(), version))
    run("models", "alias", "demand", "challenger", "2")
    (tmp_path / "feature_defs" / "routes.yaml").write_text(ROUTES)
    run("apply", "--yes")
    return tmp_path


@pytest.fixture
def project(shops: Path, tmp_path: Path) -> Path:
    """A project with two versions of a model and routes over them."""
    shutil.copytree(shops, tmp_path, dirs_exist_ok=True)
    return tmp_path


def register(folder: Path, version: int) -> list[str]:
    return [
        "models", "register", "demand", str(folder / f"{version}.txt"), "--service", "shops_v1", "--request", "price",
        "--default", "orders=5", "--golden", str(folder / f"{version}.ndjson"), "--metrics", "rmse=0.1",
    ]  # fmt: skip


def expected(folder: Path, version: int, **columns: Any) -> np.ndarray:
    frame = pd.DataFrame(columns)[["rating", "orders", "price", "city"]]
    frame = frame.astype({"rating": float, "orders": float, "price": float})
    frame["city"] = pd.Categorical(frame["city"], categories=["Basel", "Bern"])
    return lightgbm.Booster(model_file=folder / f"{version}.txt").predict(frame)


@contextmanager
def serving(asof_bin: str, folder: Path, **environment: str) -> Iterator[tuple[dict[str, str], subprocess.Popen[str]]]:
    command = [asof_bin, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as server:
        assert server.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            lines.append(server.stdout.readline())
        address = json.loads("".join(lines))
        wait_until(lambda: status_of(address, "/v2/health/ready") == 200)
        try:
            yield address, server
        finally:
            server.send_signal(signal.SIGTERM)


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status_of(address: dict[str, str], path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address['http']}{path}") as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0


def post(address: dict[str, str], path: str, body: Any) -> Any:
    content = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://{address['http']}{path}", json.dumps(body).encode(), content)
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.load(error)}


def predict(address: dict[str, str], route: str, shops: list[str], **request: list[Any]) -> Any:
    return post(address, "/predict", {"route": route, "entities": {"shop": shops}, "request": request})


def metrics(address: dict[str, str]) -> str:
    with urllib.request.urlopen(f"http://{address['http']}/metrics") as answer:
        return str(answer.read().decode())
