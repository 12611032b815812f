"""Definition files: a set of definitions to YAML and back."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ._definitions import KINDS, Definition, definition_from_dict
from ._exceptions import InvalidError, NotFoundError

_LINE = 110


class DefinitionSet:
    """Definitions by kind and name, each with those that it refers to.

    >>> from asof import Entity, Field
    >>> print(DefinitionSet([Entity(name="carrier", join_keys=[Field("carrier", "string")])]).to_yaml(), end="")
    entities:
      - name: carrier
        join_keys:
          - {name: carrier, type: string}
    """

    def __init__(self, definitions: Iterable[Definition] = ()) -> None:
        self._by_kind: dict[str, dict[str, Definition]] = {kind: {} for kind in KINDS}
        for definition in definitions:
            self.add(definition)

    def add(self, definition: Definition) -> None:
        """Adds a definition, and those it refers to; another one of its name is refused."""
        if not isinstance(definition, Definition):
            raise InvalidError(f"{definition!r} is no definition; give an asof.FeatureView, an asof.Entity, …")
        for reference in definition.references():
            self.add(reference)
        known = self._by_kind[definition.kind].setdefault(definition.name, definition)
        if known is not definition and known.to_dict() != definition.to_dict():
            raise InvalidError(f"`{definition.name}` is defined twice among {definition.kind}; give one another name")

    @staticmethod
    def alone(definition: Definition) -> DefinitionSet:
        """One definition, without those it refers to."""
        found = DefinitionSet()
        found._by_kind[definition.kind][definition.name] = definition
        return found

    def __iter__(self) -> Iterator[Definition]:
        for kind in self._by_kind.values():
            yield from kind.values()

    def __len__(self) -> int:
        return sum(len(kind) for kind in self._by_kind.values())

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Kind to the mappings of its definitions."""
        return {kind: [each.to_dict() for each in named.values()] for kind, named in self._by_kind.items() if named}

    def to_yaml(self) -> str:
        """The text of a definition file."""
        sections = []
        for kind, definitions in self.to_dict().items():
            items = ["\n".join(_item(definition, 2)) for definition in definitions]
            sections.append(f"{kind}:\n" + "\n\n".join(items) + "\n")
        return "\n".join(sections)

    def write(self, path: str | os.PathLike[str], *, header: str = "") -> None:
        """Writes a definition file; whoever reads it meanwhile sees all of the old one or all of the new one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            try:
                file.write(header + self.to_yaml())
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o666 & ~_umask())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise

    @staticmethod
    def read(path: str | os.PathLike[str]) -> DefinitionSet:
        """The definitions of a file, or of a folder's files together; needs PyYAML."""
        root = Path(path)
        if not root.exists():
            raise NotFoundError(f"there is no file or folder `{path}`")
        files = sorted(each for each in root.rglob("*") if each.suffix.lower() in (".yaml", ".yml"))
        definitions = DefinitionSet()
        for file in files if root.is_dir() else [root]:
            for document in _load(file):
                for kind, mappings in document.items():
                    if mappings is not None and not isinstance(mappings, list):
                        raise InvalidError(f"`{kind}` of {file} is no list; write each definition with `- ` before it")
                    for mapping in mappings or ():
                        definitions.add(definition_from_dict(kind, mapping))
        return definitions

    @staticmethod
    def of_python(path: str | os.PathLike[str]) -> DefinitionSet:
        """The definitions that a Python file has in its variables; the file is run for it."""
        if not Path(path).is_file():
            raise NotFoundError(f"there is no file `{path}`")
        folder = str(Path(path).resolve().parent)
        sys.path.insert(0, folder)
        try:
            variables = runpy.run_path(str(path), run_name="__asof_export__")
        finally:
            sys.path.remove(folder)
        found = DefinitionSet()
        for name, value in variables.items():
            # A name that begins with `_` is the file's own business: a template for others, for instance.
            if not name.startswith("_"):
                for definition in _definitions_in(value):
                    found.add(definition)
        return found


class DefinitionFolder:
    """Definitions that a program keeps in a folder of its own, a file each: ``KIND/NAME.yaml``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def written(self, definitions: DefinitionSet, *, replace: bool) -> Iterator[None]:
        """Writes the definitions; if the block fails, the folder is as it was.

        Args:
            replace: Remove the files of all others.
        """
        files = {self._file(each): DefinitionSet.alone(each) for each in definitions}
        gone = [file for file in self._folder.glob("*/*.yaml") if file not in files] if replace else []
        before = {file: file.read_bytes() if file.exists() else None for file in [*files, *gone]}
        try:
            for file, alone in files.items():
                alone.write(file)
            for file in gone:
                file.unlink()
            yield
        except BaseException:
            for file, content in before.items():
                if content is None:
                    file.unlink(missing_ok=True)
                else:
                    file.write_bytes(content)
            raise

    def _file(self, definition: Definition) -> Path:
        # Whatever the name is, it makes a file that is here and is not hidden; `asof apply` says what a name is.
        name = quote(definition.name, safe="").replace(".", "%2E")
        return self._folder / definition.kind / f"{name or '%'}.yaml"


def _definitions_in(value: object) -> Iterator[Definition]:
    """The definitions that a variable holds, by itself or in lists and mappings."""
    if isinstance(value, Definition):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _definitions_in(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _definitions_in(item)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _load(file: Path) -> list[Mapping[str, Any]]:
    try:
        import yaml
    except ImportError:
        raise InvalidError("reading definition files needs PyYAML: pip install pyyaml") from None

    class Loader(yaml.SafeLoader):
        """YAML 1.2's scalars, as Asof reads them: `no` is a text, and `1:30` is one too."""

    Loader.yaml_implicit_resolvers = {}
    for tag, pattern, first in (
        ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
        ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
        ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
        ("merge", r"^<<$", ["<"]),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), first)
    try:
        documents = list(yaml.load_all(file.read_text(encoding="utf-8"), Loader))
    except yaml.YAMLError as error:
        raise InvalidError(f"{file} is no YAML: {error}") from error
    for document in documents:
        if document is not None and not isinstance(document, Mapping):
            raise InvalidError(f"{file} holds {type(document).__name__}; a definition file is a mapping")
    return [document for document in documents if document is not None]


# Texts that stand as they are: no indicator of YAML, no number, no word with a meaning.
_PLAIN = re.compile(r"^[A-Za-z_][A-Za-z0-9_./*-]*( [A-Za-z0-9_./*<>=+()%'-]+)*\Z")
# On a line of their own, where a comma ends nothing.
_PLAIN_LINE = re.compile(r"^[A-Za-z_][A-Za-z0-9_.,;/<>*'-]*( [A-Za-z0-9_.,;/*<>=+()%'-]+)*\Z")
_DURATION = re.compile(r"^[0-9]+(ms|s|m|h|d|w)\Z")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def _scalar(value: Any, plain: re.Pattern[str] = _PLAIN) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = _DURATION.match(value) or (plain.match(value) and value.lower() not in _WORDS)
    return value if is_plain else _quoted(value)


def _quoted(text: str) -> str:
    """In quotes; what cannot be seen is written as YAML spells it."""
    return '"' + "".join(map(_spelled, text)) + '"'


def _spelled(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        raise InvalidError(f"U+{code:04X} is half of a character, which no file can hold; leave it out")
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _item(mapping: Mapping[str, Any], indent: int) -> list[str]:
    """A definition as an item of a list: its keys a line each, long values below them."""
    lines = [line for key, value in mapping.items() for line in _entry(key, value, indent + 2)]
    return [" " * indent + "- " + lines[0].lstrip(), *lines[1:]]


def _entry(key: str, value: Any, indent: int) -> list[str]:
    blanks = " " * indent
    if isinstance(value, str):
        if _is_block(value):
            chomp = "|" if value.endswith("\n") else "|-"
            return [f"{blanks}{key}: {chomp}", *(f"{blanks}  {line}".rstrip() for line in value.splitlines())]
        return [f"{blanks}{key}: {_scalar(value, _PLAIN_LINE)}"]
    if isinstance(value, list) and (
        any(isinstance(item, Mapping) for item in value) or len(blanks + key + _flow(value)) > _LINE
    ):
        return [f"{blanks}{key}:", *(line for item in value for line in _list_item(item, indent + 2))]
    return [f"{blanks}{key}: {_flow(value)}"]


def _list_item(item: Any, indent: int) -> list[str]:
    line = " " * indent + "- " + _flow(item)
    has_block = isinstance(item, Mapping) and any(isinstance(each, str) and _is_block(each) for each in item.values())
    return _item(item, indent) if has_block else [line]


def _is_block(text: str) -> bool:
    """Whether the text can stand line by line: YAML would change other blanks at its ends."""
    lines = text.split("\n")
    body = lines[:-1] if lines[-1] == "" else lines
    return (
        len(lines) > 1
        and bool(body)
        and body[0][:1] not in ("", " ", "\t")
        and body[-1] != ""
        and all(line == line.rstrip() and line.isprintable() for line in body)
    )
