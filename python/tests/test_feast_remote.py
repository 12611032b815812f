"""Feast's own SDK, unmodified, reads from an Asof server as from its own; with ASOF_FEAST_PYTHON, a Python that has feast."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from real_server import materialize

import asof

FEAST = os.environ.get("ASOF_FEAST_PYTHON")
SCRIPT = """
import json, sys
from datetime import timedelta
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
source = FileSource(path="weather.parquet", timestamp_field="observed_at")
view = FeatureView(
    name="origin_weather", entities=[origin], ttl=timedelta(0), source=source,
    schema=[Field(name="temp", dtype=Float64), Field(name="gusts", dtype=Int64)],
)
store = FeatureStore(repo_path=".")
store.apply([origin, view, FeatureService(name="weather_v1", features=[view])])
rows = [{"origin": name} for name in ("JFK", "EWR", "LGA")]
by_name = store.get_online_features(features=["origin_weather:temp", "origin_weather:gusts"], entity_rows=rows)
by_service = store.get_online_features(features=store.get_feature_service("weather_v1"), entity_rows=rows)
print(json.dumps([by_name.to_dict(), by_service.to_dict()]))
"""
DEFINITIONS = """\
entities: [{name: origin, join_keys: [{name: origin, type: string}]}]
sources: [{name: weather, batch: {format: csv, path: weather.csv}, event_timestamp: observed_at}]
feature_views:
  - name: origin_weather
    entities: [origin]
    source: weather
    features: [{name: temp, type: float64}, {name: gusts, type: int64}]
feature_services: [{name: weather_v1, features: [origin_weather]}]
"""
WEATHER = """\
origin,observed_at,temp,gusts
EWR,2024-01-01T00:00:00Z,1.5,10
EWR,2024-01-01T01:00:00Z,2.5,
JFK,2024-01-01T00:30:00Z,-4.0,9007199254740993
"""
EXPECTED = {
    "origin": ["JFK", "EWR", "LGA"],
    "temp": [-4.0, 2.5, None],
    "gusts": [9007199254740993, None, None],
}


@pytest.mark.skipif(FEAST is None, reason="ASOF_FEAST_PYTHON does not name a Python that has feast")
def test_the_sdk_of_feast_reads_what_asof_answers(binary: str, tmp_path: Path) -> None:
    assert FEAST is not None
    project, repo = tmp_path / "project", tmp_path / "repo"
    (project / "feature_defs").mkdir(parents=True)
    repo.mkdir()
    (project / "asof.yaml").write_text("project: feast_remote\n")
    (project / "feature_defs/all.yaml").write_text(DEFINITIONS)
    (project / "weather.csv").write_text(WEATHER)
    materialize(binary, project)
    with asof.Local(project) as local:
        store = f"{{type: remote, path: 'http://{local.http}'}}"
        (repo / "feature_store.yaml").write_text(
            f"project: feast_remote\nregistry: registry.db\nprovider: local\nonline_store: {store}\n"
            "entity_key_serialization_version: 3\n"
        )
        (repo / "read.py").write_text(SCRIPT)
        run = subprocess.run([FEAST, "read.py"], cwd=repo, stdout=subprocess.PIPE, text=True, check=True)
    for answer in json.loads(run.stdout.strip().splitlines()[-1]):
        assert answer == EXPECTED
