"""Feast repositories become definitions; with ASOF_FEAST_PYTHON, a Python that has feast, also their answers agree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from feast_repository import FEATURES, write_data
from real_server import materialize, serving

import asof
from asof import _feast
from asof._launcher import main

REPOSITORY = Path(__file__).parents[2] / "tests/data/feast"
REGISTRY = json.loads((REPOSITORY / "registry.json").read_text())
REMARKS = [
    "source `ride`: the values distance of requests belong to on-demand feature views",
    "source `trips_push` takes pushed rows; views read its batch source `trips_source` only",
    "entity `unused` is left out: no feature view says the type of its join key `unused_id`",
    "feature view `city_trips`: rows of its stream `trips_push` are not taken over, those of its files are",
    "feature view `city_trips` is not served online by Feast; Asof serves every view",
    'feature `last_seen` of feature view `city_trips`: `tags` has no counterpart: {"unit": "s"}',
    "feature `rating` of feature view `driver_stats` is declared float32 and is float64 in the files; "
    "written as float64",
    "feature `config` of feature view `driver_stats` is left out: there is no type for JSON",
    "feature service `all_stats` leaves out config of `driver_stats`",
    "feature service `rides-v1` leaves out `expected`, which is not taken over",
    "feature service `rides-v1` is called `rides_v1`",
    "on-demand feature view `expected` is left out: "
    "write expected_rate (DOUBLE) from driver_stats, ride as SQL expressions",
]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    shutil.copytree(REPOSITORY, folder)
    (folder / "data").mkdir(exist_ok=True)
    write_data(folder)
    return folder


def with_view(**settings: Any) -> tuple[asof.DefinitionSet, list[str]]:
    """What becomes of the registry if the view `driver_stats` has these settings, too."""
    registry = json.loads(json.dumps(REGISTRY["registry"]))
    (view,) = (each for each in registry["feature_views"] if each["spec"]["name"] == "driver_stats")
    view["spec"].update(settings)
    return _feast.convert("drivers", registry, REPOSITORY, REPOSITORY)


def test_a_repository_becomes_definitions(repo: Path, tmp_path: Path) -> None:
    definitions, remarks = _feast.convert("drivers", REGISTRY["registry"], repo, tmp_path)
    assert remarks == REMARKS
    written = definitions.to_dict()
    assert written["entities"] == [
        {"name": "city", "join_keys": [{"name": "city_code", "type": "string"}]},
        {
            "name": "driver",
            "join_keys": [{"name": "driver_id", "type": "int64"}],
            "description": "Who drives",
            "owner": "rides",
            "tags": {"tier": "gold"},
        },
    ]
    assert written["sources"][0] == {
        "name": "driver_stats_source",
        "batch": {"format": "parquet", "path": "repo/data/driver_stats.parquet"},
        "event_timestamp": "event_timestamp",
        "created_timestamp": "created",
        "rename": {"convRate": "conv_rate"},
    }
    city_trips, driver_stats = written["feature_views"]
    assert city_trips["entities"] == ["driver", "city"] and "ttl" not in city_trips
    assert [field["type"] for field in city_trips["features"]] == ["int64", "list<string>", "timestamp"]
    assert driver_stats["ttl"] == "2h" and driver_stats["tags"] == {"team": "performance"}
    assert written["feature_services"] == [
        {"name": "all_stats", "features": ["driver_stats"]},
        {
            "name": "rides_v1",
            "features": [
                {"driver_stats": ["conv_rate", "trips_today"]},
                {"view": "city_trips", "as": "destination", "join_keys": {"city_code": "to_city"}},
            ],
            "owner": "rides",
        },
    ]


def test_nothing_is_dropped_silently() -> None:
    """A setting that is not known is told, wherever it stands."""
    registry = json.loads(json.dumps(REGISTRY["registry"]))
    marked = 0
    for section in ("entities", "data_sources", "feature_views", "feature_services"):
        for each in registry[section]:
            spec = each.get("spec", each)
            if spec.get("name") in ("city", "driver", "driver_stats_source", "city_trips", "all_stats"):
                spec["new_setting"] = f"of {spec['name']}"
                marked += 1
    registry["metrics_of_tomorrow"] = [{"spec": {"name": "m", "project": "drivers"}}]
    _, remarks = _feast.convert("drivers", registry, REPOSITORY, REPOSITORY)
    assert marked == 5
    assert sum("`new_setting` has no counterpart" in remark for remark in remarks) == marked
    assert "metrics of tomorrow `m` is left out" in remarks


@pytest.mark.parametrize(
    ("settings", "remark"),
    [
        ({"feature_transformation": {"x": 1}}, "is left out: write its transformation as `sql` or `aggregations`"),
        ({"entities": ["unused"]}, "is left out, for its entity `unused` is"),
        ({"batch_source": {"name": "warehouse", "type": "BATCH_SNOWFLAKE"}}, "is left out, for its source is"),
        ({"features": [{"name": "a__b", "value_type": "INT64"}]}, "is left out: features are not named so"),
        ({"features": []}, "is left out: none of its features can be taken over"),
        ({"version": "v3"}, '`version` has no counterpart: "v3"'),
    ],
)
def test_a_view_that_cannot_be_taken_over_says_why(settings: dict[str, Any], remark: str) -> None:
    _, remarks = with_view(**settings)
    assert any("driver_stats" in each and remark in each for each in remarks), remarks


def test_a_ttl_is_taken_over_to_the_millisecond() -> None:
    definitions, _ = with_view(ttl="1.500s")
    (view,) = (each for each in definitions if each.name == "driver_stats")
    assert view.to_dict()["ttl"] == "1500ms"


def test_other_projects_and_empty_registries_are_no_definitions(tmp_path: Path) -> None:
    with pytest.raises(asof.PreconditionError, match="has `feast apply` been run"):
        _feast.convert("another", REGISTRY["registry"], tmp_path, tmp_path)


def test_a_folder_without_a_repository_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-feast", str(tmp_path), "--out", "-"]) == 2
    assert "feature_store.yaml" in capsys.readouterr().err


@pytest.fixture
def feast_python() -> str:
    if "ASOF_FEAST_PYTHON" not in os.environ:
        pytest.skip("ASOF_FEAST_PYTHON does not name a Python that has feast")
    return os.environ["ASOF_FEAST_PYTHON"]


def test_feast_and_asof_answer_the_same(feast_python: str, binary: str, repo: Path, tmp_path: Path) -> None:
    ask = Path(__file__).with_name("feast_repository.py")
    subprocess.run([feast_python, "-W", "ignore", ask, repo], check=True, capture_output=True)
    project = tmp_path / "project"
    project.mkdir()
    (project / "asof.yaml").write_text("project: drivers\n")
    assert main(["import-feast", str(repo), "--feast-python", feast_python, "--project", str(project)]) == 0
    materialize(binary, project, end="2024-04-01")
    spine = pq.read_table(repo / "spine.parquet")
    with serving(binary, project) as address, asof.Client(address) as client:
        ours = client.get_batch_features(features=FEATURES, entities=spine).to_arrow().to_pylist()
    theirs = sorted(pq.read_table(repo / "asked.parquet").to_pylist(), key=lambda row: row["row"])
    assert len(ours) == len(theirs) == spine.num_rows
    names = [feature.split(":")[1] for feature in FEATURES]
    present = 0
    for our_row, their_row in zip(ours, theirs, strict=True):
        for name in names:
            ours_value, theirs_value = our_row[name], their_row[name]
            if theirs_value != theirs_value:  # pandas has nulls of numbers as NaN
                theirs_value = None
            assert ours_value == theirs_value, (name, our_row, their_row)
            present += ours_value is not None
    assert 300 < present < len(ours) * len(names), "some values are there, and some are not"


def test_the_registry_of_these_tests_is_what_feast_writes(feast_python: str, repo: Path) -> None:
    ask = Path(__file__).with_name("feast_repository.py")
    subprocess.run([feast_python, "-W", "ignore", ask, repo], check=True, capture_output=True)
    dump = Path(_feast.__file__).with_name("_feast_dump.py")
    done = subprocess.run([feast_python, "-W", "ignore", dump, repo], check=True, capture_output=True, text=True)
    document = settled(json.loads(done.stdout.strip().splitlines()[-1]))
    if "ASOF_WRITE_FEAST_REGISTRY" in os.environ:
        (REPOSITORY / "registry.json").write_text(json.dumps(document, indent=1) + "\n")
    assert document == settled(REGISTRY)


def settled(document: dict[str, Any]) -> dict[str, Any]:
    """The registry without what differs from run to run: times, ids, folders, the order of its objects."""

    def constant(value: Any) -> Any:
        if isinstance(value, dict):
            changing = {"meta", "last_updated", "version_id", "infra", "feature_view_version_history", "body"}
            return {key: constant(each) for key, each in sorted(value.items()) if key not in changing}
        return [constant(each) for each in value] if isinstance(value, list) else value

    registry = constant(document["registry"])
    for objects in registry.values():
        if isinstance(objects, list):
            objects.sort(key=lambda each: json.dumps(each, sort_keys=True))
    return {"project": document["project"], "registry": registry}
