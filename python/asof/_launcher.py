"""The ``asof`` command of a Python environment: what needs Python is done here, all else by the program.

asof export DEFS.py       definitions written in Python to a definition file
asof import-feast REPO    a Feast repository to a definition file
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ._binary import find_binary
from ._definition_files import DefinitionSet
from ._exceptions import AsofError, InvalidError, NotFoundError, kind_of

_HELP = """
Commands of the Python package:
  export               Write the definitions of a Python file to a definition file
  import-feast         Write definitions of a Feast repository to a definition file
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; gives its exit status, or becomes the program."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = _command(given)
    run = {"export": export, "import-feast": import_feast}.get(command or "")
    try:
        if run is not None:
            return run(given)
        binary = find_binary()
    except (AsofError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if "json" in given or "--output=json" in given:
            print(json.dumps({"error": {"kind": kind_of(error), "message": str(error), "diagnostics": []}}, indent=2))
        return 2 if isinstance(error, (InvalidError, NotFoundError)) else 1
    if command in (None, "help") and not {"-V", "--version"} & set(given):
        status = subprocess.run([binary, *given], check=False).returncode
        print(_HELP, end="")
        return status
    os.execv(binary, [binary, *given])


def _command(arguments: Sequence[str]) -> str | None:
    """The first argument that is neither an option nor an option's value."""
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--project", "--output"):
            skip = True
        elif not argument.startswith("-"):
            return argument
    return None


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asof", description=description, allow_abbrev=False)
    parser.add_argument("command", choices=[command])
    parser.add_argument("--project", metavar="DIR", help="the project's folder; else the nearest one upwards from here")
    parser.add_argument("--out", metavar="FILE", help="the definition file to write; - for standard output")
    parser.add_argument("--output", choices=["text", "json"], default="text", help="how to print")
    return parser


def export(arguments: Sequence[str]) -> int:
    """``asof export DEFS.py``."""
    parser = _parser("export", "Write the definitions of a Python file to a definition file.")
    parser.add_argument("file", help="the Python file; what it has in variables that begin with _ is left out")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if the file would change")
    options = parser.parse_args(arguments)
    definitions = DefinitionSet.of_python(options.file)
    if not len(definitions):
        raise InvalidError(f"`{options.file}` defines nothing; assign definitions such as asof.Entity(…) to variables")
    header = f"# Written by `asof export {Path(options.file).name}`: change that file instead.\n"
    return _write(options, definitions, header, f"{Path(options.file).stem}.yaml", check=options.check)


def import_feast(arguments: Sequence[str]) -> int:
    """``asof import-feast REPO``."""
    parser = _parser("import-feast", "Write definitions of a Feast repository to a definition file.")
    parser.add_argument("repo", help="the folder of feature_store.yaml, after `feast apply`")
    parser.add_argument("--feast-python", metavar="PYTHON", help="a Python that has feast; else this one")
    options = parser.parse_args(arguments)
    from ._feast import read_repo

    definitions, remarks = read_repo(options.repo, _base(options), options.feast_python)
    listed = "".join(f"#   {remark}\n" for remark in remarks)
    header = "# Written by `asof import-feast`.\n" + (
        f"# Not taken over, or not as it was:\n{listed}" if remarks else ""
    )
    status = _write(options, definitions, header, "feast.yaml", remarks=remarks)
    if options.output == "text":
        for remark in remarks:
            print(f"note: {remark}", file=sys.stderr)
    return status


def _folder(options: argparse.Namespace) -> Path:
    """The project's folder, as every command finds it."""
    if named := options.project or os.environ.get("ASOF_PROJECT"):
        return Path(named)
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "asof.yaml").is_file():
            return folder
    raise NotFoundError("there is no asof.yaml here or above; give --project DIR or --out FILE, or run `asof init`")


def _base(options: argparse.Namespace) -> Path:
    """What paths in the written file are relative to."""
    try:
        return _folder(options)
    except NotFoundError:
        if options.out is None:
            raise
        return Path.cwd()


def _write(
    options: argparse.Namespace,
    definitions: DefinitionSet,
    header: str,
    name: str,
    *,
    check: bool = False,
    remarks: Sequence[str] = (),
) -> int:
    if options.out == "-":
        print(header + definitions.to_yaml(), end="")
        return 0
    path = Path(options.out) if options.out else _folder(options) / "feature_defs" / name
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    is_new = before != header + definitions.to_yaml()
    if is_new and not check:
        definitions.write(path, header=header)
    if options.output == "json":
        document = {"file": str(path), "definitions": len(definitions), "changed": is_new, "notes": list(remarks)}
        print(json.dumps(document, indent=2))
    else:
        did = ("would change" if check else "written") if is_new else "unchanged"
        print(f"{path}: {len(definitions)} definitions, {did}")
    return 1 if check and is_new else 0


if __name__ == "__main__":
    sys.exit(main())
