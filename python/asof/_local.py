"""A server of one's own: started with the program, ended with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ._binary import find_binary
from ._client import Client
from ._connection import seconds
from ._definition_files import DefinitionFolder, DefinitionSet
from ._definitions import Definition
from ._exceptions import InvalidError, NotFoundError, UnavailableError, from_kind
from ._times import Time, to_text

_STOP_SECONDS = 20.0
_FOLLOW_SECONDS = 30.0

# Descriptors of the pipes that keep servers running. A forked child has them too, and lets go of them.
_pipes: set[int] = set()


def _let_go() -> None:
    while _pipes:
        os.close(_pipes.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Local(Client):
    """A :class:`Client` of a server that it starts itself, on free loopback ports.

    The server ends when the object is closed, is no longer used, or its process is gone, killed or not.

    Args:
        project: The project's folder, with its ``asof.yaml``.
        create: Make the folder and an ``asof.yaml`` where they are missing.
        allow_request_time: Take ``now=`` in online calls, for tests and replays.
        timeout: As of :class:`Client`.
        start_timeout: Seconds that the server may take to listen.

    >>> with asof.Local("shop", create=True) as store:
    ...     _ = (store.project / "orders.csv").write_text("customer,at,total\\nann,2024-05-01T10:00:00Z,12.5\\n")
    ...     source = asof.Source(name="orders", batch=asof.Batch("csv", "orders.csv"), event_timestamp="at")
    ...     customer = asof.Entity(name="customer", join_keys=[asof.Field("customer", "string")])
    ...     view = asof.FeatureView(
    ...         name="last_order", entities=[customer], source=source, features=[asof.Field("total", "float64")]
    ...     )
    ...     _ = store.apply(view)
    ...     _ = store.materialize()
    ...     store.get_online_features(features=["last_order"], entities=[{"customer": "ann"}]).to_dict()
    {'customer': ['ann'], 'total': [12.5]}
    """

    def __init__(
        self,
        project: str | os.PathLike[str],
        *,
        create: bool = False,
        allow_request_time: bool = False,
        timeout: float | None = 30.0,
        start_timeout: float = 120.0,
    ) -> None:
        self._binary = find_binary()
        seconds(start_timeout, "start_timeout")
        self.project = _project(Path(project), create)
        options = ["--allow-request-time"] if allow_request_time else []
        self._server = _Server(self._binary, self.project, options, start_timeout)
        # Also when nobody closes it: at the end of its use, or of the program.
        self._stop = weakref.finalize(self, self._server.stop)
        super().__init__(self._server.grpc, timeout=timeout)

    @property
    def http(self) -> str:
        """``host:port`` of the server's HTTP port."""
        return self._server.http

    def apply(
        self,
        *definitions: Definition | Iterable[Definition],
        replace: bool = False,
        allow_breaking: bool = False,
    ) -> dict[str, Any]:
        """Makes the project's definition files the registry's newest version, and waits until the server has it.

        Args:
            definitions: Written below ``feature_defs/from_python`` before, with those they refer to, a file each.
                One takes the place of that of its kind and name; the others that were written there earlier stay.
                If they are refused, the files are as they were.
            replace: Remove what was written there earlier and is not among `definitions`.
            allow_breaking: Also if feature services need what goes.

        Returns what ``asof apply --output json`` prints.
        """
        flat = [each for one in definitions for each in _each(one)]
        folder = DefinitionFolder(self.project / "feature_defs" / "from_python")
        options = ["--allow-breaking"] if allow_breaking else []
        with folder.written(DefinitionSet(flat), replace=replace):
            done: dict[str, Any] = self.command("apply", "--yes", *options)
        self._follow(done["version"])
        return done

    def materialize(
        self, *views: str | Definition, start: Time | None = None, end: Time | None = None
    ) -> dict[str, Any]:
        """Computes views, or all of them, into the offline and the online store, as ``asof materialize`` does."""
        for view in views:
            if not isinstance(view, str | Definition):
                raise InvalidError(f"{view!r} is no view; give its name, or an asof.FeatureView")
        names = [view if isinstance(view, str) else view.name for view in views]
        given = {"start": start, "end": end}
        times = [f"--{name}={to_text(time, name)}" for name, time in given.items() if time is not None]
        done: dict[str, Any] = self.command("materialize", *names, *times)
        return done

    def command(self, *arguments: str) -> Any:
        """Runs any ``asof`` command on the project, and gives the JSON document it prints.

        >>> with asof.Local("shop", create=True) as store:
        ...     store.command("list", "versions")
        {'versions': []}
        """
        return run_command(self._binary, self.project, arguments)

    def log(self) -> str:
        """What the server remarked until now."""
        return self._server.log()

    def close(self) -> None:
        """Ends the connection and the server."""
        super().close()
        self._stop()

    def __enter__(self) -> Local:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = self.address if self._stop.alive else "closed"
        return f"<Local {self.project} on {state}>"

    def _follow(self, version: int) -> None:
        deadline = time.monotonic() + _FOLLOW_SECONDS
        while self.status().registry_version < version:
            if time.monotonic() > deadline:
                raise UnavailableError(f"the server does not take version {version} of the registry; see `log()`")
            time.sleep(0.02)


class _Server:
    """The process, and the pipe whose end it takes for its own."""

    def __init__(self, binary: str, project: Path, options: Sequence[str], start_timeout: float) -> None:
        self._owner = os.getpid()
        self._log = tempfile.TemporaryFile()
        self._last_log = ""
        listen = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--stop-with-stdin", "--output", "json"]
        stdin, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [binary, "--project", str(project), "serve", *listen, *options],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=self._log,
                # A key that interrupts the program is not for the server.
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            self._log.close()
            raise
        finally:
            os.close(stdin)
        _pipes.add(self._pipe)
        try:
            addresses = self._addresses(start_timeout)
        except BaseException:
            self.stop()
            raise
        self.grpc, self.http = addresses["grpc"], addresses["http"]

    def _addresses(self, start_timeout: float) -> dict[str, str]:
        """What the server says of itself once it listens; ends the server if it says nothing for too long."""
        timer = threading.Timer(start_timeout, self._process.kill)
        timer.start()
        try:
            document = b""
            assert self._process.stdout is not None
            for line in self._process.stdout:
                document += line
                if line == b"}\n":
                    addresses: dict[str, str] = json.loads(document)
                    # What keeps it from starting is a document, too.
                    if "grpc" in addresses:
                        return addresses
        finally:
            timer.cancel()
        status = self._process.wait()
        said = self.log().strip() or f"it ended with status {status}"
        advice = "; if a server runs on this project, connect to it with asof.Client" if "in use by" in said else ""
        kind = _kind(document) if document else "unavailable"
        raise from_kind(kind, f"the server did not start: {_message(said)}{advice}")

    def log(self) -> str:
        if self._log.closed:
            return self._last_log
        # At a place of its own: the server goes on writing at the end.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def stop(self) -> None:
        """Ends the server; in a forked child of its program it does nothing."""
        if os.getpid() != self._owner:
            return
        if self._pipe in _pipes:
            _pipes.remove(self._pipe)
            os.close(self._pipe)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._last_log = self.log()
        self._log.close()


def run_command(binary: str, project: Path, arguments: Sequence[str]) -> Any:
    """The document that a command prints; what it complains of is an exception."""
    done = subprocess.run(
        [binary, "--project", str(project), *arguments, "--output", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = _message(done.stderr) or f"asof {' '.join(arguments)} ended with status {done.returncode}"
        raise from_kind(_kind(done.stdout), message)
    return json.loads(done.stdout) if done.stdout.strip() else None


def _kind(document: str | bytes) -> str:
    """The kind of error that a command tells of."""
    try:
        kind: str = json.loads(document)["error"]["kind"]
        return kind
    except (ValueError, LookupError, TypeError):
        return "internal"


def _message(stderr: str) -> str:
    return re.sub(r"^error: ", "", stderr.strip())


def _project(folder: Path, create: bool) -> Path:
    settings = folder / "asof.yaml"
    if not settings.is_file():
        if not create:
            raise NotFoundError(f"there is no `{settings}`; give the folder of a project, or create=True to make one")
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9_-]", "_", folder.resolve().name) or "project"
        settings.write_text(f"project: {name}\n")
    return folder.resolve()


def _each(given: Definition | Iterable[Definition]) -> Iterable[Definition]:
    return given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
