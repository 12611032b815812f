"""What a notebook shows and completes."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

import asof
from asof._proto import feature_store_pb2 as pb
from conftest import FakeStore


def test_an_answer_is_a_table_with_the_reason_of_each_null() -> None:
    table = pa.table({"carrier": ["UA", "<b>"], "delay": [1.23456789, None], "n": [1, None]})
    statuses = {"delay": pa.array(["PRESENT", "OUTSIDE_MAX_AGE"])}
    html = asof.Answer(table, asof.Metadata(1), statuses)._repr_html_()
    assert "2 rows" in html and "double" in html
    assert ">1.23457<" in html
    assert html.count("<i>outside max age</i>") == 1 and html.count("<i>null</i>") == 1
    assert "&lt;b&gt;" in html and "<b>" not in html


def test_a_long_answer_shows_how_it_begins() -> None:
    html = asof.Answer(pa.table({"x": list(range(1000))}), asof.Metadata(1))._repr_html_()
    assert "1000 rows, the first 10" in html and html.count("<tr>") == 11


def test_an_answer_of_nothing_is_shown() -> None:
    assert "0 rows" in asof.Answer(pa.table({}), asof.Metadata(1))._repr_html_()


def test_references_are_completed(client: asof.Client) -> None:
    catalog = client.catalog()
    assert {"delay", "place", "trip"} <= set(dir(catalog.features))
    assert "mean" in dir(catalog.features.delay)
    assert catalog.features._ipython_key_completions_() == ["delay", "place", "trip"]
    reference = catalog.features["delay"].mean
    assert reference == "delay:mean" and reference.type == "float64"
    assert catalog.services.trip_v1 == "trip_v1"
    with pytest.raises(AttributeError, match="dely"):
        _ = catalog.features.dely
    with pytest.raises(KeyError, match="there is no view `dely`; there are delay, place, trip"):
        _ = catalog.features["dely"]
    with pytest.raises(KeyError, match="there is no feature `max`"):
        _ = catalog.features.delay["max"]
    assert "delay:mean" in catalog._repr_html_() and "delay" in repr(catalog)


def test_a_notebook_completes_them(client: asof.Client) -> None:
    completer = pytest.importorskip("IPython.core.completer")
    shell = completer.IPCompleter(namespace={"catalog": client.catalog()})
    assert "catalog.features.delay.mean" in shell.attr_matches("catalog.features.delay.")


def test_a_completed_reference_is_asked_for(client: asof.Client, store: FakeStore) -> None:
    reference = client.catalog().features.delay.mean
    client.get_batch_features(features=[reference], as_of="2024-01-01")
    assert list(store.asked[-1].features.features) == ["delay:mean"]


def test_definitions_come_as_objects_that_show_themselves(client: asof.Client) -> None:
    (view, _) = client.list_feature_views()
    assert view == asof.FeatureView(name="delay", entities=["carrier"], features=[asof.Field("mean", "float64")])
    assert "<b>name</b> mean" in view._repr_html_()
    assert client.describe_feature_service("trip_v1").features[0] == asof.Projection("trip")
    assert [each.name for each in client.list_entities()] == ["carrier", "airport"]
    assert client.describe_on_demand_feature_view("trip").request == [asof.Field("distance", "float64")]
    with pytest.raises(asof.NotFoundError, match="there is no `dely` among feature views; did you mean `delay`"):
        client.describe_feature_view("dely")
    with pytest.raises(asof.InvalidError, match="there is no kind `views`"):
        client.list_definitions("views")


def test_what_a_later_server_adds_does_not_disturb(client: asof.Client, store: FakeStore) -> None:
    store.definitions.append(("entities", {"name": "crew", "join_keys": [], "colour": "red"}))
    assert client.describe_entity("crew") == asof.Entity(name="crew", join_keys=[])


def test_the_status_of_a_server(client: asof.Client, store: FakeStore) -> None:
    view = pb.ViewStatus(name="delay", table_version=0, materialized_until=1_000_000)
    store.status = pb.GetStatusResponse(project="flights", registry_version=2, views=[view])
    status = client.status()
    until = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert status.views == (asof.ViewStatus("delay", 0, until, None),)
    assert "flights, registry version 2" in status._repr_html_()
