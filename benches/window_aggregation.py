"""Measures sliding-window aggregates of `asof get-batch-features` beside DuckDB, Polars and ClickHouse.

    python benches/window_aggregation.py --asof COMMAND [--workload NAME]... [--scale small|default|large]
                                         [--peer-input delta|source] [--from-source]

All contenders answer the same question from the same rows, Parquet files in and one Parquet file out: for each row of
the spine the aggregates of its store's orders in the windows that end before its time. Each is a process of its own,
one after another in every round; numbers are medians. Then all answers are compared, value by value, sums and means of
floats up to their rounding: the exit status is 1 if any two differ. What carries over from one machine to another is
the ratio, not the time. `inside` is what the work took once the command or the interpreter had started.

Peers read the Parquet files of Asof's own Delta tables, which are ordered by store and time (`--peer-input delta`), or
the source, ordered by time alone (`--peer-input source`). With `--from-source` Asof reads the source, too.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from contenders import CORES, Contender, measure, parsed, parser_of, print_table
from windows import answers
from windows.peers import DEFAULT_ENGINES, ENGINES, Asked, Question
from windows.project import WindowProject
from windows.workloads import DEFAULT_WORKLOADS, SCALES, WORKLOADS, Workload, chosen

PEERS = Path(__file__).parent / "windows/peers.py"


@dataclass(frozen=True)
class Result:
    workload: Workload
    asof: Contender
    fastest_peer: Contender | None
    problem: str | None


def contenders(project: WindowProject, workload: Workload, arguments: argparse.Namespace) -> list[Contender]:
    """Asof comes first; the last one of its name reads what the peers read, if any does."""
    folder = project.folder / "answers" / workload.name
    folder.mkdir(parents=True, exist_ok=True)

    def asof(name: str, *options: str) -> Contender:
        answer = folder / f"{name}.parquet"
        files = ["--entities", str(project.spine(workload)), "--out", str(answer)]
        request = ["get-batch-features", "--features", workload.view.name, *files, *options, "--output", "json"]
        return Contender(name, [arguments.asof, *request], answer)

    def peer(engine: str) -> Contender:
        answer = folder / f"{engine}.parquet"
        file = folder / f"{engine}.json"
        question(project, workload, arguments.peer_input, answer).write(file)
        return Contender(engine, [sys.executable, str(PEERS), engine, str(file)], answer)

    found = [asof("asof")]
    if arguments.from_source:
        found.append(asof("asof --from-source", "--from-source"))
    return found + [peer(engine) for engine in arguments.peers]


def question(project: WindowProject, workload: Workload, peer_input: str, answer: Path) -> Question:
    view = workload.view
    return Question(
        spine=str(project.spine(workload)),
        events=[str(file) for file in (project.table_files(view) if peer_input == "delta" else [project.source(view)])],
        asked=[Asked(each.name, each.function, each.input, each.window_us, each.n) for each in view.aggregates],
        out=str(answer),
    )


def run_workload(project: WindowProject, workload: Workload, arguments: argparse.Namespace) -> Result:
    print(f"\n## {workload.name}: {workload.about}")
    print(f"{workload.feature_rows:,} events, {workload.spine_rows:,} spine rows", end="")
    print(f", {workload.cores} core(s)" if workload.cores else "")
    project.generate(workload)
    project.materialize(workload.views)
    all_contenders = contenders(project, workload, arguments)
    measure(all_contenders, project.folder, arguments.rounds, arguments.timeout, workload.cores)
    ours = [contender for contender in all_contenders if contender.name.startswith("asof")]
    answered = [contender for contender in all_contenders if contender.failure is None]
    if failed := next((contender for contender in ours if contender.failure is not None), None):
        print(f"{failed.name} gave no answer: {failed.failure}")
        return Result(workload, failed, None, "no answer")
    # Where Asof reads the source as the peers do, that is what they are held against.
    is_from_source = arguments.peer_input == "source"
    baseline = ours[-1] if is_from_source else ours[0]
    print(f"peers read {arguments.peer_input} files; time and memory are multiples of those of `{baseline.name}`")
    print_table(all_contenders, baseline, workload.spine_rows, workload.cores)
    problem = check(project, workload, answered)
    peers = [contender for contender in answered if contender not in ours]
    fastest = min(peers, key=lambda contender: contender.seconds, default=None)
    return Result(workload, baseline, fastest, problem)


def check(project: WindowProject, workload: Workload, answered: list[Contender]) -> str | None:
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


def goals(result: Result) -> list[str]:
    """What is wanted of Asof, and what it was."""
    workload, asof, peer = result.workload, result.asof, result.fastest_peer
    found = []
    if workload.time_goal is not None and peer is not None:
        factor = peer.seconds / asof.seconds
        is_met = factor >= workload.time_goal and peer.memory_mb > asof.memory_mb
        wanted = f"{workload.time_goal:.0f} times the fastest peer, with less memory"
        share = asof.memory_mb / peer.memory_mb
        found.append(f"{wanted}: {factor:.1f} times, with {share:.2f} of it{'' if is_met else ' (MISSED)'}")
    if workload.inside_goal is not None:
        inside = asof.median("inner_seconds")
        is_met = inside < workload.inside_goal
        found.append(f"inside under {workload.inside_goal} s: {inside:.3f} s{'' if is_met else ' (MISSED)'}")
    return found


def print_summary(results: list[Result]) -> None:
    """Beside Asof the fastest peer, in multiples of Asof's time and memory; `ns/row` is of events and spine rows."""
    print(f"\n## all\n{'':20}{'events':>12}{'spine rows':>12}{'asof s':>9}{'inside':>9}{'ns/row':>8}{'MB':>7}", end="")
    print(f"  {'fastest peer':16}{'s':>8}{'MB':>8}{'time':>8}{'memory':>8}")
    answered = [result for result in results if result.asof.failure is None]
    for result in results:
        workload, asof, peer = result.workload, result.asof, result.fastest_peer
        line = f"{workload.name:20}{workload.feature_rows:12,}{workload.spine_rows:12,}"
        if asof.failure is None:
            rows = workload.feature_rows + workload.spine_rows
            line += f"{asof.seconds:9.2f}{asof.median('inner_seconds'):9.2f}"
            line += f"{asof.seconds * 1e9 / rows:8.0f}{asof.memory_mb:7.0f}"
        if peer is not None:
            line += f"  {peer.name:16}{peer.seconds:8.2f}{peer.memory_mb:8.0f}"
            line += f"{peer.seconds / asof.seconds:8.2f}{peer.memory_mb / asof.memory_mb:8.2f}"
        print(line if result.problem is None else f"{line}  {result.problem.upper()}")
    for result in answered:
        for goal in goals(result):
            print(f"goal of {result.workload.name}: {goal}")


def main() -> None:
    # Results show as they come where the output is a file, too.
    sys.stdout.reconfigure(line_buffering=True)
    parser = parser_of(__doc__, WORKLOADS, DEFAULT_WORKLOADS, SCALES)
    packages = {engine: package for engine, (package, _) in ENGINES.items()}
    arguments = parsed(parser, packages, DEFAULT_ENGINES)
    project = WindowProject(arguments.data.resolve(), arguments.scale, arguments.asof)
    if arguments.rematerialize:
        project.forget_tables()
    print(f"asof build {project.build}, scale {arguments.scale}, {CORES} cores, {arguments.rounds} rounds")
    results = [run_workload(project, workload, arguments) for workload in chosen(arguments.workload, arguments.scale)]
    print_summary(results)
    if any(result.problem for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
