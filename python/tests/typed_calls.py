# mypy: warn-unused-ignores
"""What a type checker says of calls; `mypy` reads this file, nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import asof

ROWS = [{"carrier": "UA"}]


def threads(client: asof.Client) -> Iterator[object]:
    yield assert_type(client.get_online_features("delay_v1", ROWS, now="2024-01-01"), asof.Answer)
    yield assert_type(client.get_batch_features(features=["delay"], as_of="2024-01-01"), asof.Answer)
    yield assert_type(client.stream_batch_features(["delay"], ROWS, statuses=True), asof.AnswerStream)
    yield assert_type(client.list_feature_views(), list[asof.FeatureView])
    yield assert_type(client.list_prediction_routes(), list[asof.PredictionRoute])
    yield assert_type(client.predict("delay", ROWS, prediction_ids=["one"]), asof.Answer)
    yield assert_type(client.predict_all(["delay", "rival"], ROWS), dict[str, asof.Answer])
    yield assert_type(client.catalog().features.delay.mean, asof.FeatureReference)
    yield client.get_online_features("delay_v1", ROWS, as_of="2024-01-01")  # type: ignore[call-arg]
    yield client.get_batch_features("delay_v1", ROWS, statuses="yes")  # type: ignore[arg-type]
    yield client.get_batch_features("delay_v1", ROWS, "2024-01-01")  # type: ignore[call-arg]
    yield client.get_online_features(features="delay_v1")  # type: ignore[call-arg]


async def loop(client: asof.AsyncClient) -> None:
    assert_type(await client.get_online_features("delay_v1", ROWS, now="2024-01-01"), asof.Answer)
    assert_type(await client.stream_batch_features(["delay"], as_of="2024-01-01"), asof.AsyncAnswerStream)
    assert_type(await client.status(), asof.ServerStatus)
    await client.get_batch_features("delay_v1", ROWS, now="2024-01-01")  # type: ignore[call-arg]


def definitions() -> Iterator[asof.Definition]:
    carrier = asof.Entity(name="carrier", join_keys=[asof.Field("carrier", "string")])
    yield asof.FeatureView(name="delay", entities=[carrier], source="arrivals", ttl="3h")
    yield asof.FeatureView(name="delay", entities=[carrier], source="arrivals", tll="3h")  # type: ignore[call-arg]
    function = asof.Aggregation(function="average", windows=["1h"])  # type: ignore[arg-type]
    yield asof.FeatureView(name="delay", aggregations=[function])
