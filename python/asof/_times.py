"""Instants on their way to the wire: microseconds since the Unix epoch, UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from ._exceptions import InvalidError

Time = datetime | date | str
"""An instant: a datetime (UTC where it has no offset), a date (its midnight), or RFC 3339 text."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(time: Time, argument: str) -> int:
    """Microseconds since the epoch; digits past the microsecond are cut to the one below.

    >>> to_micros("1970-01-01T01:00:00.5+01:00", "start")
    500000
    """
    instant = _parse(time, argument) if isinstance(time, str) else time
    if not isinstance(instant, date) or instant != instant:  # NaT is a datetime that equals nothing
        raise InvalidError(f"`{argument}` is {time!r}; give a datetime, a date or RFC 3339 text")
    if not isinstance(instant, datetime):
        instant = datetime(instant.year, instant.month, instant.day)
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return int((instant - _EPOCH) // timedelta(microseconds=1))


def to_text(time: Time, argument: str) -> str:
    """RFC 3339, as commands take it.

    >>> to_text(datetime(2024, 5, 1, 12, 30), "start")
    '2024-05-01T12:30:00.000000Z'
    """
    instant = _EPOCH + timedelta(microseconds=to_micros(time, argument))
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _parse(text: str, argument: str) -> datetime:
    stripped = text.strip()
    if stripped[-1:] in ("Z", "z"):
        stripped = stripped[:-1] + "+00:00"
    try:
        return datetime.fromisoformat(stripped)
    except ValueError:
        raise InvalidError(f"`{argument}` is `{text}`; write RFC 3339, e.g. `2024-05-01T12:30:00Z`") from None
