"""Aggregation views against an oracle: every way to ask for a window gives the same bits, and the right ones.

Seeds name the cases; ASOF_WINDOW_ROUNDS runs more of them, ASOF_WINDOW_SEED one alone.
"""

import contextlib
import datetime as dt
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from asof import Client
from deltalake import DeltaTable
from window_cases import COLUMNS, EARLIEST, EPOCH, LATEST, Case, instant, make_case, make_rows, make_spine, write_rows
from window_oracle import ARROW, Aggregation, Expression, Row, View, matches, micros, plain

ROUNDS = int(os.environ.get("ASOF_WINDOW_ROUNDS", "3"))
SEEDS = [int(os.environ["ASOF_WINDOW_SEED"])] if "ASOF_WINDOW_SEED" in os.environ else list(range(ROUNDS))
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

    @contextlib.contextmanager
    def serve(self) -> Iterator[Client]:
        command = [self.binary, "--project", str(self.case.folder), "serve", "--allow-request-time", "--output", "json"]
        command += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        log = (self.case.folder / "serve.log").open("w")
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line == "}\n":
                break
        try:
            with Client(json.loads("".join(lines))["grpc"]) as client:
                yield client
        finally:
            server.terminate()
            server.wait(timeout=20)

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
