"""What notebooks show: tables of answers, and definitions as their files have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

ROWS_SHOWN = 10


def table_html(caption: str, heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[tuple[Any, str]]]) -> str:
    """A table of `heads` (name, type) and rows of (value, remark); a remark shows where the pointer rests."""
    head = "".join(
        f'<th style="text-align:left">{escape(name)}<br>'
        f'<span style="font-weight:normal;opacity:.6">{escape(kind)}</span></th>'
        for name, kind in heads
    )
    body = "".join(f"<tr>{''.join(_cell(value, remark) for value, remark in row)}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any, remark: str) -> str:
    title = f' title="{escape(remark, quote=True)}"' if remark else ""
    if value is None:
        shown = remark.lower().replace("_", " ") if remark else "null"
        return f'<td{title} style="opacity:.5"><i>{escape(shown)}</i></td>'
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"<td{title}>{escape(text if len(text) <= 60 else text[:59] + '…')}</td>"


def definition_html(kind: str, definition: Mapping[str, Any]) -> str:
    """Key and value, a row each; lists an item a line."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(key)}</th><td style="text-align:left">{_value(value)}</td></tr>'
        for key, value in definition.items()
    )
    return f"<table><caption>{escape(kind)}</caption><tbody>{rows}</tbody></table>"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "<br>".join(_value(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"<b>{escape(str(key))}</b> {escape(str(item))}" for key, item in value.items())
    return escape(str(value)).replace("\n", "<br>")
