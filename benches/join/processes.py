"""Runs a command, and says what it took.

A process starts with the peak memory of the one that started it, so a large parent would lend its size to a small
child. Hence every command is started by a small process of its own: this file, run as a script.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Usage:
    seconds: float
    cpu_seconds: float
    memory_mb: float
    # What the command itself says that its work took: without its start.
    inner_seconds: float


class RunFailed(Exception):
    """The command gave no answer."""


def run(command: list[str], *, folder: Path, seconds_max: int, cores: int | None = None) -> Usage:
    """Runs a command that prints a JSON document with the `seconds` that its work took; on so many cores, or on all.

    # Errors
    `RunFailed`, with the last lines that the command wrote to standard error.
    """
    starter = [sys.executable, "-I", "-S", __file__, str(seconds_max), str(cores or 0), *command]
    process = subprocess.run(starter, cwd=folder, capture_output=True, text=True)
    if process.returncode:
        raise RunFailed("; ".join(process.stderr.splitlines()[-2:]))
    document = json.loads(process.stdout)
    return Usage(**document["usage"], inner_seconds=json.loads(document["output"])["seconds"])


def measure(seconds_max: int, cores: int, command: list[str]) -> dict[str, Any]:
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def give_up(*_: object) -> None:
        process.kill()
        sys.exit(f"stopped after {seconds_max} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds_max)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        sys.exit(f"ended with {ended}")
    used = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "memory_mb": usage.ru_maxrss / 1024,
    }
    return {"usage": used, "output": output}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
