"""Aggregation views against an oracle: every way to ask for a window gives the same bits, and the right ones.

Seeds name the cases; ASOF_WINDOW_ROUNDS runs more of them, ASOF_WINDOW_SEED one alone.
"""

import contextlib
import datetime as dt
import json
import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asof import Client
from deltalake import DeltaTable
from real_server import serving
from window_cases import COLUMNS, EARLIEST, EPOCH, LATEST, Case, make_case, make_spine, write_rows
from window_oracle import ARROW, Aggregation, Expression, Row, View, matches, plain

ROUNDS = int(os.environ.get("ASOF_WINDOW_ROUNDS", "2"))
SEEDS = [int(os.environ["ASOF_WINDOW_SEED"])] if "ASOF_WINDOW_SEED" in os.environ else list(range(ROUNDS))
# Of what takes many commands.
FEW_SEEDS = SEEDS[: max(1, ROUNDS // 2)]
END_OF_TIME = "9999-12-31T23:59:59.999999Z"
STAMP = pa.timestamp("us", "UTC")


class Asof:
    """The command on a case's project."""

    def __init__(self, binary: str, case: Case) -> None:
        self.binary, self.case = binary, case

    def run(self, *arguments: str) -> Any:
        command = [self.binary, "--project", str(self.case.folder), *arguments, "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def materialize(self, start: int, end: int) -> Any:
        return self.run("materialize", "--start", as_text(start), "--end", as_text(end))

    @contextlib.contextmanager
    def serve(self) -> Iterator[Client]:
        with serving(self.binary, self.case.folder) as address, Client(address) as client:
            yield client

    def tiles_read(self, spine: list[Row]) -> int:
        """How many tiles a batch request for the spine reads from tables."""
        pq.write_table(spine_table(spine), self.case.folder / "spine.parquet")
        spine_file = str(self.case.folder / "spine.parquet")
        arguments = ("--service", "everything", "--entities", spine_file, "--analyze")
        plan = json.dumps(self.run("explain", *arguments))
        return sum(int(count) for count in re.findall(r"[ \[]tiles=(\d+)", plan))

    def table(self, view: View) -> Counter[Any]:
        """The rows of a view's table, however often each is there."""
        table = DeltaTable(str(self.case.folder / "state/offline/views" / view.name)).to_pyarrow_table()
        columns = {name: plain(table[name].combine_chunks()) for name in sorted(table.column_names)}
        return Counter(zip(*columns.values(), strict=True))


@pytest.fixture
def make(asof_bin: str, tmp_path: Path) -> Any:
    def make(seed: int, **more: Any) -> Asof:
        folder = tmp_path / str(more.pop("name", seed))
        folder.mkdir()
        return Asof(asof_bin, make_case(seed, folder, **more))

    return make


def as_time(instant_us: int) -> dt.datetime:
    return EPOCH + dt.timedelta(microseconds=instant_us)


def as_text(instant_us: int) -> str:
    return as_time(instant_us).isoformat().replace("+00:00", "Z")


def spine_table(spine: list[Row]) -> pa.Table:
    columns = {name: pa.array([row[name] for row in spine], ARROW[COLUMNS[name]]) for name in ("text", "number")}
    columns["event_timestamp"] = pa.array([row["asked"] for row in spine], STAMP)
    columns["place"] = pa.array(range(len(spine)), pa.int32())
    return pa.table(columns)


class Found:
    """An answer column by column, in plain form, with statuses; rows as in the spine."""

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}
        self.values: dict[str, list[Any]] = {}
        self.statuses: dict[str, list[str]] = {}

    def add(self, answer: Any, names: Iterable[str]) -> "Found":
        table = answer.to_arrow()
        for name in names:
            self.types[name] = table.schema.field(name).type
            self.values.setdefault(name, []).extend(plain(table[name].combine_chunks()))
            self.statuses.setdefault(name, []).extend(str(status) for status in answer.statuses[name])
        return self

    def in_order(self, order: list[int]) -> "Found":
        """Puts the row that is at each place to where `order` says."""
        for columns in (self.values, self.statuses):
            for name, column in columns.items():
                moved: list[Any] = [None] * len(column)
                for value, place in zip(column, order, strict=True):
                    moved[place] = value
                columns[name] = moved
        return self


def feature_names(views: list[View]) -> list[str]:
    return [f"{view.name}__{feature}" for view in views for feature in view.features]


def ask_batch(client: Client, case: Case, spine: list[Row], **how: Any) -> Found:
    views = [view.name for view in case.views]
    answer = client.get_batch_features(views, spine_table(spine), full_feature_names=True, statuses=True, **how)
    assert answer.to_arrow().select(spine_table(spine).column_names).equals(spine_table(spine)), "the spine's columns"
    return Found().add(answer, feature_names(case.views))


def ask_online(client: Client, case: Case, spine: list[Row]) -> Found:
    """One request for the rows of each instant."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(spine):
        places.setdefault(row["asked"], []).append(place)
    found, order = Found(), []
    views = [view.name for view in case.views]
    for asked, rows in places.items():
        keys = spine_table([spine[place] for place in rows]).drop(["event_timestamp"])
        answer = client.get_online_features(views, keys, full_feature_names=True, statuses=True, now=as_time(asked))
        found.add(answer, feature_names(case.views))
        order += rows
    return found.in_order(order)


def check(found: Found, case: Case, spine: list[Row], way: str, as_known: bool = False) -> None:
    """The types, values and statuses are those of the oracle."""
    wrong = []
    for view in case.views:
        oracle = case.oracle(view)
        for feature, (aggregation, window) in view.features.items():
            name = f"{view.name}__{feature}"
            about = f"{name}, {window} of {aggregation.definition()}"
            if found.types[name] != aggregation.arrow_type:
                wrong.append(f"{about}: {found.types[name]} is its type, not {aggregation.arrow_type}")
            for row, value, status in zip(spine, found.values[name], found.statuses[name], strict=True):
                key = tuple(row[part] for part in view.keys)
                expected = oracle.answer(feature, key, row["asked"], as_known)
                wanted = "NOT_FOUND" if None in key else "NULL_VALUE" if value is None else "PRESENT"
                if not matches(expected, value) or status != wanted:
                    wrong.append(f"{about}: {expected} is expected, not {value} ({status}), for {row}")
                    break
    assert not wrong, f"{way}, seed {case.seed}: {len(wrong)} features differ\n" + "\n".join(wrong[:5])


def check_same(one: Found, other: Found, way: str) -> None:
    """The answers are the same bits, also those of approximate functions."""
    assert one.types == other.types, way
    for name, values in one.values.items():
        assert values == other.values[name], (way, name)
        assert one.statuses[name] == other.statuses[name], (way, name)


def check_every_way(asof: Asof, client: Client, spine: list[Row], online: list[Row] | None = None) -> None:
    case = asof.case
    tables = ask_batch(client, case, spine)
    check(tables, case, spine, "batch from tables")
    check_same(tables, ask_batch(client, case, spine, from_source=True), "batch from source")
    known = ask_batch(client, case, spine, as_known=True)
    check(known, case, spine, "as known", as_known=True)
    check_same(known, ask_batch(client, case, spine, as_known=True, from_source=True), "as known from source")
    online = spine if online is None else online
    found = ask_online(client, case, online)
    check(found, case, online, "online")
    check_same(found, ask_batch(client, case, online), "online and batch")


@pytest.mark.filterwarnings("ignore::asof.AsofWarning")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_way_answers_as_the_oracle(make: Any, seed: int) -> None:
    asof = make(seed)
    asof.run("apply", "--yes")
    asof.run("materialize", "--end", END_OF_TIME)
    with asof.serve() as client:
        spine = make_spine(asof.case, 120)
        check_every_way(asof, client, spine, online=spine[:60])


@pytest.mark.filterwarnings("ignore::asof.AsofWarning")
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_windows_of_many_events(make: Any, seed: int) -> None:
    """Tiles of every width, and partial aggregates that grow large."""
    asof = make(2 * seed + 110, events=2500, aggregations=30)
    view = replace(asof.case.views[-1], where=None, resolution=None)
    # Only where every partial stays small are windows read from tables of tiles.
    small = tuple(one for one in LARGE if one.function not in UNBOUNDED and one.by is None and (one.n or 1) <= 100)
    asof.case.views = [replace(view, aggregations=tuple(LARGE)), replace(view, name="small", aggregations=small)]
    asof.case.write_definitions()
    asof.run("apply", "--yes")
    asof.run("materialize", "--end", END_OF_TIME)
    spine = make_spine(asof.case, 12)
    assert asof.tiles_read(spine) > 0, "nothing is answered from tiles"
    with asof.serve() as client:
        check_every_way(asof, client, spine)


BIG, DOUBLE, WORD = (Expression.column(name, COLUMNS[name]) for name in ("big", "double", "word"))
LARGE = [
    Aggregation("approx_count_distinct", ("1d", "30d", "lifetime"), BIG),
    Aggregation("approx_count_distinct", ("30d",), BIG, by=WORD, name="by_word"),
    Aggregation("count_distinct", ("1h", "30d"), BIG),
    Aggregation("approx_percentile", ("1h", "30d"), DOUBLE, p=(0.01, 0.5, 0.9)),
    Aggregation("histogram", ("30d",), WORD),
    Aggregation("sum", ("1s", "1m", "1h", "1d", "30d", "lifetime"), DOUBLE),
    Aggregation("variance", ("1h", "30d"), DOUBLE),
    Aggregation("kurtosis", ("1d",), BIG),
    Aggregation("top", ("1d", "lifetime"), BIG, n=700),
    Aggregation("last", ("30d",), WORD, n=700),
    Aggregation("min", ("90s", "30d"), DOUBLE),
]


UNBOUNDED = {"count_distinct", "histogram"}


@pytest.mark.filterwarnings("ignore::asof.AsofWarning")
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_runs_over_any_intervals_come_to_the_same(make: Any, seed: int) -> None:
    """Small, overlapping, repeated runs in any order; some events are late, and found by a later run."""
    asof = make(seed + 50, events=60, aggregations=7, source_path="events")
    case, draw = asof.case, random.Random(seed)
    views = case.views
    (case.folder / "events").mkdir()
    early, late = case.rows[:40], case.rows[40:]
    write_rows(case.folder / "events/early.parquet", early)
    asof.run("apply", "--yes")

    times = sorted(row["at"] for row in case.rows if row["at"] is not None)
    cuts = sorted({EARLIEST, LATEST, *(draw.choice(times) + draw.choice([0, 0, 1]) for _ in range(2))})
    intervals = list(zip(cuts, cuts[1:], strict=False))
    overlapping = (cuts[0], max(EARLIEST + 1, draw.choice(times)))
    for start, end in draw.sample([*intervals, overlapping, intervals[-1]], len(intervals) + 2):
        asof.materialize(start, end)
    # More than one run has to be done again, and in no order.
    write_rows(case.folder / "events/late.parquet", late)
    spine = make_spine(case, 60)
    with asof.serve() as client:
        for start, end in draw.sample(intervals, len(intervals)):
            asof.materialize(start, end)
        check_every_way(asof, client, spine, online=spine[:30])
        in_pieces = [asof.table(view) for view in views]
        asof.run("optimize")
        assert [asof.table(view) for view in views] == in_pieces, "optimize changes no row"
        check(ask_batch(client, case, spine[30:]), case, spine[30:], "batch after optimize")
        check(ask_online(client, case, spine[30:]), case, spine[30:], "online after optimize")
    asof.materialize(EARLIEST, LATEST)
    assert [asof.table(view) for view in views] == in_pieces, "one run writes what many did"
    with asof.serve() as client:
        check(ask_online(client, case, spine[:30]), case, spine[:30], "online after one run")


@pytest.mark.filterwarnings("ignore::asof.AsofWarning")
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_a_run_that_was_killed_leaves_nothing_that_the_next_cannot_mend(make: Any, seed: int) -> None:
    asof = make(seed + 70, events=60, aggregations=6)
    draw = random.Random(seed)
    asof.run("apply", "--yes")
    times = sorted(row["at"] for row in asof.case.rows if row["at"] is not None)
    for _ in range(3):
        bounds = [] if draw.random() < 0.5 else ["--start", as_text(draw.choice(times))]
        command = [asof.binary, "--project", str(asof.case.folder), "materialize", *bounds, "--end", END_OF_TIME]
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.05, 0.6))
        job.kill()
        job.wait()
    asof.run("materialize", "--start", as_text(EARLIEST), "--end", END_OF_TIME)
    spine = make_spine(asof.case, 40)
    with asof.serve() as client:
        check_every_way(asof, client, spine, online=spine[:20])


@pytest.mark.filterwarnings("ignore::asof.AsofWarning")
@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_spines_that_the_views_know_themselves(make: Any, seed: int) -> None:
    """A range asks at every event of a view, `as_of` for every key that it knows by then."""
    asof = make(seed + 30, events=60, aggregations=5)
    case = asof.case
    asof.run("apply", "--yes")
    asof.run("materialize", "--end", END_OF_TIME)
    all_views = case.views
    with asof.serve() as client:
        for view in all_views:
            case.views = [view]
            oracle = case.oracle(view)
            events = sorted({(at, key) for key in oracle.keys() for at in oracle.times(key)})
            if not events:
                continue
            start, end = events[len(events) // 4][0], events[len(events) // 2][0]
            for how, expected in {
                ("start", "end"): [(key, at) for at, key in events if start <= at < end],
                ("as_of",): list({(key, end) for at, key in events if at <= end}),
            }.items():
                given = {"start": as_time(start), "end": as_time(end), "as_of": as_time(end)}
                for from_source in (False, True):
                    answer = client.get_batch_features(
                        [view.name], full_feature_names=True, statuses=True, from_source=from_source,
                        **{name: given[name] for name in how},
                    )  # fmt: skip
                    table = answer.to_arrow()
                    columns = [plain(table[name].combine_chunks()) for name in (*view.keys, "event_timestamp")]
                    asked = [(tuple(row[:-1]), row[-1]) for row in zip(*columns, strict=True)]
                    assert Counter(asked) == Counter(expected), (view, how, from_source)
                    spine = [dict(zip(view.keys, key, strict=True)) | {"asked": at} for key, at in asked]
                    check(Found().add(answer, feature_names([view])), case, spine, f"{how}")


VALUE = Expression.column("big", "int64")
SINGLE = Expression.column("single", "float32")
CHANGES: dict[str, View] = {
    "before": View("by_text", ("text",), (Aggregation("mean", ("1h", "7d"), VALUE, name="x"),)),
    "a window is added": View("by_text", ("text",), (Aggregation("mean", ("1s", "1h", "7d"), VALUE, name="x"),)),
    "a window without end": View("by_text", ("text",), (Aggregation("mean", ("1h", "lifetime"), VALUE, name="x"),)),
    "the function": View("by_text", ("text",), (Aggregation("sum", ("1h", "7d"), VALUE, name="x"),)),
    "the function, of one partial": View("by_text", ("text",), (Aggregation("max", ("1h", "7d"), VALUE, name="x"),)),
    "a list": View("by_text", ("text",), (Aggregation("last", ("1h", "7d"), VALUE, n=3, name="x"),)),
    "a longer list": View("by_text", ("text",), (Aggregation("last", ("1h", "7d"), VALUE, n=4, name="x"),)),
    "the input": View("by_text", ("text",), (Aggregation("mean", ("1h", "7d"), SINGLE, name="x"),)),
    "by": View("by_text", ("text",), (Aggregation("mean", ("1h", "7d"), VALUE, name="x", by=SINGLE),)),
}


def changed_views() -> dict[str, View]:
    before = CHANGES["before"]
    condition = Expression("flag", "bool", lambda row: row["flag"])
    return {**CHANGES, "where": replace(before, where=condition), "resolution": replace(before, resolution="9m")}


@pytest.mark.filterwarnings("ignore::asof.AsofWarning")
def test_a_changed_definition_is_answered_as_it_reads_now(make: Any) -> None:
    asof = make(90, events=60, aggregations=1)
    case = asof.case
    case.views = [CHANGES["before"]]
    case.write_definitions()
    spine = make_spine(case, 40)
    asof.run("apply", "--yes")
    asof.run("materialize", "--end", END_OF_TIME)
    changes = list(changed_views().items())
    draw = random.Random(os.environ.get("ASOF_WINDOW_SEED", "1"))
    draw.shuffle(changes)
    with asof.serve() as client:
        for what, view in changes[: 2 * ROUNDS]:
            case.views = [view]
            case.write_definitions()
            asof.run("apply", "--yes", "--allow-breaking")
            asof.run("materialize", "--end", END_OF_TIME)
            wait_for(client, view)
            try:
                check_every_way(asof, client, spine, online=spine[:20])
            except AssertionError as error:
                raise AssertionError(f"{what} changed: {error}") from error


def wait_for(client: Client, view: View) -> None:
    """A running server follows within a second."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        (found,) = (one for one in client.list_definitions("feature_views") if one["name"] == view.name)
        written = view.definition([], "")
        if all(written.get(key) == found.get(key) for key in ("aggregations", "where", "resolution")):
            return
        time.sleep(0.05)
    raise AssertionError(f"the server does not follow to {written}: {found}")


@pytest.mark.filterwarnings("ignore::asof.AsofWarning")
def test_plans_tell_of_windows(make: Any) -> None:
    asof = make(91, events=20, aggregations=1)
    case = asof.case
    case.views = [CHANGES["before"]]
    case.write_definitions()
    asof.run("apply", "--yes")
    job = asof.run("explain", "by_text")
    assert job["view"] == "by_text"
    assert "big" in job["logical_plan"]
    asof.run("materialize", "--end", END_OF_TIME)
    (case.folder / "spine.csv").write_text("text,event_timestamp\na,2024-02-29T00:00:00Z\n")
    for more in ([], ["--from-source"], ["--analyze"]):
        asked = asof.run("explain", "--service", "everything", "--entities", str(case.folder / "spine.csv"), *more)
        assert "WindowAggregation" in asked["physical_plan"], more
    for what, view in changed_views().items():
        case.views = [view]
        case.write_definitions()
        plan = asof.run("plan")
        assert bool(plan["changes"]) == (what != "before"), what
