"""Feast's own SDK, unmodified, reads from an Asof server as from its own; with ASOF_FEAST_PYTHON, a Python that has feast."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
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


PUSH_SCRIPT = """
import json
from datetime import datetime, timedelta, timezone
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_source import PushMode
from feast.types import Float64, String

page = Entity(name="page", join_keys=["page"], value_type=ValueType.STRING)
batch = FileSource(path="clicks.parquet", timestamp_field="clicked_at", created_timestamp_column="seen_at")
view = FeatureView(
    name="page_clicks", entities=[page], ttl=timedelta(0), source=PushSource(name="clicks", batch_source=batch),
    schema=[Field(name="weight", dtype=Float64), Field(name="referrer", dtype=String)],
)
store = FeatureStore(repo_path=".")
store.apply([page, view])
at = lambda minute: datetime(2024, 5, 1, 12, minute, tzinfo=timezone.utc)
rows = lambda *values: pd.DataFrame(values, columns=["page", "clicked_at", "seen_at", "weight", "referrer"])
store.push("clicks", rows(("/", at(1), at(2), 0.5, "a"), ("/x", at(1), at(2), -1.0, None)), to=PushMode.ONLINE)
# An older row hides no newer one.
store.write_to_online_store("page_clicks", rows(("/", at(0), at(9), 9.0, "z"), ("/y", at(3), at(3), 2.5, "y")))
asked = [{"page": page} for page in ("/", "/x", "/y", "/z")]
print(json.dumps(store.get_online_features(features=["page_clicks:weight", "page_clicks:referrer"], entity_rows=asked).to_dict()))
"""
PUSH_DEFINITIONS = """\
entities: [{name: page, join_keys: [{name: page, type: string}]}]
sources:
  - name: clicks
    stream: {type: push}
    event_timestamp: clicked_at
    created_timestamp: seen_at
    schema:
      - {name: page, type: string}
      - {name: clicked_at, type: timestamp}
      - {name: seen_at, type: timestamp}
      - {name: weight, type: float64}
      - {name: referrer, type: string}
feature_views:
  - {name: page_clicks, entities: [page], source: clicks, features: [{name: weight, type: float64}, {name: referrer, type: string}]}
"""


@pytest.mark.skipif(FEAST is None, reason="ASOF_FEAST_PYTHON does not name a Python that has feast")
def test_the_sdk_of_feast_pushes_and_writes_what_asof_then_answers(binary: str, tmp_path: Path) -> None:
    assert FEAST is not None
    project, repo = tmp_path / "project", tmp_path / "repo"
    (project / "feature_defs").mkdir(parents=True)
    repo.mkdir()
    (project / "asof.yaml").write_text("project: feast_push\n")
    (project / "feature_defs/all.yaml").write_text(PUSH_DEFINITIONS)
    subprocess.run([binary, "apply", "--yes"], cwd=project, check=True, stdout=subprocess.DEVNULL)
    with asof.Local(project) as local:
        store = f"{{type: remote, path: 'http://{local.http}'}}"
        (repo / "feature_store.yaml").write_text(
            f"project: feast_push\nregistry: registry.db\nprovider: local\nonline_store: {store}\n"
            "entity_key_serialization_version: 3\n"
        )
        (repo / "push.py").write_text(PUSH_SCRIPT)
        run = subprocess.run([FEAST, "push.py"], cwd=repo, stdout=subprocess.PIPE, text=True, check=True)
        body = json.dumps({"push_source_name": "clicks", "to": "online_and_offline", "df": {
            "page": ["/w"], "clicked_at": ["2024-05-01T12:05:00"], "weight": [7.0]}}).encode()
        request = urllib.request.Request(f"http://{local.http}/push", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer) is None
        written = local.get_online_features(features=["page_clicks:weight"], entities=[{"page": "/w"}]).to_dict()
    assert json.loads(run.stdout.strip().splitlines()[-1]) == {
        "page": ["/", "/x", "/y", "/z"],
        "weight": [0.5, -1.0, 2.5, None],
        "referrer": ["a", None, "y", None],
    }
    assert written["weight"] == [7.0]
