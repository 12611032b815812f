"""Measures `asof get-batch-features` beside DuckDB, Polars and ClickHouse: Parquet files in, one Parquet file out.

    python benches/point_in_time_join.py --asof COMMAND [--workload NAME]... [--scale small|default|large]
                                         [--peer-input delta|source] [--from-source]

All contenders answer the same question from the same rows, each as a process of its own, one after another in every
round; numbers are medians. Then all answers are compared, value by value: the exit status is 1 if any two differ.
What carries over from one machine to another is the ratio, not the time. `inside` is what the work took once the
command or the interpreter had started; peak memory counts the program's own pages, too (ClickHouse's are 300 MB).

Peers read the Parquet files of Asof's own Delta tables (`--peer-input delta`), or the sources that these were
materialized from, ordered by time alone (`--peer-input source`). With `--from-source` Asof reads the sources, too.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from contenders import CORES, Contender, measure, parsed, parser_of, print_table
from join import answers
from join.peers import ENGINES, Question, Table
from join.project import Project
from join.workloads import DEFAULT_WORKLOADS, SCALES, WORKLOADS, Workload, chosen

PEERS = Path(__file__).parent / "join/peers.py"


@dataclass(frozen=True)
class Result:
    workload: Workload
    asof: Contender
    fastest_peer: Contender | None
    problem: str | None


def contenders(project: Project, workload: Workload, arguments: argparse.Namespace) -> list[Contender]:
    """Asof comes first; the last one of its name reads what the peers read, if any does."""
    folder = project.folder / "answers" / workload.name
    folder.mkdir(parents=True, exist_ok=True)

    def asof(name: str, *options: str) -> Contender:
        answer = folder / f"{name}.parquet"
        request = ["--features", ",".join(view.name for view in workload.views)]
        files = ["--entities", str(project.spine(workload)), "--out", str(answer)]
        command = [arguments.asof, "get-batch-features", *request, *files, *options, "--output", "json"]
        return Contender(name, command, answer)

    def peer(engine: str) -> Contender:
        answer = folder / f"{engine}.parquet"
        file = folder / f"{engine}.json"
        question(project, workload, arguments.peer_input, answer).write(file)
        return Contender(engine, [sys.executable, str(PEERS), engine, str(file)], answer)

    found = [asof("asof")]
    if arguments.from_source:
        found.append(asof("asof --from-source", "--from-source"))
    return found + [peer(engine) for engine in arguments.peers]


def question(project: Project, workload: Workload, peer_input: str, answer: Path) -> Question:
    is_delta = peer_input == "delta"
    tables = [
        Table(
            name=view.name,
            key=view.key,
            features=view.features,
            ttl_us=view.ttl_us,
            files=[str(file) for file in (project.table_files(view) if is_delta else [project.source(view)])],
            corrected=view.corrected,
        )
        for view in workload.views
    ]
    return Question(
        spine=str(project.spine(workload)),
        spine_columns=workload.spine_columns,
        tables=tables,
        out=str(answer),
        few_keys=workload.has_small_spine,
        ordered_by_key=is_delta,
    )


def run_workload(project: Project, workload: Workload, arguments: argparse.Namespace) -> Result:
    print(f"\n## {workload.name}: {workload.about}")
    print(f"{workload.feature_rows:,} feature rows, {workload.spine_rows:,} spine rows")
    project.generate(workload)
    project.materialize(workload.views)
    all_contenders = contenders(project, workload, arguments)
    measure(all_contenders, project.folder, arguments.rounds, arguments.timeout)
    ours = [contender for contender in all_contenders if contender.name.startswith("asof")]
    answered = [contender for contender in all_contenders if contender.failure is None]
    if failed := next((contender for contender in ours if contender.failure is not None), None):
        print(f"{failed.name} gave no answer: {failed.failure}")
        return Result(workload, failed, None, "no answer")
    # Where Asof reads the sources as the peers do, that is what they are held against.
    baseline = ours[-1] if arguments.peer_input == "source" else ours[0]
    print(f"peers read {arguments.peer_input} files; time and memory are multiples of those of `{baseline.name}`")
    print_table(all_contenders, baseline, workload.spine_rows)
    problem = check(project, workload, answered)
    peers = [contender for contender in answered if contender not in ours]
    fastest = min(peers, key=lambda contender: contender.seconds, default=None)
    return Result(workload, baseline, fastest, problem)


def check(project: Project, workload: Workload, answered: list[Contender]) -> str | None:
    """Compares all answers; they are deleted, unless they differ."""
    for contender in answered:
        if (codec := answers.codec(contender.answer)) != "SNAPPY":
            print(f"note: the answer of {contender.name} is not Snappy, but {codec}")
    files = {contender.name: contender.answer for contender in answered}
    problem = answers.difference(workload, project.spine(workload), files)
    if problem is not None:
        print(f"ANSWERS DIFFER, and are kept: {problem}")
        return "answers differ"
    nulls = answers.null_share(workload, answered[0].answer)
    print(f"all {len(files)} answers are equal; {nulls:.0%} of the values are null")
    shutil.rmtree(answered[0].answer.parent)
    return None


def print_summary(results: list[Result]) -> None:
    """Beside Asof the fastest peer, in multiples of Asof's time and memory; `ns/row` is of feature and spine rows."""
    print(f"\n## all\n{'':20}{'feature rows':>14}{'spine rows':>12}{'asof s':>9}{'ns/row':>8}{'MB':>7}", end="")
    print(f"  {'fastest peer':14}{'s':>8}{'MB':>8}{'time':>8}{'memory':>8}")
    for result in results:
        workload, asof, peer = result.workload, result.asof, result.fastest_peer
        line = f"{workload.name:20}{workload.feature_rows:14,}{workload.spine_rows:12,}"
        if asof.failure is None:
            rows = workload.feature_rows + workload.spine_rows
            line += f"{asof.seconds:9.2f}{asof.seconds * 1e9 / rows:8.0f}{asof.memory_mb:7.0f}"
        if peer is not None:
            line += f"  {peer.name:14}{peer.seconds:8.2f}{peer.memory_mb:8.0f}"
            line += f"{peer.seconds / asof.seconds:8.2f}{peer.memory_mb / asof.memory_mb:8.2f}"
        print(line if result.problem is None else f"{line}  {result.problem.upper()}")


def parsed_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, WORKLOADS, DEFAULT_WORKLOADS, SCALES)
    return parsed(parser, {engine: package for engine, (package, _) in ENGINES.items()})


def main() -> None:
    # Results show as they come where the output is a file, too.
    sys.stdout.reconfigure(line_buffering=True)
    arguments = parsed_arguments()
    project = Project(arguments.data.resolve(), arguments.scale, arguments.asof)
    if arguments.rematerialize:
        project.forget_tables()
    print(f"asof build {project.build}, scale {arguments.scale}, {CORES} cores, {arguments.rounds} rounds")
    results = [run_workload(project, workload, arguments) for workload in chosen(arguments.workload, arguments.scale)]
    print_summary(results)
    if any(result.problem for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
