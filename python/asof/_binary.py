"""Where the asof program is: the server and every command that is not Python's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ._exceptions import NotFoundError

_IN_PACKAGE = Path(__file__).parent / "_bin" / "asof"


def find_binary() -> str:
    """The program that the wheel carries, else the one that ``ASOF_BIN`` names, else ``asof`` of the path.

    Raises NotFoundError if there is none.
    """
    if _IN_PACKAGE.is_file():
        return str(_IN_PACKAGE)
    if named := os.environ.get("ASOF_BIN"):
        if not (os.path.isfile(named) and os.access(named, os.X_OK)):
            raise NotFoundError(f"ASOF_BIN names `{named}`, which is no program; let it name the built asof")
        return os.path.abspath(named)
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which("asof", path=folder)
        if found and not _is_script(found):
            return os.path.abspath(found)
    raise NotFoundError(
        "the asof program is not there: install the wheel that carries it (make wheel), "
        "or let ASOF_BIN name it, or put it on the PATH"
    )


def _is_script(path: str) -> bool:
    """Whether it is a script, as this package's own entry point is, which looks for the program itself."""
    with open(path, "rb") as file:
        return file.read(2) == b"#!"
