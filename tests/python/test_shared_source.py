"""Aggregation views over one source, which is read once for all of them."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Run

DEFINITIONS = """
entities:
  - {name: shop, join_keys: [{name: shop, type: int64}]}
  - {name: city, join_keys: [{name: city, type: string}]}
sources:
  - {name: orders, batch: {format: parquet, path: orders.parquet}, event_timestamp: at}
feature_views:
  - name: by_shop
    entities: [shop]
    source: orders
    aggregations:
      - {function: count, windows: [1d, 7d]}
      - {input: price, function: max, windows: [1d, 7d]}
  - name: by_city
    entities: [city]
    source: orders
    where: items <> 0
    aggregations:
      - {input: price / items, function: sum, windows: [7d], name: price_an_item}
      - {input: price, function: last, n: 2, windows: [7d], name: last_prices}
  - name: big
    entities: [shop]
    source: orders
    where: price > 25
    aggregations:
      - {function: count, windows: [7d], name: big_orders}
feature_services:
  - name: all
    features: [by_shop, by_city, big]
"""
DAY = 86_400_000_000


@pytest.fixture
def orders(tmp_path: Path) -> pa.Table:
    """Orders of five days; some have no items, and dividing by them would fail."""
    count = 500
    table = pa.table(
        {
            "shop": pa.array([n % 7 for n in range(count)], pa.int64()),
            "city": [f"c{n % 3}" if n % 11 else None for n in range(count)],
            "at": pa.array([n * DAY // 100 for n in range(count)], pa.timestamp("us", "UTC")),
            "price": pa.array([(n * 37) % 50 if n % 13 else None for n in range(count)], pa.int64()),
            "items": pa.array([n % 4 for n in range(count)], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "orders.parquet")
    (tmp_path / "asof.yaml").write_text("project: shared\n")
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "feature_defs/all.yaml").write_text(DEFINITIONS)
    return table


def micros(instant: dt.datetime) -> int:
    return (instant - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) // dt.timedelta(microseconds=1)


def expected(orders: pa.Table, asked: dict[str, Any]) -> list[Any]:
    """The features of one row of the spine, from every order."""

    def seen(key: str, days: int, condition: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        begin = micros(asked["event_timestamp"]) - days * DAY
        inside = [row for row in orders.to_pylist() if begin <= micros(row["at"]) < micros(asked["event_timestamp"])]
        return [row for row in inside if row[key] is not None and row[key] == asked[key] and condition(row)]

    def prices(rows: list[dict[str, Any]]) -> list[int]:
        return [row["price"] for row in rows if row["price"] is not None]

    of_shop = {days: seen("shop", days, lambda row: True) for days in (1, 7)}
    of_city = seen("city", 7, lambda row: row["items"] != 0)
    shares = [int(row["price"] / row["items"]) for row in of_city if row["price"] is not None]
    return [
        *(len(of_shop[days]) for days in (1, 7)),
        *(max(prices(of_shop[days]), default=None) for days in (1, 7)),
        sum(shares) if shares else None,
        prices(of_city)[:-3:-1] or None,
        len(seen("shop", 7, lambda row: row["price"] is not None and row["price"] > 25)),
    ]


@pytest.mark.parametrize("way", ["--from-source", "tables"])
def test_each_view_has_its_own_events(run: Run, tmp_path: Path, orders: pa.Table, way: str) -> None:
    asked = pa.table(
        {
            "shop": pa.array([0, 3, 3, 9, None, 6], pa.int64()),
            "city": ["c0", "c1", None, "c2", "c2", "c1"],
            "event_timestamp": pa.array([DAY, 2 * DAY + 1, 3 * DAY, 4 * DAY, 5 * DAY, 9 * DAY], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(asked, tmp_path / "spine.parquet")
    run("apply", "--yes")
    options = [way]
    if way == "tables":
        run("materialize", "--end", "2000-01-01")
        options = []
    run("get-batch-features", "--service", "all", "--entities", "spine.parquet", "--out", "answer.parquet", *options)
    answer = pq.read_table(tmp_path / "answer.parquet").to_pylist()
    for row, found in zip(asked.to_pylist(), answer, strict=True):
        values = list(found.values())[3:]
        wanted = expected(orders, row)
        if row["shop"] is None:
            wanted[:4], wanted[6] = [None] * 4, None
        if row["city"] is None:
            wanted[4:6] = [None, None]
        assert values == wanted, row


def test_the_plan_reads_the_source_once(run: Run, tmp_path: Path, orders: pa.Table) -> None:
    run("apply", "--yes")
    (tmp_path / "spine.csv").write_text("shop,city,event_timestamp\n1,c1,1970-01-03\n")
    plan = run("explain", "--service", "all", "--entities", "spine.csv", "--from-source")["physical_plan"]
    assert plan.count("orders.parquet") == 1, plan
