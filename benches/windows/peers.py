"""The same question, put to other engines: one function each, in the formulation that was found to be the fastest.

Runs as a process of its own, `python peers.py ENGINE QUESTION.json`, so that an engine's memory and CPU time can be
measured from outside; prints how long the work took once the engine was imported.

Every answer has the spine's rows in the spine's order, which for these engines means by `order_id`. The window `w` of a
question at `t` holds the events of its store with `t - w <= event timestamp < t`. None of them has a null, and no two
have one time. Sums and means are of floats that are added up in some order or taken from a running sum: they are rounded
more than once, unlike Asof's, and only about equal to them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polars import Expr, LazyFrame


@dataclass(frozen=True)
class Asked:
    """One function of one column over one window, and the name of the column that answers it."""

    name: str
    function: str
    input: str
    window_us: int
    n: int | None


@dataclass(frozen=True)
class Question:
    spine: str
    events: list[str]
    asked: list[Asked]
    out: str

    @property
    def functions(self) -> set[str]:
        return {asked.function for asked in self.asked}

    @property
    def input(self) -> str:
        """The column that all functions of the question are of."""
        return self.asked[0].input

    @property
    def windows_us(self) -> list[int]:
        return sorted({asked.window_us for asked in self.asked})

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(file: Path) -> "Question":
        document = json.loads(file.read_text())
        return Question(**document | {"asked": [Asked(**asked) for asked in document["asked"]]})


# What running sums over all earlier events tell.
RUNNING = {"count", "sum", "mean"}
SPINE_COLUMNS = ["order_id", "store", "event_timestamp"]


def polars(question: Question) -> None:
    """Rolling kernels over the union of events and questions, store by store; the last events of each event are joined
    as of the question."""
    if "last" in question.functions:
        answer = polars_last(question)
    elif "count_distinct" in question.functions:
        answer = polars_windows(question)
    else:
        answer = polars_kernels(question)
    sink(answer, question)


def polars_rolling(question: Question) -> None:
    """Every window as a group of its own."""
    sink(polars_windows(question), question)


def sink(answer: "LazyFrame", question: Question) -> None:
    answer = answer.sort("order_id").select(*SPINE_COLUMNS, *(asked.name for asked in question.asked))
    answer.sink_parquet(question.out, compression="snappy", engine="streaming")


def polars_union(question: Question) -> "LazyFrame":
    """Events and questions by store and time. Which of two rows of one time comes first does not matter, since windows
    end before their question's time."""
    import polars as pl

    events = pl.scan_parquet(question.events)
    events = events.select("store", "event_timestamp", question.input, order_id=pl.lit(None, pl.Int64))
    input_type = events.collect_schema()[question.input]
    asked = pl.lit(None, input_type).alias(question.input)
    questions = pl.scan_parquet(question.spine).select("store", "event_timestamp", asked, "order_id")
    return pl.concat([events, questions]).sort("store", "event_timestamp")


def polars_kernels(question: Question) -> "LazyFrame":
    import polars as pl

    union = polars_union(question).with_columns(one=pl.col(question.input).is_not_null().cast(pl.Int64))
    kernels = []
    for window in question.windows_us:
        options = {"by": "event_timestamp", "window_size": f"{window}us", "closed": "left"}
        value = pl.col(question.input)
        kernels += [
            # Without a row before it a question has no group to count in.
            pl.col("one").rolling_sum_by(**options).fill_null(0).alias(f"count {window}"),
            value.rolling_sum_by(**options).alias(f"sum {window}"),
            value.rolling_max_by(**options).alias(f"max {window}"),
        ]
    by_store = union.group_by("store", maintain_order=True).agg("order_id", "event_timestamp", *kernels)
    rolled = by_store.explode(pl.exclude("store")).filter(pl.col("order_id").is_not_null())

    def answer(asked: Asked) -> "Expr":
        count, total = pl.col(f"count {asked.window_us}"), pl.col(f"sum {asked.window_us}")
        match asked.function:
            case "mean":
                found = pl.when(count > 0).then(total / count)
            case "sum":
                # The sum of nothing but other questions is zero.
                found = pl.when(count > 0).then(total)
            case function:
                found = pl.col(f"{function} {asked.window_us}")
        return found.alias(asked.name)

    return rolled.select(*SPINE_COLUMNS, *map(answer, question.asked))


def polars_windows(question: Question) -> "LazyFrame":
    import polars as pl

    def aggregate(asked: Asked) -> "Expr":
        value = pl.col(asked.input)
        match asked.function:
            case "count":
                found = value.count().cast(pl.Int64)
            case "count_distinct":
                # The nulls of other questions count as one value.
                found = value.n_unique().cast(pl.Int64) - value.is_null().any().cast(pl.Int64)
            case "sum":
                # The sum of nothing but other questions is zero.
                found = pl.when(value.count() > 0).then(value.sum())
            case "last":
                found = value.drop_nulls().tail(asked.n).reverse()
            case function:
                found = getattr(value, function)()
        return found.alias(asked.name)

    union = polars_union(question).collect().lazy()
    parts = [union.select(*SPINE_COLUMNS)]
    for window in question.windows_us:
        functions = [aggregate(asked) for asked in question.asked if asked.window_us == window]
        rolled = union.rolling("event_timestamp", period=f"{window}us", closed="left", group_by="store").agg(*functions)
        parts.append(rolled.select(pl.exclude("store", "event_timestamp")))
    answer = pl.concat(parts, how="horizontal").filter(pl.col("order_id").is_not_null())
    lists = [asked.name for asked in question.asked if asked.function == "last"]
    empty_to_null = [pl.when(pl.col(name).list.len() > 0).then(pl.col(name)).alias(name) for name in lists]
    return answer.with_columns(*empty_to_null)


def polars_last(question: Question) -> "LazyFrame":
    import polars as pl

    (asked,) = question.asked
    events = pl.scan_parquet(question.events).sort("store", "event_timestamp")
    steps = range(asked.n or 1)
    times = [pl.col("event_timestamp").shift(step).over("store").alias(f"time {step}") for step in steps]
    values = [pl.col(asked.input).shift(step).over("store").alias(f"value {step}") for step in steps]
    events = events.select("store", "event_timestamp", *times, *values)
    spine = pl.scan_parquet(question.spine).sort("store", "event_timestamp")
    joined = spine.join_asof(
        events, on="event_timestamp", by="store", allow_exact_matches=False, check_sortedness=False
    )
    edge = pl.col("event_timestamp") - pl.duration(microseconds=asked.window_us)
    inside = [pl.when(pl.col(f"time {step}") >= edge).then(pl.col(f"value {step}")) for step in steps]
    listed = pl.concat_list(inside).list.drop_nulls()
    return joined.with_columns(pl.when(listed.list.len() > 0).then(listed).alias(asked.name))


def duckdb(question: Question) -> None:
    """Running counts and sums of the events, joined as of both ends of the windows. Greatest values and distinct counts
    have frames over the union of events and questions, which DuckDB knows to slide."""
    import duckdb

    connection = duckdb.connect()
    if "last" in question.functions:
        answer = duckdb_last(question)
    elif question.functions & RUNNING:
        answer = duckdb_running(question, connection)
    else:
        answer = duckdb_union(question)
    connection.execute(f"COPY ({answer} ORDER BY order_id) TO '{question.out}' (FORMAT parquet, COMPRESSION snappy)")


def duckdb_frames(question: Question) -> None:
    """Window frames over the union of events and questions."""
    import duckdb

    answer = duckdb_union(question)
    duckdb.connect().execute(f"COPY ({answer} ORDER BY order_id) TO '{question.out}' (FORMAT parquet, COMPRESSION snappy)")


def duckdb_running(question: Question, connection: Any) -> str:
    # Plain integers: an interval before a time in a zone is a matter of calendars.
    connection.execute(
        f"""CREATE TEMP TABLE running AS
            SELECT store, epoch_us(event_timestamp) AS moment, row_number() OVER earlier AS n,
                   sum({question.input}) OVER earlier AS total
            FROM read_parquet({question.events})
            WINDOW earlier AS (PARTITION BY store ORDER BY event_timestamp ROWS UNBOUNDED PRECEDING)"""
    )
    edges = [0, *question.windows_us]
    joins = " ".join(
        f"""ASOF LEFT JOIN running e{edge} ON q.store = e{edge}.store
            AND epoch_us(q.event_timestamp) - {edge} > e{edge}.moment"""
        for edge in edges
    )
    positions = [f"coalesce(e{edge}.n, 0) AS n{edge}, coalesce(e{edge}.total, 0) AS total{edge}" for edge in edges]
    columns = ", ".join(f"q.{name}" for name in SPINE_COLUMNS)
    answer = f"(SELECT {columns}, {', '.join(positions)} FROM '{question.spine}' q {joins})"
    if others := [asked for asked in question.asked if asked.function not in RUNNING]:
        connection.execute(f"CREATE TEMP TABLE others AS {duckdb_union(replace(question, asked=others))}")
        names = ", ".join(["order_id", *(asked.name for asked in others)])
        answer = f"{answer} JOIN (SELECT {names} FROM others) USING (order_id)"

    def value(asked: Asked) -> str:
        edge = asked.window_us
        some = f"CASE WHEN n0 > n{edge} THEN"
        found = {
            "count": f"n0 - n{edge}",
            "sum": f"{some} total0 - total{edge} END",
            "mean": f"{some} (total0 - total{edge}) / (n0 - n{edge}) END",
        }
        return f"{found.get(asked.function, asked.name)} AS {asked.name}"

    return f"SELECT {', '.join([*SPINE_COLUMNS, *map(value, question.asked)])} FROM {answer}"


def duckdb_union(question: Question) -> str:
    def value(asked: Asked) -> str:
        functions = {
            "mean": f"avg({asked.input})",
            "count_distinct": f"count(DISTINCT {asked.input})",
            "last": f"list({asked.input}) FILTER ({asked.input} IS NOT NULL)",
        }
        function = functions.get(asked.function, f"{asked.function}({asked.input})")
        found = f"{function} OVER w{asked.window_us}"
        if asked.function == "last":
            found = f"list_reverse(({found})[-{asked.n}:])"
        return f"{found} AS {asked.name}"

    frames = [
        f"w{window} AS (PARTITION BY store ORDER BY moment RANGE BETWEEN {window} PRECEDING AND 1 PRECEDING)"
        for window in question.windows_us
    ]
    return f"""
        SELECT order_id, store, make_timestamptz(moment) AS event_timestamp, {", ".join(map(value, question.asked))}
        FROM (SELECT store, epoch_us(event_timestamp) AS moment, {question.input}, NULL AS order_id
              FROM read_parquet({question.events})
              UNION ALL SELECT store, epoch_us(event_timestamp), NULL, order_id FROM '{question.spine}')
        WINDOW {", ".join(frames)} QUALIFY order_id IS NOT NULL"""


def duckdb_last(question: Question) -> str:
    (asked,) = question.asked
    steps = range(asked.n or 1)
    lags = [
        f"lag(moment, {step}) OVER earlier AS moment{step}, lag({asked.input}, {step}) OVER earlier AS value{step}"
        for step in steps
    ]
    events = f"""(SELECT store, moment, {", ".join(lags)}
        FROM (SELECT store, epoch_us(event_timestamp) AS moment, {asked.input} FROM read_parquet({question.events}))
        WINDOW earlier AS (PARTITION BY store ORDER BY moment))"""
    edge = f"epoch_us(q.event_timestamp) - {asked.window_us}"
    values = ", ".join(f"CASE WHEN e.moment{step} >= {edge} THEN e.value{step} END" for step in steps)
    listed = f"list_filter([{values}], lambda value: value IS NOT NULL)"
    columns = ", ".join(f"q.{name}" for name in SPINE_COLUMNS)
    return f"""SELECT {columns}, CASE WHEN e.moment0 >= {edge} THEN {listed} END AS {asked.name}
        FROM '{question.spine}' q ASOF LEFT JOIN {events} e
        ON q.store = e.store AND epoch_us(q.event_timestamp) > e.moment"""


def clickhouse(question: Question) -> None:
    """Each store is one row: arrays of its events and of its questions, and the place of each question's windows among
    the events from sorting both. Frames are no way, since they reach back 2³² at most."""
    import chdb

    instant = "toUnixTimestamp64Micro(event_timestamp)"
    events = f"""(SELECT store, arraySort(event -> event.1, groupArray(({instant}, assumeNotNull({question.input}))))
                         AS events, events.1 AS times, events.2 AS items
                  FROM {clickhouse_files(question.events)} GROUP BY store)"""
    questions = f"""(SELECT store, arraySort(row -> row.1, groupArray(({instant}, assumeNotNull(order_id)))) AS rows,
                            rows.1 AS asked, rows.2 AS ids
                     FROM file('{question.spine}') GROUP BY store)"""

    def place(edge: int) -> str:
        """Of each question how many events are before its time less `edge`; of equal times the question comes first."""
        edges = f"arrayMap(time -> (time - {edge}, 0), asked)"
        both = f"arraySort(arrayConcat({edges}, arrayMap(time -> (time, 1), times))).2"
        return f"{both} AS kinds{edge}, arrayFilter((n, kind) -> kind = 0, arrayCumSum(kinds{edge}), kinds{edge}) AS n{edge}"

    def value(asked: Asked) -> str:
        running = "if(end = 0, 0, running[end]) - if(start = 0, 0, running[start])"
        first = f"greatest(start, end - {asked.n})"
        found = {
            "count": "end - start",
            "sum": f"if(end > start, {running}, NULL)",
            "mean": f"if(end > start, ({running}) / (end - start), NULL)",
            "max": "if(end > start, arrayMax(arraySlice(items, start + 1, end - start)), NULL)",
            "count_distinct": "arrayUniq(arraySlice(items, start + 1, end - start))",
            "last": f"arrayReverse(arraySlice(items, {first} + 1, end - {first}))",
        }
        return f"arrayMap((end, start) -> {found[asked.function]}, n0, n{asked.window_us}) AS {asked.name}_s"

    places = ", ".join(place(edge) for edge in [0, *question.windows_us])
    values = ", ".join(map(value, question.asked))
    names = [asked.name for asked in question.asked]
    running = "arrayCumSum(items)" if question.functions & {"sum", "mean"} else "[]"
    rows = ", ".join(["asked AS at", "ids AS order_id", *(f"{name}_s AS {name}" for name in names)])
    Path(question.out).unlink(missing_ok=True)
    chdb.query(
        f"""SELECT order_id, store, fromUnixTimestamp64Micro(at, 'UTC') AS event_timestamp, {", ".join(names)}
            FROM (SELECT store, asked, ids, {running} AS running, {places}, {values}
                  FROM {questions} AS questions LEFT JOIN {events} AS events USING (store))
            ARRAY JOIN {rows} ORDER BY order_id
            INTO OUTFILE '{question.out}' FORMAT Parquet
            SETTINGS output_format_parquet_compression_method = 'snappy', output_format_parquet_write_bloom_filter = 0"""
    )


def clickhouse_files(files: list[str]) -> str:
    folder = os.path.dirname(os.path.commonprefix(files))
    names = [os.path.relpath(file, folder) for file in files]
    return f"file('{folder}/{names[0] if len(names) == 1 else '{' + ','.join(names) + '}'}')"


# The Python package of each engine, and what to call.
ENGINES: dict[str, tuple[str, Callable[[Question], None]]] = {
    "polars": ("polars", polars),
    "polars rolling": ("polars", polars_rolling),
    "duckdb": ("duckdb", duckdb),
    "duckdb frames": ("duckdb", duckdb_frames),
    "clickhouse": ("chdb", clickhouse),
}
# What runs unless peers are named; frames take long wherever they are not what `duckdb` does anyway.
DEFAULT_ENGINES = ["polars", "polars rolling", "duckdb", "clickhouse"]


def main() -> None:
    engine, file = sys.argv[1:]
    package, ask = ENGINES[engine]
    question = Question.read(Path(file))
    __import__(package)
    started = time.perf_counter()
    ask(question)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
