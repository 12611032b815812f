"""What a server serves, and how far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ._html import table_html
from ._proto import feature_store_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ViewStatus:
    """How far one view is materialized."""

    name: str
    table_version: int | None
    """Version of the view's table; None: never materialized."""
    materialized_until: datetime | None
    """End of what is materialized; None for static views too."""
    online_table_version: int | None
    """Version of the table that the online values stand for."""
    fault: str | None = None
    """Why its stream does not feed it; None: it does, or it has none."""


@dataclass(frozen=True)
class StreamStatus:
    """How a source's stream stands."""

    source: str
    watermark: datetime | None
    """The greatest event timestamp accepted so far."""
    accepted: int
    dead_letters: int
    """Rows that were refused, and events that an expression of a view fails for, once a view."""
    duplicates: int
    """Events whose id came before."""
    late: int
    ignored: int
    """Events before the source's ``stream_from``."""
    online_lag_records: int
    """Records of the log, of all sources, that are not answered online yet."""
    offline_lag_records: int
    """Records of the log, of all sources, that are not in the event tables yet."""
    fault: str | None = None
    """Why no events are taken; None: they are."""


@dataclass(frozen=True)
class ServerStatus:
    """A server, its registry, its views, its streams."""

    project: str
    server_version: str
    registry_version: int
    views: tuple[ViewStatus, ...]
    streams: tuple[StreamStatus, ...] = ()

    @staticmethod
    def of(response: pb.GetStatusResponse) -> ServerStatus:
        return ServerStatus(
            response.project,
            response.server_version,
            response.registry_version,
            tuple(_view(view) for view in response.views),
            tuple(_stream(stream) for stream in response.streams),
        )

    def _repr_html_(self) -> str:
        heads = ("view", "table version", "materialized until", "online table version")
        views = [(view.name, view.table_version, view.materialized_until, view.online_table_version) for view in self.views]
        shown = _table(f"{self.project}, registry version {self.registry_version}", heads, views)
        if not self.streams:
            return shown
        columns = ("stream", "watermark", "accepted", "dead letters", "repeated", "late", "ignored")
        streams = [
            (each.source, each.watermark, each.accepted, each.dead_letters, each.duplicates, each.late, each.ignored)
            for each in self.streams
        ]
        return shown + _table("streams", columns, streams)


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return table_html(caption, [(head, "") for head in heads], [[(value, "") for value in row] for row in rows])


def _stream(stream: pb.StreamStatus) -> StreamStatus:
    return StreamStatus(
        source=stream.source,
        watermark=_instant(stream.watermark) if stream.HasField("watermark") else None,
        accepted=stream.accepted,
        dead_letters=stream.dead_letters,
        duplicates=stream.duplicates,
        late=stream.late,
        ignored=stream.ignored,
        online_lag_records=stream.online_lag_records,
        offline_lag_records=stream.offline_lag_records,
        fault=stream.fault or None,
    )


def _instant(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def _view(view: pb.ViewStatus) -> ViewStatus:
    def given(field: str) -> int | None:
        return getattr(view, field) if view.HasField(field) else None

    until = given("materialized_until")
    return ViewStatus(
        view.name,
        given("table_version"),
        None if until is None else _instant(until),
        given("online_table_version"),
        view.fault or None,
    )
