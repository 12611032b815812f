"""Asks a server for four times what it can do, and looks at what the requests that it answers get.

    python benches/overload.py --asof COMMAND [--service scores|model] [--seconds S] [--rows N]

`scores` computes five features out of the 50 stored ones of each entity, so that a request is work for the server, and little
for the callers; the 50 themselves (`model`) keep callers as busy as the server, and latencies are theirs, too.

The server has the first half of the machine's cores, and the load, which comes at fixed rates over several connections, the
other half: what callers do is not what is measured. `--shared` lets both have all of them. Goodput is answered requests a
second; the p99 that counts is that of answered requests, from when they were due. What is refused has to be refused soon
enough that neither suffers (the first tenth of a second of a flood is answered as a burst is: late), memory must not grow with
another flood, and once the load is gone everything is as before.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from serving import FEATURES, document, start, write_project

GOODPUT_GOAL, P99_GOAL, MEMORY_GOAL = 0.8, 3.0, 1.25


def resident_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def add_scores(folder: Path) -> None:
    def score(number: int) -> str:
        terms = " + ".join(f"exp(sin({name}) * {position + number}.0)" for position, name in enumerate(FEATURES))
        return f'{{name: score{number}, type: float64, expression: "{terms}"}}'

    scores = ", ".join(map(score, range(5)))
    (folder / "feature_defs/scores.yaml").write_text(
        f"on_demand_feature_views: [{{name: scored, features_from: [profile], features: [{scores}]}}]\n"
        "feature_services: [{name: scores, features: [scored]}]\n"
    )


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asof", required=True, type=os.path.abspath, help="the command to measure")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement; a flood lasts four times as long")
    parser.add_argument("--rows", type=int, default=250, help="entities of each request")
    parser.add_argument("--service", choices=["scores", "model"], default="scores")
    parser.add_argument("--shared", action="store_true", help="callers on the server's own cores")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="asof-bench-"))
    try:
        write_project(folder, 20_000)
        add_scores(folder)
        document(folder, arguments.asof, "apply", "--yes")
        document(folder, arguments.asof, "materialize")
        cores = sorted(os.sched_getaffinity(0))
        halves = [cores, cores] if arguments.shared else [cores[: len(cores) // 2], cores[len(cores) // 2 :]]
        os.sched_setaffinity(0, halves[0])
        process, address = start(folder, arguments.asof, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
        os.sched_setaffinity(0, halves[1])

        def load(*options: str, times: int = 1) -> dict[str, Any]:
            command = [arguments.asof, "bench-serve", "--service", arguments.service, "--server", address["grpc"]]
            sizes = ["--entities", str(arguments.rows), "--seconds", str(arguments.seconds * times), "--connections", "4"]
            found = document(folder, *command, *sizes, *options)
            print(
                f"{' '.join(options):22}{found['requests_per_second']:10,.0f} answered/s{found['refused']:10,} refused"
                f"{found['errors']:6} errors{found['unsent']:8,} not sent{found['p50_us']:10,} us p50{found['p99_us']:10,} us p99"
                f"{resident_mb(process.pid):8,.0f} MB {found['first_error'] or ''}"
            )
            return found

        try:
            greatest = load("--concurrency", "8")["requests_per_second"]
            normal = load("--rate", f"{greatest * 0.8:.0f}")
            floods, held = [], []
            for _ in range(2):
                floods.append(load("--rate", f"{greatest * 4:.0f}", times=4))
                held.append(resident_mb(process.pid))
            memory = held[1] / held[0]
            after = load("--rate", f"{greatest * 0.8:.0f}")
        finally:
            process.terminate()
            process.wait()
        goodput = min(flood["requests_per_second"] for flood in floods) / greatest
        ratios = [each["p99_us"] / normal["p99_us"] for each in (max(floods, key=lambda flood: flood["p99_us"]), after)]
        for text, found, goal, met in [
            ("goodput to the most it can do", goodput, GOODPUT_GOAL, goodput >= GOODPUT_GOAL),
            ("p99 of what is answered to the normal one", ratios[0], P99_GOAL, ratios[0] <= P99_GOAL),
            ("memory after a second flood to that after the first", memory, MEMORY_GOAL, memory <= MEMORY_GOAL),
            ("p99 right after to the normal one", ratios[1], P99_GOAL, ratios[1] <= P99_GOAL),
        ]:
            print(f"{text:52}{found:8.2f}   goal {goal:.2f}{'' if met else '  MISSED'}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
