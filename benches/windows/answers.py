"""Whether all answers are the same: the rows, their order, every value and every null; floats but for their rounding."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from join.answers import codec, first_difference, read_column

from .workloads import Aggregate, Workload

__all__ = ["codec", "difference", "null_share"]

SPINE_COLUMNS = ["order_id", "store", "event_timestamp"]
# Sums and means of floats; Asof's are exact but for one rounding, those of others are rounded at every step.
RELATIVE_ERROR_MAX = 1e-9
ROUNDED = {"sum", "mean"}


def difference(workload: Workload, spine: Path, answers: dict[str, Path]) -> str | None:
    """Where the first answer differs from the spine, or another from the first; None if nowhere."""
    expected = expected_schema(workload, spine)
    for name, file in answers.items():
        names = pq.read_schema(file).names
        if names != expected.names:
            return f"{name} has the columns {names} instead of {expected.names}"
    reference, *others = answers
    rounded = {aggregate.name for aggregate in workload.view.aggregates if aggregate.function in ROUNDED}
    for field in expected:
        is_asked = field.name in SPINE_COLUMNS
        wanted = read_column(spine if is_asked else answers[reference], field)
        for name in [reference, *others] if is_asked else others:
            found = read_column(answers[name], field)
            if name != reference and pa.types.is_list(field.type):
                found = without_empty_lists(found)
            if found.equals(wanted) or (field.name in rounded and is_close(found, wanted)):
                continue
            source = "the spine" if is_asked else reference
            where = first_difference(spine, found, wanted) if not pa.types.is_list(field.type) else "in some lists"
            return f"{name} and {source} differ in `{field.name}` {where}"
    return None


def expected_schema(workload: Workload, spine: Path) -> pa.Schema:
    features = [pa.field(aggregate.name, answer_type(aggregate)) for aggregate in workload.view.aggregates]
    return pa.schema([*pq.read_schema(spine), *features])


def answer_type(aggregate: Aggregate) -> pa.DataType:
    if aggregate.function in {"count", "count_distinct"}:
        return pa.int64()
    return pa.float64() if aggregate.n is None else pa.list_(pa.float64())


def without_empty_lists(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Nulls in place of empty lists: ClickHouse has no null lists."""
    is_empty = pc.fill_null(pc.equal(pc.list_value_length(lists), 0), False)
    return pc.if_else(is_empty, pa.scalar(None, lists.type), lists)


def is_close(found: pa.ChunkedArray, wanted: pa.ChunkedArray) -> bool:
    if len(found) != len(wanted) or not pc.is_null(found).equals(pc.is_null(wanted)):
        return False
    found, wanted = (column.drop_null().to_numpy() for column in (found, wanted))
    return bool(np.all(np.abs(found - wanted) <= RELATIVE_ERROR_MAX * np.abs(wanted)))


def null_share(workload: Workload, answer: Path) -> float:
    """Of the answer's feature values, how many are null."""
    nulls = sum(pq.read_table(answer, columns=[name])[name].null_count for name in workload.features)
    return nulls / (len(workload.features) * workload.spine_rows)
