"""Dataclasses that are written as mappings: of definition files, and of the server's JSON."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Self

from ._exceptions import InvalidError


def plain(value: Any) -> Any:
    """The value as definition files have it: mappings, lists, texts, numbers and truth values."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, timedelta):
        return duration(value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def duration(length: timedelta) -> str:
    """The length in the greatest unit that divides it.

    >>> duration(timedelta(hours=36)), duration(timedelta(days=14))
    ('36h', '14d')
    """
    micros = length // timedelta(microseconds=1)
    for unit, size in {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000}.items():
        if micros > 0 and micros % size == 0:
            return f"{micros // size}{unit}"
    raise InvalidError(f"the duration {length} is no whole number of milliseconds above zero")


class Record:
    """A frozen dataclass whose fields are keys of a mapping; what equals its default is left out.

    A key that is a word of Python is a field with `_` after it.
    """

    # Fields that hold records themselves: alone, or in a list.
    _records: ClassVar[Mapping[str, type[Record]]] = {}

    def to_dict(self) -> dict[str, Any]:
        """The mapping that a definition file has for it."""
        written: dict[str, Any] = {}
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if not _is_default(each, value):
                written[each.name.rstrip("_")] = plain(value)
        return written

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], *, unknown: str = "refuse") -> Self:
        """From the mapping of a definition file.

        Args:
            unknown: What to do with a key that is not known: ``refuse`` it, or ``skip`` it.
        """
        if not isinstance(mapping, Mapping):
            raise InvalidError(f"expected a mapping for {cls.__name__}, found {mapping!r}")
        names = {each.name.rstrip("_"): each for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        for key, value in mapping.items():
            if key in names:
                values[names[key].name] = cls._read(key, value, unknown)
            elif unknown == "refuse":
                raise InvalidError(f"{cls.__name__} has no key `{key}`; {_nearest(str(key), list(names))}")
        missing = [key for key, each in names.items() if _is_required(each) and each.name not in values]
        if missing:
            raise InvalidError(f"{cls.__name__} {mapping.get('name', '')!r} lacks the key `{missing[0]}`")
        return cls(**values)

    @classmethod
    def _read(cls, key: str, value: Any, unknown: str) -> Any:
        record = cls._records.get(key)
        if record is None or value is None:
            return value
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [record.from_dict(item, unknown=unknown) for item in value]
        return record.from_dict(value, unknown=unknown)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING or field.default == ():
        return not value
    return field.default is not dataclasses.MISSING and bool(value == field.default)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"its keys are {', '.join(known)}"
