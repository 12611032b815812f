"""A Feast repository with one of everything that can be taken over, and some that cannot."""

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, Float64, Int64, Json, String, UnixTimestamp

driver = Entity(name="driver", join_keys=["driver_id"], description="Who drives", owner="rides", tags={"tier": "gold"})
city = Entity(name="city", join_keys=["city_code"], value_type=ValueType.STRING)
unused = Entity(name="unused", join_keys=["unused_id"])

stats_source = FileSource(
    name="driver_stats_source",
    path="data/driver_stats.parquet",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
    field_mapping={"convRate": "conv_rate"},
)
trips_source = FileSource(
    name="trips_source", path="data/trips.parquet", timestamp_field="ended_at", description="One row a day"
)
push_source = PushSource(name="trips_push", batch_source=trips_source)

driver_stats = FeatureView(
    name="driver_stats",
    entities=[driver],
    ttl=timedelta(hours=2),
    schema=[
        Field(name="conv_rate", dtype=Float32),
        Field(name="rating", dtype=Float32, description="From 1 to 5"),
        Field(name="trips_today", dtype=Int64),
        Field(name="config", dtype=Json),
    ],
    source=stats_source,
    tags={"team": "performance"},
)
city_trips = FeatureView(
    name="city_trips",
    entities=[driver, city],
    ttl=timedelta(0),
    schema=[
        Field(name="trips", dtype=Int64),
        Field(name="last_streets", dtype=Array(String)),
        Field(name="last_seen", dtype=UnixTimestamp, tags={"unit": "s"}),
    ],
    source=push_source,
    online=False,
)

request = RequestSource(name="ride", schema=[Field(name="distance", dtype=Float64)])


@on_demand_feature_view(sources=[driver_stats, request], schema=[Field(name="expected_rate", dtype=Float64)])
def expected(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"expected_rate": inputs["conv_rate"] * inputs["distance"]})


rides_v1 = FeatureService(
    name="rides-v1",
    features=[
        driver_stats[["conv_rate", "trips_today"]],
        city_trips.with_name("destination").with_join_key_map({"city_code": "to_city"}),
        expected,
    ],
    owner="rides",
)
all_stats = FeatureService(name="all_stats", features=[driver_stats])
