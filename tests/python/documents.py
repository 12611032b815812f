"""Runs what a document tells its reader to run: its code blocks, from the first to the last, in an empty folder.

    ```sh                       given to one shell, the same for the whole document
    ```python                   run in one Python, the same for the whole document, in the shell's folder
    ```yaml file=PATH           written to that file; any language
    ```text output              what the block before it prints; a line `…` stands for any lines, `…` in one for anything
    <!-- not run: why -->       before a block: the reader runs it, we do not

Other blocks are shown only. The ports 6566 and 6567 are replaced by free ones.
"""

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^(?P<skip><!-- not run: [^\n]+ -->\n+)?```(?P<head>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S)
_DONE = "-- done --"
_PATIENCE_SECS = 300


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    file: str | None
    is_output: bool
    is_run: bool
    body: str


def blocks(text: str) -> Iterator[Block]:
    for match in _BLOCK.finditer(text):
        language, *words = match["head"].split() or [""]
        files = [word.removeprefix("file=") for word in words if word.startswith("file=")]
        line = text.count("\n", 0, match.start("head")) + 1
        yield Block(
            line, language, files[0] if files else None, "output" in words, match["skip"] is None, match["body"]
        )


class Reader:
    """Somebody who does what documents say."""

    def __init__(self, folder: Path, programs: Path) -> None:
        ports = _free_ports()
        self._replaced = dict(zip(("6566", "6567"), ports, strict=True))
        self._home = folder
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASOF_")}
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        environment["PS1"] = ""
        self._shell = subprocess.Popen(
            ["bash"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._variables: dict[str, Any] = {"__name__": "__main__"}
        self._printed = ""
        self.ran = 0

    def close(self) -> None:
        """Ends the shell and what it left running."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._shell.stdin.write("kill $(jobs -p) 2>/dev/null; wait; exit\n")
            self._shell.stdin.close()
        self._shell.wait(timeout=30)
        self._shell.stdout.close()

    def follow(self, document: Path) -> None:
        for block in blocks(document.read_text(encoding="utf-8")):
            place = f"{document.name}:{block.line}"
            if not block.is_run:
                continue
            body = self._here(block.body)
            if block.is_output:
                assert _matches(self._printed, body), f"{place}: expected\n{body}\nbut it printed\n{self._printed}"
            elif block.file is not None:
                path = self.folder() / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(body, encoding="utf-8")
            elif block.language == "sh":
                self._printed, status = self._run_in_shell(body)
                assert status == 0, f"{place}: ended with {status}\n{self._printed}"
                self.ran += 1
            elif block.language == "python":
                self._printed = self._run_in_python(body, place)
                self.ran += 1

    def folder(self) -> Path:
        """Where the shell is."""
        return Path(self._run_in_shell("pwd")[0].strip())

    def _here(self, text: str) -> str:
        for port, free in self._replaced.items():
            text = text.replace(port, free)
        ports = zip(("grpc", "http"), self._replaced.values(), strict=True)
        listen = " ".join(f"--{name} 127.0.0.1:{port}" for name, port in ports)
        return re.sub(r"^asof serve\b", f"asof serve {listen}", text, flags=re.M)

    def _run_in_shell(self, commands: str) -> tuple[str, int]:
        assert self._shell.stdin is not None and self._shell.stdout is not None
        # The first failure counts, and commands do not read the ones after them.
        file = self._home / ".commands"
        file.write_text(f"trap '__failed=${{__failed:-$?}}' ERR\n{commands}\n")
        self._shell.stdin.write(f"__failed=; source '{file}' </dev/null; echo; echo '{_DONE}' ${{__failed:-0}}\n")
        self._shell.stdin.flush()
        # What waits for something that never comes is ended, with all that the shell has started.
        watch = threading.Timer(_PATIENCE_SECS, os.killpg, [self._shell.pid, signal.SIGKILL])
        watch.start()
        printed = ""
        try:
            for line in self._shell.stdout:
                if line.startswith(_DONE):
                    return printed.removesuffix("\n"), int(line.split()[-1])
                printed += line
        finally:
            watch.cancel()
        raise AssertionError(f"the shell ended\n{commands}\nprinted\n{printed}")

    def _run_in_python(self, code: str, place: str) -> str:
        printed = io.StringIO()
        before = Path.cwd()
        try:
            os.chdir(self.folder())
            with contextlib.redirect_stdout(printed):
                exec(compile(code, place, "exec"), self._variables)
        finally:
            os.chdir(before)
        return printed.getvalue()


def _matches(printed: str, expected: str) -> bool:
    lines = [re.escape(line.rstrip()).replace("…", ".*") for line in expected.strip().splitlines()]
    pattern = "\n".join("(?:.*\n)*?.*" if line == ".*" else line for line in lines)
    shown = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return re.fullmatch(pattern, shown) is not None


def _free_ports() -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        return [str(each.getsockname()[1]) for each in sockets]
