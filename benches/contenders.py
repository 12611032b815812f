"""Contenders that answer one question, each as a process of its own, and what they took."""

import argparse
import importlib.util
import os
import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from join import processes
from join.processes import RunFailed, Usage

CORES = len(os.sched_getaffinity(0))


@dataclass
class Contender:
    name: str
    command: list[str]
    answer: Path
    runs: list[Usage] = field(default_factory=list)
    failure: str | None = None

    def median(self, what: str) -> float:
        return statistics.median(getattr(run, what) for run in self.runs)

    @property
    def seconds(self) -> float:
        return self.median("seconds")

    @property
    def memory_mb(self) -> float:
        return self.median("memory_mb")


def measure(
    contenders: list[Contender], folder: Path, rounds: int, seconds_max: int, cores: int | None = None
) -> None:
    """The first round, which warms the machine's file cache, does not count."""
    for number in range(rounds + 1):
        for contender in contenders:
            if contender.failure is not None:
                continue
            try:
                usage = processes.run(contender.command, folder=folder, seconds_max=seconds_max, cores=cores)
            except RunFailed as failed:
                contender.failure = str(failed)
                continue
            if number:
                contender.runs.append(usage)


def print_table(contenders: list[Contender], baseline: Contender, spine_rows: int, cores: int | None = None) -> None:
    """Time and memory are multiples of those of `baseline`."""
    print(f"\n{'':20}{'seconds':>9}{'inside':>9}{'CPU s':>9}{'peak MB':>9}{'rows/s/core':>13}", end="")
    print(f"{'answer MB':>11}{'time':>8}{'memory':>8}")
    for contender in contenders:
        if contender.failure is not None:
            print(f"{contender.name:20} no answer: {contender.failure}")
            continue
        seconds, memory = contender.seconds, contender.memory_mb
        print(
            f"{contender.name:20}{seconds:9.2f}{contender.median('inner_seconds'):9.2f}"
            f"{contender.median('cpu_seconds'):9.2f}{memory:9.0f}{spine_rows / seconds / (cores or CORES):13,.0f}"
            f"{contender.answer.stat().st_size / 1e6:11.1f}"
            f"{seconds / baseline.seconds:8.2f}{memory / baseline.memory_mb:8.2f}"
        )


def available_peers(wanted: Iterable[str], packages: dict[str, str]) -> list[str]:
    """Those of the wanted engines whose Python package is installed."""
    found = []
    for engine in wanted:
        if importlib.util.find_spec(packages[engine]) is None:
            print(f"note: {engine} is left out, since the Python package `{packages[engine]}` is not installed")
        else:
            found.append(engine)
    return found


def parser_of(
    description: str | None, workloads: Iterable[Any], default_workloads: list[str], scales: Collection[str]
) -> argparse.ArgumentParser:
    """A parser with the arguments that the side-by-side benchmarks share, `--peers` excepted."""
    lines = "\n".join(f"  {workload.name:20}{workload.about}" for workload in workloads)
    notes = f"workloads, unless named {', '.join(default_workloads)}:\n{lines}\n  scaling, all{'':8}several of them"
    parser = argparse.ArgumentParser(
        description=description, epilog=notes, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*(workload.name for workload in workloads), "scaling", "all"]
    parser.add_argument("--asof", required=True, type=os.path.abspath, help="the command to measure")
    parser.add_argument("--workload", action="append", choices=names, metavar="NAME", help="may be repeated; see below")
    parser.add_argument("--scale", choices=scales, default="default")
    parser.add_argument("--peer-input", choices=["delta", "source"], default="delta", help="the files that peers read")
    parser.add_argument("--from-source", action="store_true", help="measure `asof --from-source` as well")
    parser.add_argument("--rounds", type=int, default=5, help="that count; one before them does not")
    parser.add_argument("--timeout", type=int, default=600, metavar="SECONDS", help="of one run of one contender")
    parser.add_argument("--data", type=Path, default=default_cache(), metavar="FOLDER", help="where generated files stay")
    parser.add_argument("--rematerialize", action="store_true", help="make Asof's tables anew first")
    return parser


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "asof/bench"


def parsed(
    parser: argparse.ArgumentParser, packages: dict[str, str], default_engines: list[str] | None = None
) -> argparse.Namespace:
    """The arguments, `peers` reduced to the engines that are installed."""
    engines = default_engines or list(packages)

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser.add_argument("--peers", type=names, default=engines, help="names with commas; none: ''")
    arguments = parser.parse_args()
    if unknown := set(arguments.peers) - set(packages):
        parser.error(f"unknown peers {sorted(unknown)}: there are {list(packages)}")
    arguments.peers = available_peers(arguments.peers, packages)
    return arguments
