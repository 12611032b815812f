"""The flights example: for every key that its tables know, and a sweep of times, batch and online answer the same."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from asof import Client
from deltalake import DeltaTable
from real_server import serving

REPOSITORY = Path(__file__).parents[2]
UTC = dt.timezone.utc
# Before the first row, on the edges of hours and of the TTLs, in the gaps of the weather, after the last row.
SWEEP = [
    dt.datetime(2012, 12, 31, 0, 0, 0, 0, UTC),
    dt.datetime(2013, 1, 1, 6, 0, 0, 0, UTC),
    dt.datetime(2013, 1, 2, 0, 0, 0, 0, UTC),
    dt.datetime(2013, 1, 1, 23, 59, 59, 999_999, UTC),
    dt.datetime(2013, 3, 10, 7, 0, 0, 1, UTC),
    dt.datetime(2013, 7, 4, 16, 30, 0, 0, UTC),
    dt.datetime(2013, 10, 23, 12, 0, 0, 0, UTC),
    dt.datetime(2013, 12, 31, 4, 59, 0, 0, UTC),
    dt.datetime(2014, 1, 1, 2, 59, 59, 999_999, UTC),
    dt.datetime(2014, 1, 7, 0, 0, 0, 0, UTC),
    dt.datetime(2014, 1, 8, 0, 0, 0, 1, UTC),
    dt.datetime(2020, 6, 1, 0, 0, 0, 0, UTC),
]
VIEWS = {
    "origin_weather": ["origin"],
    "plane_profile": ["tailnum"],
    "airport_profile": ["airport"],
    "route_day": ["origin", "dest"],
    "carrier_day": ["carrier"],
}
REQUEST_ROWS_MAX = 5000


@pytest.fixture(scope="module")
def client(asof_bin: str, flights_project: Path) -> Iterator[tuple[Client, Path]]:
    with serving(asof_bin, flights_project) as address:
        yield Client(address), flights_project


def known_keys(folder: Path, view: str) -> pa.Table:
    """Every key of a view's table, and one that it does not know."""
    table = DeltaTable(str(folder / "state/offline/views" / view)).to_pyarrow_table(columns=VIEWS[view])
    unknown = pa.table({name: ["nobody"] for name in VIEWS[view]})
    keys = table.group_by(VIEWS[view]).aggregate([]).select(VIEWS[view])
    return pa.concat_tables([keys, unknown.cast(keys.schema)])


@pytest.mark.parametrize("view", VIEWS)
def test_every_key_at_every_time(client: tuple[Client, Path], view: str) -> None:
    asof, folder = client
    keys = known_keys(folder, view)
    assert keys.num_rows > 3
    compared = 0
    for now in SWEEP:
        for start in range(0, keys.num_rows, REQUEST_ROWS_MAX):
            asked = keys.slice(start, REQUEST_ROWS_MAX)
            times = pa.array([now] * asked.num_rows, pa.timestamp("us", "UTC"))
            batch = asof.get_batch_features([view], asked.append_column("event_timestamp", times), statuses=True)
            online = asof.get_online_features([view], asked, statuses=True, now=now)
            batch_table, online_table = batch.to_arrow(), online.to_arrow()
            for name in online_table.column_names:
                left, right = batch_table[name].combine_chunks(), online_table[name].combine_chunks()
                assert left.cast(right.type).equals(right), (view, now, name)
                compared += len(left)
    assert compared > 0


def test_the_service_at_every_time(client: tuple[Client, Path]) -> None:
    """All views together, with on-demand features: each of some thousand flights at each time."""
    asof, _ = client
    flights = pq.read_table(REPOSITORY / "data/nycflights13/flights.parquet")
    rows = pa.array(range(0, flights.num_rows, 97))
    asked = flights.take(rows).select(["origin", "dest", "carrier", "tailnum", "distance"])
    asked = asked.set_column(4, "distance", pc.cast(asked["distance"], pa.int64()))
    for now in SWEEP:
        times = pa.array([now] * asked.num_rows, pa.timestamp("us", "UTC"))
        spine = asked.append_column("event_timestamp", times)
        batch = asof.get_batch_features("arrival_delay_v1", spine, statuses=True).to_arrow()
        online = asof.get_online_features("arrival_delay_v1", spine, statuses=True, now=now).to_arrow()
        for name in online.column_names:
            left, right = batch[name].combine_chunks(), online[name].combine_chunks()
            assert left.cast(right.type).equals(right), (now, name)
