"""Definitions in Python and in files: every example goes there and back."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

import asof
from asof._launcher import main

REPOSITORY = Path(__file__).parents[2]
# Every folder of definition files that there is.
EXAMPLES = sorted({path.parent for path in REPOSITORY.rglob("*.yaml") if "feature_defs" in path.parts})

CARRIER = asof.Entity(name="carrier", join_keys=[asof.Field("carrier", "string", description="code")])
AIRPORT = asof.Entity(name="airport", join_keys=[asof.Field("airport", "string")])
ARRIVALS = asof.Source(
    name="arrivals",
    batch=asof.Batch("parquet", "data/*.parquet"),
    event_timestamp="landed_at",
    created_timestamp="loaded_at",
    rename={"time_hour": "landed_at"},
    schema=[asof.Field("landed_at", "timestamp")],
    tags={"tier": "gold", "on": "no"},
)
DELAY = asof.FeatureView(
    name="delay",
    entities=[CARRIER],
    source=ARRIVALS,
    where="cancelled = false",
    resolution=timedelta(minutes=5),
    lookback="2d",
    aggregations=[
        asof.Aggregation(input="arr_delay > 15", function="mean", windows=["1h", timedelta(days=7)], name="late"),
        asof.Aggregation(input="delay", function="approx_percentile", p=[0.5, 0.99], windows=["1d"], by="dest"),
        asof.Aggregation(input="dest", function="last", n=5, windows=["lifetime"]),
    ],
)
PROFILE = asof.FeatureView(
    name="profile",
    entities=["airport"],
    sources=[ARRIVALS, "airports"],
    sql="SELECT a, -- a comment: with \"quotes\"\n  'it''s'\n\nFROM airports\n",
    features=[asof.Field("lat", "float64"), asof.Field("tags", "list<string>")],
    ttl="3h",
    description="tricky: # yes, - [no] {maybe}",
    owner="null",
)
TRIP = asof.OnDemandFeatureView(
    name="trip",
    request=[asof.Field("distance", "int64")],
    features_from=["delay:late_1h", PROFILE],
    features=[asof.OnDemandFeature("speed", "float64", "distance / late_1h")],
)
SERVICE = asof.FeatureService(
    name="v1",
    features=[
        DELAY,
        "profile:lat",
        PROFILE[["lat"]],
        PROFILE["lat"].with_name("destination").with_join_key_map({"airport": "dest"}),
        TRIP,
    ],
    owner="flights-team",
)
ROUTES = [
    asof.PredictionRoute(
        name="arrival_delay",
        model="arrival_delay@champion",
        shadows=[asof.Shadow(model="arrival_delay@challenger", percent=10, where="carrier = 'UA'")],
        experiment=asof.Experiment(
            name="v4_test", unit="tailnum", variants=[asof.Variant("arrival_delay@3", 50), asof.Variant("arrival_delay@4", 50)]
        ),
        log=asof.PredictionLog(sample=0.5, durability="machine", retention=timedelta(days=90)),
        owner="flights-team",
    ),
    asof.PredictionRoute(
        name="fraud",
        steps=[
            asof.RouteStep(model="ip_risk@champion", as_="ip"),
            asof.RouteStep(when="ip > 0.8", model="deep_fraud@champion", else_="light_fraud@champion"),
        ],
    ),
    asof.PredictionRoute(name="nightly", lookup="profile:lat", fallback="recommender"),
]
WRITTEN_ROUTES = [
    {
        "name": "arrival_delay",
        "model": "arrival_delay@champion",
        "shadows": [{"model": "arrival_delay@challenger", "percent": 10, "where": "carrier = 'UA'"}],
        "experiment": {
            "name": "v4_test",
            "unit": "tailnum",
            "variants": [{"model": "arrival_delay@3", "weight": 50}, {"model": "arrival_delay@4", "weight": 50}],
        },
        "log": {"sample": 0.5, "durability": "machine", "retention": "90d"},
        "owner": "flights-team",
    },
    {
        "name": "fraud",
        "steps": [
            {"model": "ip_risk@champion", "as": "ip"},
            {"model": "deep_fraud@champion", "when": "ip > 0.8", "else": "light_fraud@champion"},
        ],
    },
    {"name": "nightly", "lookup": "profile:lat", "fallback": "recommender"},
]
WRITTEN = {
    "entities": [
        {"name": "carrier", "join_keys": [{"name": "carrier", "type": "string", "description": "code"}]},
    ],
    "sources": [
        {
            "name": "arrivals",
            "batch": {"format": "parquet", "path": "data/*.parquet"},
            "event_timestamp": "landed_at",
            "created_timestamp": "loaded_at",
            "rename": {"time_hour": "landed_at"},
            "schema": [{"name": "landed_at", "type": "timestamp"}],
            "tags": {"tier": "gold", "on": "no"},
        }
    ],
    "feature_views": [
        {
            "name": "delay",
            "entities": ["carrier"],
            "source": "arrivals",
            "where": "cancelled = false",
            "aggregations": [
                {"name": "late", "input": "arr_delay > 15", "function": "mean", "windows": ["1h", "7d"]},
                {
                    "input": "delay",
                    "function": "approx_percentile",
                    "windows": ["1d"],
                    "p": [0.5, 0.99],
                    "by": "dest",
                },
                {"input": "dest", "function": "last", "windows": ["lifetime"], "n": 5},
            ],
            "resolution": "5m",
            "lookback": "2d",
        },
        {
            "name": "profile",
            "entities": ["airport"],
            "sources": ["arrivals", "airports"],
            "sql": "SELECT a, -- a comment: with \"quotes\"\n  'it''s'\n\nFROM airports\n",
            "ttl": "3h",
            "features": [{"name": "lat", "type": "float64"}, {"name": "tags", "type": "list<string>"}],
            "description": "tricky: # yes, - [no] {maybe}",
            "owner": "null",
        },
    ],
    "on_demand_feature_views": [
        {
            "name": "trip",
            "request": [{"name": "distance", "type": "int64"}],
            "features_from": ["delay:late_1h", "profile"],
            "features": [{"name": "speed", "type": "float64", "expression": "distance / late_1h"}],
        }
    ],
    "feature_services": [
        {
            "name": "v1",
            "features": [
                "delay",
                "profile:lat",
                {"profile": ["lat"]},
                {"view": "profile", "features": ["lat"], "as": "destination", "join_keys": {"airport": "dest"}},
                "trip",
            ],
            "owner": "flights-team",
        }
    ],
}


def test_a_definition_is_written_with_what_it_refers_to() -> None:
    assert asof.DefinitionSet([SERVICE]).to_dict() == WRITTEN


def test_prediction_routes_go_to_files_and_back(tmp_path: Path) -> None:
    routes = asof.DefinitionSet(ROUTES)
    assert routes.to_dict() == {"prediction_routes": WRITTEN_ROUTES}
    assert yaml.safe_load(routes.to_yaml()) == {"prediction_routes": WRITTEN_ROUTES}
    routes.write(tmp_path / "routes.yaml")
    assert asof.DefinitionSet.read(tmp_path / "routes.yaml").to_dict() == routes.to_dict()
    with pytest.raises(asof.InvalidError, match="did you mean `percent`"):
        asof.PredictionRoute.from_dict({"name": "r", "model": "m", "shadows": [{"model": "n", "percnt": 3}]})


def test_the_text_says_the_same_to_any_reader_of_yaml(tmp_path: Path) -> None:
    text = asof.DefinitionSet([SERVICE]).to_yaml()
    assert yaml.safe_load(text) == WRITTEN
    (tmp_path / "all.yml").write_text(text)
    assert asof.DefinitionSet.read(tmp_path).to_dict() == WRITTEN


TEXTS = [
    "no", "On", "y", "NULL", "~", "1", "1.5", "1e3", "0x1f", "1:30", "2024-05-01", "7d", "-", "- a", "a: b",
    "a #b", "#a", " a", "a ", "", "a\nb", "a\n", "\na", " a\nb", "a \nb", "a\n\n", "é€😀", "\t", "a\tb", "'a'",
    "\"a\"", "\\", "a\\n", "{a}", "[a]", "a, b", "a]", "*a", "&a", "!a", "%a", "@a", "`a`", "|", ">", "?", "a?",
    ": a", "a:", "<<", "=", "\u0007", "\u2028", "\u0085", "a\r\nb", "---", "...", "yes\nno\n", "key: |\n  x", "\u0007😀", "\U000e0001", "\u2028😀\"\\",
    "a'b", "it's, fine; so", "(a + b) / 2 > 15", "true",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_survives(text: str, tmp_path: Path) -> None:
    entity = asof.Entity(
        name="x", description=text, tags={text: text}, join_keys=[asof.Field("k", "string", description=text)]
    )
    view = asof.OnDemandFeatureView(name="v", features=[asof.OnDemandFeature("f", "int64", text)], features_from=[text])
    definitions = asof.DefinitionSet([entity, view])
    definitions.write(tmp_path / "x.yaml")
    assert asof.DefinitionSet.read(tmp_path / "x.yaml").to_dict() == definitions.to_dict()


def test_the_command_reads_every_text_as_it_was(binary: str, tmp_path: Path) -> None:
    """Another reader of YAML than PyYAML, and the one that counts."""
    key = [asof.Field("k", "string")]
    entities = [
        asof.Entity(name=f"e{number:03}", description=text, tags={text: text, "t": text}, owner=text, join_keys=key)
        for number, text in enumerate(TEXTS)
    ]
    del binary
    with asof.Local(tmp_path, create=True) as store:
        store.apply(entities)
        assert store.list_entities() == entities


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    definitions = asof.DefinitionSet([asof.Entity(name="x", description="\ud83d", join_keys=[])])
    with pytest.raises(asof.InvalidError, match="half of a character"):
        definitions.write(tmp_path / "x.yaml")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_definition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(asof.InvalidError, match="'x' is no definition"):
        asof.DefinitionSet(["x"])  # type: ignore[list-item]
    with pytest.raises(asof.NotFoundError, match="no file or folder `.*nowhere.yaml`"):
        asof.DefinitionSet.read(tmp_path / "nowhere.yaml")
    (tmp_path / "x.yaml").write_text("entities: {name: x}\n")
    with pytest.raises(asof.InvalidError, match="`entities` of .*x.yaml is no list"):
        asof.DefinitionSet.read(tmp_path)


def test_the_examples_are_there() -> None:
    assert len(EXAMPLES) >= 1


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: str(folder.relative_to(REPOSITORY)))
def test_examples_go_there_and_back(folder: Path, tmp_path: Path) -> None:
    parsed: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*.yaml")):
        for kind, definitions in yaml.safe_load(path.read_text()).items():
            parsed.setdefault(kind, []).extend(definitions)
    read = asof.DefinitionSet.read(folder)
    assert read.to_dict() == parsed
    read.write(tmp_path / "all.yaml")
    assert yaml.safe_load((tmp_path / "all.yaml").read_text()) == parsed


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: str(folder.relative_to(REPOSITORY)))
def test_examples_written_anew_change_nothing(binary: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "feature_defs")
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    (tmp_path / "asof.yaml").write_text("project: x\n")
    run = {"cwd": tmp_path, "check": True, "capture_output": True}
    subprocess.run([binary, "apply", "--yes"], **run)  # type: ignore[call-overload]
    definitions = asof.DefinitionSet.read(tmp_path / "feature_defs")
    shutil.rmtree(tmp_path / "feature_defs")
    definitions.write(tmp_path / "feature_defs/all.yaml")
    done = subprocess.run([binary, "plan", "--output", "json"], **run)  # type: ignore[call-overload]
    assert json.loads(done.stdout)["summary"] == {"added": 0, "changed": 0, "removed": 0}


def test_what_the_server_lists_can_be_written_again(real_address: str, binary: str, tmp_path: Path) -> None:
    with asof.Client(real_address) as client:
        listed = [
            *client.list_entities(),
            *client.list_sources(),
            *client.list_feature_views(),
            *client.list_on_demand_feature_views(),
            *client.list_feature_services(),
        ]
    assert len(listed) == 5
    asof.DefinitionSet(listed).write(tmp_path / "feature_defs/all.yaml")
    (tmp_path / "asof.yaml").write_text("project: x\n")
    (tmp_path / "weather.csv").write_text("origin,observed_at,temp,gusts\nEWR,2024-01-01T00:00:00Z,1.5,10\n")
    subprocess.run([binary, "validate"], cwd=tmp_path, check=True, capture_output=True)


def test_what_the_classes_offer_is_what_the_command_knows(binary: str) -> None:
    """Every key of the command's own schema, kind by kind."""
    schema = json.loads(subprocess.run([binary, "schema"], check=True, capture_output=True).stdout)
    kinds: dict[str, Any] = {
        "RawEntity": asof.Entity,
        "RawSource": asof.Source,
        "RawFeatureView": asof.FeatureView,
        "RawAggregation": asof.Aggregation,
        "RawOnDemandFeatureView": asof.OnDemandFeatureView,
        "RawOnDemandFeature": asof.OnDemandFeature,
        "RawFeatureService": asof.FeatureService,
        "RawField": asof.Field,
        "RawBatchLocation": asof.Batch,
    }
    compared = 0
    for name, definition in schema["$defs"].items():
        if name in kinds and "properties" in definition:
            fields = {each.name.rstrip("_") for each in dataclasses.fields(kinds[name])}
            assert set(definition["properties"]) <= fields, name
            compared += 1
    assert compared == len(kinds)


def test_two_of_a_name_are_refused() -> None:
    other = asof.Entity(name="carrier", join_keys=[asof.Field("code", "string")])
    with pytest.raises(asof.InvalidError, match="`carrier` is defined twice among entities"):
        asof.DefinitionSet([CARRIER, other])
    assert len(asof.DefinitionSet([CARRIER, asof.Entity.from_dict(CARRIER.to_dict())])) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("entities: [{name: a, join_key: []}]", "Entity has no key `join_key`; did you mean `join_keys`"),
        ("entities: [{name: a}]", "Entity 'a' lacks the key `join_keys`"),
        ("entitys: []\nsources: [{}]", "Source '' lacks the key `name`"),
        ("things: [{}]", "there is no kind `things`"),
        ("- a", "a definition file is a mapping"),
        ("a: [", "is no YAML"),
        ("feature_services: [{name: a, features: [{view: b, az: c}]}]", "Projection has no key `az`"),
        ("entities: [a]", "expected a mapping for Entity"),
    ],
)
def test_files_that_are_wrong_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(asof.InvalidError, match=message):
        asof.DefinitionSet.read(tmp_path / "x.yaml")


def test_durations_are_written_in_the_greatest_unit() -> None:
    def written(length: timedelta) -> str:
        view = asof.FeatureView(name="v", ttl=length)
        return str(view.to_dict()["ttl"])

    assert written(timedelta(hours=24)) == "1d"
    assert written(timedelta(minutes=90)) == "90m"
    assert written(timedelta(milliseconds=1500)) == "1500ms"
    for length in (timedelta(0), timedelta(microseconds=1), timedelta(days=-1)):
        with pytest.raises(asof.InvalidError, match="no whole number of milliseconds"):
            written(length)


DEFS = """
import asof
from helper import KEY

_template = asof.Entity(name="not_exported", join_keys=[KEY])
carrier = asof.Entity(name="carrier", join_keys=[KEY])
service = asof.FeatureService(name="v1", features=[asof.FeatureView(name="delay", entities=[carrier], source="s")])
by_size = {size: [asof.FeatureService(name=f"v2_{size}", features=["delay"])] for size in ("small", "large")}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASOF_PROJECT", raising=False)
    (tmp_path / "asof.yaml").write_text("project: x\n")
    (tmp_path / "python").mkdir()
    (tmp_path / "python/defs.py").write_text(DEFS)
    (tmp_path / "python/helper.py").write_text("import asof\nKEY = asof.Field('carrier', 'string')\n")
    return tmp_path


def test_export_writes_a_file_and_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "feature_defs/defs.yaml"
    assert main(["export", "python/defs.py", "--check"]) == 1 and not path.exists()
    assert main(["export", "python/defs.py"]) == 0
    assert "5 definitions, written" in capsys.readouterr().out
    names = [each.name for each in asof.DefinitionSet.read(path)]
    assert names == ["carrier", "delay", "v1", "v2_small", "v2_large"]
    assert path.read_text().startswith("# Written by `asof export defs.py`")
    stamp = path.stat().st_mtime_ns
    assert main(["export", "python/defs.py", "--check"]) == 0
    assert main(["--output", "json", "export", "python/defs.py"]) == 0
    assert json.loads(capsys.readouterr().out.split("unchanged\n")[1])["changed"] is False
    assert path.stat().st_mtime_ns == stamp
    assert main(["export", "python/defs.py", "--out", "-"]) == 0
    assert "name: delay" in capsys.readouterr().out
    assert list(path.parent.iterdir()) == [path]


def test_export_refuses_what_is_wrong(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nowhere.py"]) == 2
    assert "there is no file `nowhere.py`" in capsys.readouterr().err
    assert main(["export", "nowhere.py", "--output", "json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "not_found"
    (project / "empty.py").write_text("x = 1\n")
    assert main(["export", "empty.py"]) == 2
    assert "defines nothing" in capsys.readouterr().err
    (project / "asof.yaml").unlink()
    assert main(["export", "python/defs.py"]) == 2
    assert "there is no asof.yaml here or above" in capsys.readouterr().err


def test_every_other_command_is_the_programs(binary: str, project: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "asof", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ASOF_BIN": binary, "PYTHONPATH": str(REPOSITORY / "python")},
        )

    assert run("--version").stdout.startswith("asof")
    assert "import-feast" in run("--help").stdout and "materialize" in run("help").stdout
    refused = run("describe", "nothing", "x")
    assert refused.returncode == 2 and "there is no kind `nothing`" in refused.stderr
