"""Replay equality: what the online store answered while events came in is what a batch request answers afterwards.

Events come out of order, late and repeated, in pushes of any size. In between the online store is asked. What it
answered then is compared, value by value, with a point-in-time join over the archive: the source has a created
timestamp, the moment of arrival, and the batch request looks at what was known at the asked moment. In the end the
online store is asked about moments of the whole time, and compared with all of the archive.

ASOF_REPLAY_READS makes it long.
"""

import os
import random
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import Run
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from real_server import serving

import asof

READS = int(os.environ.get("ASOF_REPLAY_READS", "4000"))
READS_PER_ROUND = 40 if READS < 100_000 else 200
EVENTS_PER_ROUND = 25
KEYS = 12
FEATURES = ["latest", "sales"]
START = datetime(2024, 5, 1, tzinfo=timezone.utc)

DEFINITIONS = """
entities:
  - {name: shop, join_keys: [{name: shop, type: string}]}
sources:
  - name: orders
    schema:
      - {name: order, type: string}
      - {name: shop, type: string}
      - {name: ordered_at, type: timestamp}
      - {name: arrived_at, type: timestamp}
      - {name: amount, type: float64}
      - {name: items, type: int64}
      - {name: dish, type: string}
    event_timestamp: ordered_at
    created_timestamp: arrived_at
    event_id: order
    stream: {type: push, allowed_lateness: 2h}
feature_views:
  - {name: latest, entities: [shop], source: orders, ttl: 5m, features: [{name: amount, type: float64}, {name: dish, type: string}]}
  - name: sales
    entities: [shop]
    source: orders
    where: "items > 0"
    aggregations:
      - {function: count, windows: [30s, 10m, lifetime]}
      - {input: amount, function: sum, windows: [1m, 1h]}
      - {input: amount, function: mean, windows: [10m]}
      - {input: amount, function: stddev, windows: [10m]}
      - {input: "amount / items", function: max, windows: [5m], name: dearest}
      - {input: dish, function: last, n: 3, windows: [10m]}
      - {input: dish, function: count_distinct, windows: [10m]}
      - {input: amount, function: approx_percentile, p: 0.9, windows: [10m]}
      - {input: items, function: sum, by: dish, windows: [10m]}
"""


@pytest.fixture
def client(asof_bin: str, tmp_path: Path, run: Run) -> Iterator[asof.Client]:
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "asof.yaml").write_text("project: replay\n")
    (tmp_path / "feature_defs" / "orders.yaml").write_text(DEFINITIONS)
    run("apply", "--yes")
    with serving(asof_bin, tmp_path) as address, asof.Client(address) as client:
        yield client


class Feed:
    """Makes events, and pushes them; time goes on by itself."""

    def __init__(self, client: asof.Client) -> None:
        self.client = client
        self.chance = random.Random(20240501)
        self.arrival = START
        self.sent: list[dict[str, object]] = []
        self.accepted = self.duplicates = self.late = 0

    def push(self) -> None:
        events = [self._event() for _ in range(self.chance.randrange(1, 2 * EVENTS_PER_ROUND))]
        result = self.client.push("orders", events, acknowledge="visible")
        self.accepted += result.accepted
        self.duplicates += result.duplicates
        self.late += result.late
        assert result.accepted + result.duplicates + result.dead_letters == len(events)

    def _event(self) -> dict[str, object]:
        chance = self.chance
        if self.sent and chance.random() < 0.15:
            return chance.choice(self.sent[-400:])
        # Most are young, some old, some too old, and some stamped later than the clock.
        ages = [0.0, chance.expovariate(1 / 3), chance.expovariate(1 / 200), chance.uniform(-30, 9_000)]
        seconds = chance.choice(ages)
        event: dict[str, object] = {
            "order": f"order{len(self.sent)}",
            "shop": f"shop{chance.randrange(KEYS)}",
            # Whole seconds meet, so that rows share key and times.
            "ordered_at": self.arrival - timedelta(seconds=round(seconds, 3) if chance.random() < 0.8 else round(seconds)),
            "arrived_at": self.arrival,
            "amount": None if chance.random() < 0.05 else chance.choice([0.1, 1e16, -1e16, chance.random() * 100]),
            "items": chance.choice([-1, 1, 2, 3, 4, 5]),
            "dish": chance.choice(["soup", "rice", "cake", None]),
        }
        self.sent.append(event)
        return event


def test_online_answers_are_what_batch_answers_afterwards(client: asof.Client) -> None:
    feed = Feed(client)
    asked: list[pa.Table] = []
    answered: list[pa.Table] = []
    for _ in range(READS // READS_PER_ROUND):
        feed.push()
        gap = feed.chance.randrange(1, 9_000)
        # Any moment until the next events arrive.
        now = feed.arrival + timedelta(milliseconds=feed.chance.choice([0, feed.chance.randrange(gap)]))
        answered.append(ask(client, feed, now))
        asked.append(spine(answered[-1], now))
        feed.arrival += timedelta(milliseconds=gap)
    assert feed.accepted > len(asked)
    assert feed.duplicates > 0
    assert feed.late > 0
    reads = differences(client, asked, answered, as_known=True)

    # Everything has come in: the past as it turned out to be.
    asked, answered = [], []
    for _ in range(20):
        now = START + (feed.arrival - START) * feed.chance.random()
        answered.append(ask(client, feed, now))
        asked.append(spine(answered[-1], now))
    reads += differences(client, asked, answered, as_known=False)
    print(f"{reads} reads of {feed.accepted} events ({feed.duplicates} repeated, {feed.late} late): 0 differences")


def test_others_that_work_on_the_event_table_lose_nothing(client: asof.Client, tmp_path: Path) -> None:
    feed = Feed(client)
    folder = tmp_path / "state/offline/sources/orders"
    done = threading.Event()
    changed = {"compacted": 0, "described": 0, "failed": 0}

    def work() -> None:
        # Files are moved together and the table's metadata change, as Delta's own tools do it.
        while not done.is_set():
            table = DeltaTable(folder)
            try:
                changed["compacted"] += table.optimize.compact()["numFilesRemoved"]
                table.alter.set_table_description(f"described {changed['described']} times")
                changed["described"] += 1
            except CommitFailedError:
                # An append came first.
                changed["failed"] += 1

    feed.push()
    answered = ask(client, feed, feed.arrival)
    differences(client, [spine(answered, feed.arrival)], [answered], as_known=False)
    others = threading.Thread(target=work)
    others.start()
    try:
        for _ in range(30):
            feed.arrival += timedelta(seconds=20)
            feed.push()
            # What a batch request needs is written first.
            answered = ask(client, feed, feed.arrival)
            differences(client, [spine(answered, feed.arrival)], [answered], as_known=False)
    finally:
        done.set()
        others.join()
    assert changed["compacted"] > 0 and changed["described"] > 0, changed
    orders = DeltaTable(folder).to_pyarrow_table(columns=["order"])["order"].to_pylist()
    assert len(orders) == len(set(orders)) == feed.accepted
    stream = client.status().streams[0]
    assert (stream.accepted, stream.offline_lag_records) == (feed.accepted, 0)


def ask(client: asof.Client, feed: Feed, now: datetime) -> pa.Table:
    shops = [f"shop{feed.chance.randrange(KEYS + 1)}" for _ in range(READS_PER_ROUND)]
    return client.get_online_features(FEATURES, {"shop": shops}, now=now, statuses=True, full_feature_names=True).to_arrow()


def spine(answer: pa.Table, now: datetime) -> pa.Table:
    times = pa.array([now] * answer.num_rows, pa.timestamp("us", "UTC"))
    return pa.table({"shop": answer["shop"], "event_timestamp": times})


def differences(client: asof.Client, asked: list[pa.Table], answered: list[pa.Table], *, as_known: bool) -> int:
    """Fails where a value or a status differs; gives the number of rows that were compared."""
    online, questions = pa.concat_tables(answered), pa.concat_tables(asked)
    batch = client.get_batch_features(
        FEATURES, questions, as_known=as_known, statuses=True, full_feature_names=True
    ).to_arrow()
    for name in online.column_names:
        left, right = online[name].to_pylist(), batch[name].to_pylist()
        wrong = [row for row, (a, b) in enumerate(zip(left, right, strict=True)) if a != b]
        told = [(questions.slice(row, 1).to_pylist()[0], left[row], right[row]) for row in wrong[:3]]
        assert not wrong, f"{name}: {len(wrong)} of {len(left)} differ, such as {told}"
    return online.num_rows
