"""The client against the real server: the two answers agree."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas
import polars
import pytest
from real_server import PROJECT, materialize

import asof

# Row by row: unknown key, plain, null in the newest row, just within the TTL, just past it, null key.
NOW = datetime(2024, 1, 1, 1, 30, tzinfo=UTC)
SPINE = pandas.DataFrame(
    {
        "origin": ["LGA", "JFK", "EWR", None],
        "event_timestamp": [NOW] * 4,
        "wanted": [20.0, 21.0, 22.0, 23.0],
        "label": [1, 2, 3, 4],
    }
)
FEATURES = {
    "temp": [None, -4.0, 2.5, None],
    "gusts": [None, 2**53 + 1, None, None],
    "too_cold_by": [None, 25.0, 19.5, None],
}


@pytest.fixture
def real(real_address: str) -> Iterator[asof.Client]:
    with asof.Client(real_address) as client:
        yield client


def test_the_two_answers_agree(real: asof.Client) -> None:
    batch = real.get_batch_features(features="comfort_v1", entities=SPINE, statuses=True)
    online = real.get_online_features(features="comfort_v1", entities=SPINE, statuses=True, now=NOW)
    for answer in (batch, online):
        answered = answer.to_dict()
        assert {name: answered[name] for name in FEATURES} == FEATURES
        assert answered["label"] == [1, 2, 3, 4]
        assert answer.statuses["temp"] == ["NOT_FOUND", "PRESENT", "PRESENT", "NOT_FOUND"]
        assert answer.statuses["gusts"] == ["NOT_FOUND", "PRESENT", "NULL_VALUE", "NOT_FOUND"]
    features = [name for name in batch.to_arrow().column_names if name not in SPINE]
    assert batch.to_arrow().select(features).equals(online.to_arrow().select(features))
    assert batch.statuses == online.statuses


def test_every_form_of_entities_is_taken_and_given(real: asof.Client) -> None:
    rows = [{"origin": "JFK", "wanted": 21.0, "event_timestamp": NOW}]
    for entities in (rows, pandas.DataFrame(rows), polars.DataFrame(rows), {k: [v] for k, v in rows[0].items()}):
        batch = real.get_batch_features(features="comfort_v1", entities=entities)
        online = real.get_online_features(features="comfort_v1", entities=entities, now=NOW)
        for answer in (batch, online):
            assert answer.to_dict()["temp"] == [-4.0]
            assert answer.to_pandas()["gusts"].tolist() == [2**53 + 1]
            assert answer.to_polars()["too_cold_by"].to_list() == [25.0]


def test_values_grow_old_at_the_same_moment(real: asof.Client) -> None:
    observed = datetime(2024, 1, 1, 0, 30, tzinfo=UTC)
    for age, status in ((timedelta(hours=3), "PRESENT"), (timedelta(hours=3, microseconds=1), "OUTSIDE_MAX_AGE")):
        spine = [{"origin": "JFK", "event_timestamp": observed + age}]
        batch = real.get_batch_features(features=["origin_weather:temp"], entities=spine, statuses=True)
        online = real.get_online_features(features=["origin_weather:temp"], entities=spine, now=observed + age)
        assert batch.statuses == online.statuses == {"temp": [status]}


def test_names_times_and_event_timestamps(real: asof.Client) -> None:
    online = real.get_online_features(
        features=["origin_weather"],
        entities=[{"origin": "EWR"}, {"origin": "LGA"}],
        full_feature_names=True,
        event_timestamps=True,
        now=NOW,
    )
    assert online.to_dict()["origin_weather__temp"] == [2.5, None]
    newest = datetime(2024, 1, 1, 1, tzinfo=UTC)
    assert online.event_timestamps["origin_weather__temp"] == [newest, None]


def test_a_range_and_a_moment_need_no_spine(real: asof.Client) -> None:
    ranged = real.get_batch_features(features=["origin_weather:temp"], start="2024-01-01", end="2024-01-01T01:00:00Z")
    assert sorted(ranged.to_dict()["temp"]) == [-4.0, 1.5]
    moment = real.get_batch_features(features=["origin_weather:temp"], as_of="2024-01-01T00:30:00Z")
    assert sorted(moment.to_dict()["temp"]) == [-4.0, 1.5]


def test_the_answer_says_what_it_was_made_from(real: asof.Client) -> None:
    batch = real.get_batch_features(features=["origin_weather:temp"], as_of=NOW)
    assert batch.metadata.registry_version == 1
    assert "origin_weather" in batch.metadata.tables


def test_errors_are_named_for_what_to_do(real: asof.Client) -> None:
    rows = [{"origin": "JFK", "event_timestamp": NOW}]
    with pytest.raises(asof.NotFoundError, match="origin_weather"):
        real.get_online_features(features=["origin_wether:temp"], entities=rows)
    with pytest.raises(asof.NotFoundError, match="comfort_v1"):
        real.get_batch_features(features="comfort_v2", entities=rows)
    with pytest.raises(asof.InvalidError, match="origin"):
        real.get_online_features(features=["origin_weather:temp"], entities=[{"carrier": "UA"}])
    with pytest.raises(asof.InvalidError, match="temp"):
        real.get_batch_features(features=["origin_weather:temp"], entities=[{**rows[0], "temp": 1.0}])


def test_the_same_calls_for_asyncio(real: asof.Client) -> None:
    async def ask() -> tuple[asof.Answer, asof.Answer]:
        async with asof.AsyncClient(real._connection.address) as client:
            rows = [{"origin": "JFK", "event_timestamp": NOW}]
            return await asyncio.gather(
                client.get_batch_features(features=["origin_weather:temp"], entities=rows),
                client.get_online_features(features=["origin_weather:temp"], entities=rows, now=NOW),
            )

    batch, online = asyncio.run(ask())
    assert batch.to_dict()["temp"] == online.to_dict()["temp"] == [-4.0]


def test_a_full_server_is_asked_again_when_it_says(binary: str, tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "asof.yaml").write_text("project: full\nserver: {limits: {in_flight: 1}}\n")
    materialize(binary, tmp_path)
    with asof.Local(tmp_path) as store:
        store.apply()
        # An answer that nobody reads is under way as long as it does not fit into what lies between.
        count = 300_000
        spine = {"origin": ["EWR"] * count, "event_timestamp": [NOW] * count, "text": ["x" * 100] * count}
        stream = store.stream_batch_features(["origin_weather"], spine)
        with asof.Client(store.address, retries=0) as once, pytest.raises(asof.ExhaustedError, match="try again"):
            once.status()
        closing = threading.Timer(0.3, stream.close)
        closing.start()
        with asof.Client(store.address, retries=8) as often:
            started = time.monotonic()
            assert often.status().project == "full"
            assert time.monotonic() - started > 0.1
        closing.join()
