"""The same question, put to other engines: one function each, in the formulation that was found to be the fastest.

Runs as a process of its own, `python peers.py ENGINE QUESTION.json`, so that an engine's memory and CPU time can be
measured from outside; prints how long the work took once the engine was imported.

Every answer has the spine's rows in the spine's order, which for these engines means by `order_id`. It takes, for
each view, the newest row at or before the asked time, and nulls where that row is older than the TTL.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polars import LazyFrame


@dataclass(frozen=True)
class Table:
    """The rows of a feature view, in Parquet files."""

    name: str
    key: str
    features: list[str]
    ttl_us: int | None
    files: list[str]
    # Some rows share key and event timestamp; the one with the greatest created timestamp counts.
    corrected: bool


@dataclass(frozen=True)
class Question:
    spine: str
    spine_columns: list[str]
    tables: list[Table]
    out: str
    # The spine names so few of the keys that the tables are worth reducing to them first.
    few_keys: bool
    # Tables are ordered by key, event and created timestamp; else by event timestamp alone.
    ordered_by_key: bool

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(file: Path) -> "Question":
        document = json.loads(file.read_text())
        return Question(**document | {"tables": [Table(**table) for table in document["tables"]]})


def polars(question: Question) -> None:
    """Trusts the order of the stored rows, which is by time within each key: only the spine is sorted."""
    import polars as pl

    def ordered(rows: "LazyFrame", table: Table) -> "LazyFrame":
        if not table.corrected or question.ordered_by_key:
            return rows
        created = pl.col("created_timestamp")
        return rows.filter(created == created.max().over(table.key, "event_timestamp"))

    join_asof(question, ordered)


def polars_sorted(question: Question) -> None:
    """Sorts both sides by time first."""

    def ordered(rows: "LazyFrame", table: Table) -> "LazyFrame":
        # Of rows with the same time the join takes the last.
        return rows.sort("event_timestamp", *["created_timestamp"] * table.corrected)

    join_asof(question, ordered)


def join_asof(question: Question, ordered: Callable[["LazyFrame", Table], "LazyFrame"]) -> None:
    import polars as pl

    spine = pl.scan_parquet(question.spine)
    answer = spine.sort("event_timestamp")
    for table in question.tables:
        rows = pl.scan_parquet(table.files)
        if question.few_keys:
            keys = spine.select(pl.col(table.key).unique()).collect().to_series()
            rows = rows.filter(pl.col(table.key).is_in(keys.implode()))
        rows = ordered(rows, table).select(table.key, "event_timestamp", *table.features)
        tolerance = None if table.ttl_us is None else f"{table.ttl_us}us"
        # Sorted within each key is enough, and is not what the check looks for.
        answer = answer.join_asof(
            rows, on="event_timestamp", by=table.key, tolerance=tolerance, check_sortedness=False
        )
    answer.sort("order_id").sink_parquet(question.out, compression="snappy", engine="streaming")


def duckdb(question: Question) -> None:
    """An ASOF join a view; the joined tables are put side by side, which costs less than one join after another."""
    import duckdb

    def rows_of(table: Table) -> str:
        rows = f"read_parquet({table.files})"
        key = f"{table.key}, event_timestamp"
        if question.few_keys:
            rows = f"(FROM {rows} WHERE {table.key} IN (SELECT {table.key} FROM '{question.spine}'))"
        if table.corrected:
            latest = f"SELECT {key}, max(created_timestamp) AS latest FROM {rows} GROUP BY ALL HAVING count(*) > 1"
            rows = f"""(SELECT * FROM {rows} LEFT JOIN ({latest}) USING ({key})
                        WHERE latest IS NULL OR created_timestamp = latest)"""
        return rows

    def joined(table: Table, spine_columns: list[str]) -> str:
        old = f"s.event_timestamp - INTERVAL {table.ttl_us} MICROSECOND"
        values = [
            f"v.{name}" if table.ttl_us is None else f"CASE WHEN v.event_timestamp >= {old} THEN v.{name} END AS {name}"
            for name in table.features
        ]
        columns = ", ".join([f"s.{name}" for name in spine_columns] + values)
        return f"""SELECT {columns} FROM '{question.spine}' s ASOF LEFT JOIN {rows_of(table)} v
                   ON s.{table.key} = v.{table.key} AND s.event_timestamp >= v.event_timestamp ORDER BY s.order_id"""

    connection = duckdb.connect()
    first, *others = question.tables
    answer = joined(first, question.spine_columns)
    if others:
        connection.execute(f"CREATE TEMP TABLE {first.name} AS {answer}")
        for table in others:
            connection.execute(f"CREATE TEMP TABLE {table.name} AS {joined(table, [])}")
        answer = "SELECT * FROM " + " POSITIONAL JOIN ".join(table.name for table in question.tables)
    connection.execute(f"COPY ({answer}) TO '{question.out}' (FORMAT parquet, COMPRESSION snappy)")


def clickhouse(question: Question) -> None:
    """One query with an ASOF join a view."""
    import chdb

    def rows_of(table: Table) -> str:
        folder = os.path.dirname(os.path.commonprefix(table.files))
        names = [os.path.relpath(file, folder) for file in table.files]
        rows = f"file('{folder}/{names[0] if len(names) == 1 else '{' + ','.join(names) + '}'}')"
        wanted = f"WHERE {table.key} IN (SELECT {table.key} FROM file('{question.spine}'))" if question.few_keys else ""
        latest = f"ORDER BY created_timestamp DESC LIMIT 1 BY {table.key}, event_timestamp" if table.corrected else ""
        return f"(SELECT * FROM {rows} {wanted} {latest})" if wanted or latest else rows

    def value(table: Table, feature: str) -> str:
        stored = f"{table.name}.{feature}"
        if table.ttl_us is None:
            return f"{stored} AS {feature}"
        old = f"s.event_timestamp - INTERVAL {table.ttl_us} MICROSECOND"
        return f"if({table.name}.event_timestamp >= {old}, {stored}, NULL) AS {feature}"

    columns = [f"s.{name} AS {name}" for name in question.spine_columns]
    columns += [value(table, feature) for table in question.tables for feature in table.features]
    joins = [
        f"""ASOF LEFT JOIN {rows_of(table)} AS {table.name}
            ON s.{table.key} = {table.name}.{table.key} AND s.event_timestamp >= {table.name}.event_timestamp"""
        for table in question.tables
    ]
    Path(question.out).unlink(missing_ok=True)
    chdb.query(
        f"""SELECT {", ".join(columns)} FROM file('{question.spine}') AS s {" ".join(joins)} ORDER BY s.order_id
            INTO OUTFILE '{question.out}' FORMAT Parquet
            SETTINGS join_use_nulls = 1, output_format_parquet_compression_method = 'snappy',
                     output_format_parquet_write_bloom_filter = 0"""
    )


# The Python package of each engine, and what to call.
ENGINES: dict[str, tuple[str, Callable[[Question], None]]] = {
    "polars": ("polars", polars),
    "polars sorted": ("polars", polars_sorted),
    "duckdb": ("duckdb", duckdb),
    "clickhouse": ("chdb", clickhouse),
}


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
