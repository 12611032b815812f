"""Every form of entities gives the same table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas
import polars
import pyarrow as pa
import pytest

import asof
from asof._entities import to_table

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
COLUMNS: dict[str, list[Any]] = {"carrier": ["UA", None], "dest": [1, 2], "event_timestamp": [NOON, NOON]}
ROWS = pa.table(COLUMNS).to_pylist()


@pytest.mark.parametrize(
    "entities",
    [
        ROWS,
        (row for row in ROWS),
        COLUMNS,
        pa.table(COLUMNS),
        pa.record_batch(COLUMNS),
        pandas.DataFrame(COLUMNS),
        pandas.DataFrame(COLUMNS, index=[7, 8]),
        polars.DataFrame(COLUMNS),
        {name: pandas.Series(values) for name, values in COLUMNS.items()},
        {name: polars.Series(values) for name, values in COLUMNS.items()},
        {name: pa.array(values) for name, values in COLUMNS.items()},
        pa.RecordBatchReader.from_batches(pa.table(COLUMNS).schema, pa.table(COLUMNS).to_batches()),
    ],
    ids=lambda entities: type(entities).__name__,
)
def test_every_form_has_the_same_rows(entities: Any) -> None:
    table = to_table(entities)
    assert table.to_pydict() == COLUMNS
    assert table.schema.metadata is None


def test_a_key_that_some_dicts_lack_is_null_there() -> None:
    assert to_table([{"a": 1}, {"b": "x"}]).to_pydict() == {"a": [1, None], "b": [None, "x"]}


def test_numpy_missing_numbers_are_null() -> None:
    frame = pandas.DataFrame({"airport": [1.0, float("nan")]})
    assert to_table(frame).to_pydict() == {"airport": [1.0, None]}
    assert to_table({"airport": frame["airport"].to_numpy()}).to_pydict() == {"airport": [1.0, None]}


def test_request_values_follow_the_entities() -> None:
    table = to_table([{"carrier": "UA"}], {"distance": [1.5]})
    assert table.to_pydict() == {"carrier": ["UA"], "distance": [1.5]}


@pytest.mark.parametrize(
    ("entities", "request_values", "message"),
    [
        ("UA", None, "`entities` is a str; give a list of dicts, a dict of lists"),
        (7, None, "`entities` is a int"),
        (["UA"], None, "row 1 of `entities` is a str"),
        ({"carrier": "UA"}, None, "column `carrier` is 'UA'; give a list with one value for each row"),
        ({"carrier": ["UA"], "dest": [1, 2]}, None, "`carrier` has 1 rows and `dest` has 2"),
        ({"carrier": ["UA", 1]}, None, "`entities` column `carrier` cannot be read"),
        ([{1: "UA"}], None, "column name 1 is a int"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), None, "cannot be read: Duplicate column names"),
        (pa.table([[1], [2]], names=["a", "a"]), None, "has two columns `a`"),
        ([{"carrier": "UA"}], {"carrier": ["AA"]}, "`carrier` is in both `entities` and `request`"),
        ([{"carrier": "UA"}], {"distance": [1.0, 2.0]}, "`distance` has 2 rows and `entities` has 1"),
        ([{"carrier": "UA"}], [1.0], "`request` is a list; give a dict of lists"),
    ],
)
def test_what_is_no_table_is_refused(entities: Any, request_values: Any, message: str) -> None:
    with pytest.raises(asof.InvalidError) as error:
        to_table(entities, request_values)
    assert message in str(error.value)


def test_messages_name_the_caller_s_argument() -> None:
    for rows in (7, [7], {"a": 1}, {"a": [1, "x"]}, pa.table([[1], [2]], names=["a", "a"])):
        with pytest.raises(asof.InvalidError, match="`rows`"):
            to_table(rows, argument="rows")
