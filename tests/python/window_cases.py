"""Random histories and aggregation views over them, as a project in a folder.

A seed makes the same case every time. Events crowd around instants that are hard (year 1, 1970, year 9999), with ties
of every degree, and values come from the ends of their types.
"""

import datetime as dt
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from window_oracle import ARROW, Aggregation, Expression, Oracle, Row, View, micros

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
COLUMNS = {
    "text": "string",
    "number": "int64",
    "flag": "bool",
    "small": "int32",
    "big": "int64",
    "single": "float32",
    "double": "float64",
    "odd": "float64",
    "word": "string",
    "day": "date",
    "moment": "timestamp",
}
ENTITIES = {"by_text": ("text",), "by_number": ("number",), "by_both": ("text", "number"), "of_all": ()}
WINDOWS = ["1s", "1m", "1h", "1d", "30d", "lifetime", "90s", "1001ms", "500ms", "24h", "7d", "2w", "1000000d"]
TEXTS = ["a", "", "ä€", "long " * 9]
NUMBERS = [0, -1, 2**63 - 1, -(2**63)]


def instant(text: str) -> int:
    return (dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc) - EPOCH) // dt.timedelta(microseconds=1)


EARLIEST, LATEST = instant("0001-01-01"), instant("9999-12-31T23:59:59.999999")
HARD_INSTANTS = [EARLIEST, instant("1969-12-31T23:59:58"), instant("2024-02-28T23:00:00"), LATEST - micros("2d")]
STEPS = [0, 1, 999, 1_000, *(micros(window) for window in ("1s", "20s", "1m", "5m", "1h", "1d", "5d"))]

EXPRESSIONS = [
    Expression("small > 15", "bool", lambda row: None if row["small"] is None else row["small"] > 15),
    Expression("double * 2", "float64", lambda row: None if row["double"] is None else row["double"] * 2),
    Expression("CASE WHEN flag THEN big END", "int64", lambda row: row["big"] if row["flag"] else None),
    Expression("upper(word)", "string", lambda row: None if row["word"] is None else row["word"].upper()),
    Expression("CAST(small AS DOUBLE) / 3", "float64", lambda row: None if row["small"] is None else row["small"] / 3),
    Expression("coalesce(word, 'none')", "string", lambda row: "none" if row["word"] is None else row["word"]),
    Expression("-odd", "float64", lambda row: None if row["odd"] is None else -row["odd"]),
    Expression("word IS NULL", "bool", lambda row: row["word"] is None),
]
CONDITIONS = [
    Expression("flag", "bool", lambda row: row["flag"]),
    Expression("small >= 0 OR small IS NULL", "bool", lambda row: row["small"] is None or row["small"] >= 0),
    Expression("word <> 'b'", "bool", lambda row: None if row["word"] is None else row["word"] != "b"),
]


@dataclass
class Case:
    """A project with one source, and what its views should answer."""

    seed: int
    rows: list[Row]
    views: list[View]
    has_created: bool
    folder: Path
    source_path: str = "events.parquet"
    _oracles: dict[str, Oracle] = field(default_factory=dict)

    def oracle(self, view: View) -> Oracle:
        if view.name not in self._oracles:
            rows = self.rows if self.has_created else [{**row, "written": None} for row in self.rows]
            self._oracles[view.name] = Oracle(view, rows, self.has_created)
        return self._oracles[view.name]

    def write(self) -> None:
        (self.folder / "asof.yaml").write_text(f"project: windows_{self.seed}\n")
        (self.folder / "feature_defs").mkdir(exist_ok=True)
        self.write_definitions()
        if self.source_path.endswith(".parquet"):
            write_rows(self.folder / self.source_path, self.rows)

    def write_definitions(self) -> None:
        self._oracles.clear()
        source: dict[str, Any] = {"name": "events", "batch": {"format": "parquet", "path": self.source_path}}
        source["event_timestamp"] = "at"
        if self.has_created:
            source["created_timestamp"] = "written"
        key_type = {"text": "string", "number": "int64"}
        entities = [
            {"name": name, "join_keys": [{"name": key, "type": key_type[key]} for key in keys]}
            for name, keys in ENTITIES.items()
            if keys
        ]
        views = [view.definition([view.name] if view.keys else [], "events") for view in self.views]
        service = {"name": "everything", "features": [view.name for view in self.views]}
        written = {"entities": entities, "sources": [source], "feature_views": views, "feature_services": [service]}
        # JSON is YAML.
        (self.folder / "feature_defs/all.yaml").write_text(json.dumps(written, indent=1, ensure_ascii=False))


def write_rows(path: Path, rows: list[Row]) -> None:
    stamp = pa.timestamp("us", "UTC")
    columns = {name: pa.array([row[name] for row in rows], ARROW[kind]) for name, kind in COLUMNS.items()}
    columns |= {name: pa.array([row[name] for row in rows], stamp) for name in ("at", "written")}
    pq.write_table(pa.table(columns), path, row_group_size=64)


def make_case(seed: int, folder: Path, events: int = 100, aggregations: int = 15, **more: Any) -> Case:
    draw = random.Random(seed)
    has_created = seed % 3 != 2
    rows = make_rows(draw, events, is_wild=seed % 2 == 0)
    pool = make_pool(draw)
    views = []
    for number, (name, keys) in enumerate(ENTITIES.items()):
        # Views take turns, so that one case has every function.
        chosen = pool[number * aggregations : (number + 1) * aggregations]
        windows = draw.sample(WINDOWS, 7)
        where = draw.choice([None, *CONDITIONS])
        resolution = draw.choice([None, None, "1ms", "300ms", "7s"])
        if resolution:
            windows = [window for window in windows if window == "lifetime" or micros(window) >= micros(resolution)]
        views.append(View(name, keys, tuple(with_windows(draw, chosen, windows)), where, resolution))
    case = Case(seed, rows, views, has_created, folder, **more)
    case.write()
    return case


def make_rows(draw: random.Random, count: int, is_wild: bool) -> list[Row]:
    rows: list[dict[str, Any]] = []
    at = draw.choice(HARD_INSTANTS)
    while len(rows) < count:
        if rows and draw.random() < 0.1:
            # Once more, in full or with another value.
            rows.append(dict(draw.choice(rows[-5:])))
            if draw.random() < 0.5:
                rows[-1]["word"] = draw.choice(["a", "b", "c"])
                rows[-1]["double"] = draw.uniform(-9, 9)
            continue
        if draw.random() < 0.04:
            at = draw.choice(HARD_INSTANTS)
        at = min(at + draw.choice(STEPS) * draw.randint(1, 3), LATEST - 1)
        # Instants of tiles' edges are hard, too.
        if draw.random() < 0.3:
            step = draw.choice(STEPS[2:])
            at = max(at - at % step, EARLIEST)
        delay = draw.choice([0, 0, 1, -1, micros("1h"), micros("1d")])
        rows.append(
            {
                "at": None if draw.random() < 0.02 else at,
                "written": None if draw.random() < 0.15 else min(max(at + delay, EARLIEST), LATEST),
                "text": draw.choice([*TEXTS, "a", "a", None]) if draw.random() < 0.9 else "a",
                "number": draw.choice([*NUMBERS, None]) if draw.random() < 0.8 else 0,
            }
            | make_values(draw, is_wild)
        )
    draw.shuffle(rows)
    return rows


def make_values(draw: random.Random, is_wild: bool) -> dict[str, Any]:
    big, double = draw.randint(-9, 9), draw.choice([draw.uniform(-9, 9), 0.1, 0.5, 3.0, -0.0])
    if is_wild:
        big = draw.choice([big, draw.randint(-(2**63), 2**63 - 1), 2**63 - 1, -(2**63), 2**62])
        double = draw.choice([double, 1e300, -1e300, 1e-300, 5e-324, 1e308, -1.7e308, 2.0**-1022, 1e16])
    single = draw.choice([0.1, -2.5, 3.4e38, 1e-45, float("nan"), 16777217.0, -0.0])
    odd = draw.choice([draw.uniform(-1, 1), draw.uniform(-1, 1), -0.0, 0.0, draw.choice(ODD)])
    values = {
        "flag": draw.random() < 0.6,
        "small": draw.choice([draw.randint(-20, 40), 2**31 - 1, -(2**31)]),
        "big": big,
        "single": pa.scalar(single, pa.float32()).as_py(),
        "double": double,
        "odd": odd,
        "word": draw.choice(["a", "b", "c", "", "ß", "zz"]),
        "day": draw.randint(0, 6) + draw.choice([0, 19_000, -719_162, 2_932_890]),
        "moment": draw.choice(HARD_INSTANTS) + draw.randint(0, 3),
    }
    return {name: None if draw.random() < 0.15 else value for name, value in values.items()}


ODD = [float("nan"), float("inf"), float("-inf"), float("nan")]


def make_pool(draw: random.Random) -> list[Aggregation]:
    """Every function over every input that it takes, in random order; the rarer ones come first."""
    columns = [Expression.column(name, kind) for name, kind in COLUMNS.items() if name not in ("text", "number")]
    inputs = [*columns, *EXPRESSIONS]
    numbers = [of for of in inputs if of.type.startswith(("int", "float"))]
    bools = [of for of in inputs if of.type == "bool"]
    floats = [of for of in numbers if of.type == "float64"]
    pool = [Aggregation("count", ()), *(Aggregation("count", (), of) for of in inputs)]
    pool += [Aggregation(function, (), of) for function in ("sum", "variance", "stddev") for of in numbers]
    pool += [Aggregation("mean", (), of) for of in [*numbers, *bools]]
    pool += [Aggregation(function, (), of) for function in ("skew", "kurtosis") for of in draw.sample(numbers, 5)]
    pool += [Aggregation(function, (), of) for function in ("any", "all") for of in bools]
    for function in ("min", "max", "first", "last", "top", "bottom", "count_distinct", "approx_count_distinct"):
        pool += [Aggregation(function, (), of) for of in inputs]
    pool += [Aggregation("histogram", (), of) for of in inputs]
    for function in ("first", "last", "top", "bottom"):
        pool += [Aggregation(function, (), of, n=draw.choice([1, 2, 5, 100])) for of in draw.sample(inputs, 6)]
    for of in numbers:
        pool.append(Aggregation("approx_percentile", (), of, p=draw.choice([0, 0.25, 0.5, 0.99, 1])))
    pool += [Aggregation("approx_percentile", (), of, p=(0.0, 0.5, 1.0)) for of in draw.sample(numbers, 3)]
    by = [
        Aggregation(of.function, (), of.input, of.n, of.p, draw.choice(inputs))
        for of in draw.sample([one for one in pool if one.function != "histogram"], 30)
    ]
    by += [Aggregation(function, (), draw.choice(floats), by=draw.choice(inputs)) for function in ("sum", "mean")]
    by.append(Aggregation("count", (), by=draw.choice(inputs)))
    draw.shuffle(pool)
    draw.shuffle(by)
    # One of each function before the rest.
    heads = {one.function: one for one in pool}
    rest = [one for one in pool if one is not heads[one.function]]
    mixed = list(heads.values()) + [one for pair in zip(rest, by, strict=False) for one in (*pair,)]
    return mixed + rest[len(by) :]


def with_windows(draw: random.Random, chosen: list[Aggregation], windows: list[str]) -> list[Aggregation]:
    done = []
    for number, one in enumerate(chosen):
        picked = tuple(draw.sample(windows, min(len(windows), draw.randint(1, 3))))
        # A day may be written in two ways, and is one window.
        if {"1d", "24h"} <= set(picked):
            picked = tuple(window for window in picked if window != "24h")
        plain = (one.input is None or one.input.is_column) and one.n is None and one.p is None and one.by is None
        name = None if plain and draw.random() < 0.7 else f"f{number}"
        done.append(Aggregation(one.function, picked, one.input, one.n, one.p, one.by, name))
    return done


def make_spine(case: Case, rows: int, seed: int = 0) -> list[Row]:
    """Keys and times at the edges of windows; each row has all keys that any view has."""
    draw = random.Random(case.seed * 1_000_003 + seed)
    timed = [row for row in case.rows if row["at"] is not None]
    windows = sorted({window for view in case.views for a in view.aggregations for window in a.windows} - {"lifetime"})
    spine: list[Row] = []
    while len(spine) < rows:
        row = draw.choice(timed)
        asked = row["at"] + draw.choice([0, 0, micros(draw.choice(windows))]) + draw.choice([0, 1, -1, -1, 1, 500])
        text = row["text"] if draw.random() < 0.9 else draw.choice([None, "unknown", *TEXTS])
        number = row["number"] if draw.random() < 0.9 else draw.choice([None, 4711, *NUMBERS])
        if EARLIEST <= asked <= LATEST:
            spine.append({"text": text, "number": number, "asked": asked})
            if draw.random() < 0.1:
                spine.append(dict(spine[-1]))
    draw.shuffle(spine)
    return spine
