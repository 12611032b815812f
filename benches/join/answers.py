"""Whether all answers are the same: the rows, their order, every value and every null."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .workloads import Workload


def difference(workload: Workload, spine: Path, answers: dict[str, Path]) -> str | None:
    """Where the first answer differs from the spine, or another from the first; None if nowhere."""
    expected = expected_schema(workload, spine)
    for name, file in answers.items():
        names = pq.read_schema(file).names
        if names != expected.names:
            return f"{name} has the columns {names} instead of {expected.names}"
    reference, *others = answers
    for field in expected:
        wanted = read_column(spine if field.name in workload.spine_columns else answers[reference], field)
        for name in [reference, *others]:
            found = read_column(answers[name], field)
            if not found.equals(wanted):
                source = "the spine" if field.name in workload.spine_columns else reference
                return f"{name} and {source} differ in `{field.name}` {first_difference(spine, found, wanted)}"
    return None


def expected_schema(workload: Workload, spine: Path) -> pa.Schema:
    features = [
        pa.field(name, pa.int64() if name in view.integers else pa.float64())
        for view in workload.views
        for name in view.features
    ]
    return pa.schema([*pq.read_schema(spine), *features])


def read_column(file: Path, field: pa.Field) -> pa.ChunkedArray:
    return pq.read_table(file, columns=[field.name])[field.name].cast(field.type)


def first_difference(spine: Path, found: pa.ChunkedArray, wanted: pa.ChunkedArray) -> str:
    if len(found) != len(wanted):
        return f"by having {len(found):,} rows instead of {len(wanted):,}"
    # Null and a value are different; null and null are not.
    same = pc.fill_null(pc.equal(found, wanted), False)
    same = pc.or_(same, pc.and_(pc.is_null(found), pc.is_null(wanted)))
    rows = pc.indices_nonzero(pc.invert(same))
    row = rows[0].as_py()
    asked = pq.read_table(spine).slice(row, 1).to_pylist()[0]
    asked |= {"event_timestamp": str(asked["event_timestamp"])}
    return f"in {len(rows):,} rows, first {found[row]} instead of {wanted[row]} in row {row}, which asks for {asked}"


def null_share(workload: Workload, answer: Path) -> float:
    """Of the answer's feature values, how many are null."""
    features = [name for view in workload.views for name in view.features]
    nulls = sum(pq.read_table(answer, columns=[name])[name].null_count for name in features)
    return nulls / (len(features) * workload.spine_rows)


def codec(answer: Path) -> str:
    """How the answer's last column is compressed."""
    metadata = pq.read_metadata(answer)
    return metadata.row_group(0).column(metadata.num_columns - 1).compression
