"""Writes docs/python.md from the docstrings of the package: python python/scripts/generate_reference.py"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PYTHON = Path(__file__).resolve().parent.parent
if str(PYTHON) not in sys.path:
    sys.path.insert(0, str(PYTHON))

import asof  # noqa: E402

SECTIONS = {
    "Clients": ["Client", "AsyncClient", "Local", "Tls"],
    "Answers": ["Answer", "AnswerStream", "AsyncAnswerStream", "Metadata", "Status", "PushResult", "AsofWarning"],
    "What there is": ["Catalog", "FeatureReference", "ServerStatus", "ViewStatus", "StreamStatus"],
    "Definitions": [
        "Definition", "Entity", "Source", "Batch", "View", "FeatureView", "Aggregation", "OnDemandFeatureView",
        "OnDemandFeature", "FeatureService", "Projection", "PredictionRoute", "RouteStep", "Shadow", "Experiment",
        "Variant", "PredictionLog", "Field", "DefinitionSet",
    ],
}  # fmt: skip


def reference() -> str:
    """The text of the reference."""
    errors = [
        name
        for name in asof.__all__
        if isinstance(getattr(asof, name), type) and issubclass(getattr(asof, name), asof.AsofError)
    ]
    sections = SECTIONS | {"Exceptions": errors}
    left_out = set(asof.__all__) - {name for names in sections.values() for name in names}
    if left_out:
        raise SystemExit(f"no section has {', '.join(sorted(left_out))}")
    parts = [
        "# Python reference\n\nWritten by `python/scripts/generate_reference.py` from the package's docstrings, "
        "whose examples are tests. `help(asof.Client)` shows the same.\n"
    ]
    for title, names in sections.items():
        parts.append(f"## {title}\n")
        parts.extend(_class(name, getattr(asof, name)) for name in names)
    return "\n".join(parts)


def _class(name: str, kind: type) -> str:
    is_error = issubclass(kind, (asof.AsofError, Warning))
    head = f"### `{name}`\n\n"
    if not is_error and not issubclass(kind, str) and kind.__init__ is not object.__init__ and not _is_made_by_us(kind):
        head += f"```text\n{name}{_signature(kind.__init__)}\n```\n\n"
    text = head + _text(kind.__doc__)
    if name == "AsyncClient" or is_error:
        return text
    # What a class only has from another one of ours stands there.
    inherited = {
        member
        for base in kind.__mro__[1:]
        if base.__module__.startswith("asof") and base.__name__ in asof.__all__
        for member in vars(base)
    }
    return text + "".join(
        f"\n{_member(name, member, value)}"
        for member, value in _members(kind)
        if member not in inherited or member in vars(kind)
    )


def _is_made_by_us(kind: type) -> bool:
    """Whether callers get such objects and never make them."""
    return kind in (
        asof.Answer,
        asof.AnswerStream,
        asof.AsyncAnswerStream,
        asof.Catalog,
        asof.ServerStatus,
        asof.ViewStatus,
        asof.Metadata,
        asof.PushResult,
        asof.Definition,
        asof.View,
    )


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(kind).items():
        if (
            name != "references"
            and not name.startswith("_")
            and (inspect.isfunction(value) or isinstance(value, property | staticmethod))
        ):
            yield name, value


def _member(owner: str, name: str, value: Any) -> str:
    if isinstance(value, property):
        return f"#### `{owner}.{name}`\n\n{_text(value.__doc__)}"
    function = value.__func__ if isinstance(value, staticmethod) else value
    return f"#### `{owner}.{name}`\n\n```text\n{name}{_signature(function)}\n```\n\n{_text(inspect.getdoc(function))}"


def _signature(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [each for name, each in signature.parameters.items() if name != "self"]
    text = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    # Annotations are texts.
    text = re.sub(r""": (['"])(.*?)\1""", r": \2", text).replace("<factory>", "{}")
    if len(text) <= 90:
        return text
    return re.sub(r", (?=\*|\w+(: |=|$))", ",\n    ", text).replace("(", "(\n    ", 1)[:-1] + ",\n)"


def _text(docstring: str | None) -> str:
    """A docstring as Markdown: arguments as a list, examples as code."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r":(?:meth|class|attr):`~?(?:asof\.)?([^`]+)`", r"`\1`", text).replace("``", "`")
    lines, out, in_code = text.splitlines(), [], False
    for line in lines:
        starts_code = line.startswith(">>>") and not in_code
        if starts_code:
            out.append("```pycon")
            in_code = True
        elif in_code and not line.strip():
            out.append("```")
            in_code = False
        if not in_code and line.startswith(" " * 8):
            line = "  " + line.strip()
        if line == "Args:":
            line = "Arguments:\n"
        elif match := re.match(r"^    (\w+): (.*)$", line):
            line = f"- `{match[1]}`: {match[2]}"
        elif line == "Example::":
            line = "For instance:"
        out.append(line)
    return "\n".join([*out, "```"] if in_code else out) + "\n"


if __name__ == "__main__":
    (PYTHON.parent / "docs/python.md").write_text(reference())
