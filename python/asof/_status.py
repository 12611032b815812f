"""What a server serves, and how far."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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


@dataclass(frozen=True)
class ServerStatus:
    """A server, its registry, its views."""

    project: str
    server_version: str
    registry_version: int
    views: tuple[ViewStatus, ...]

    @staticmethod
    def of(response: pb.GetStatusResponse) -> ServerStatus:
        views = tuple(_view(view) for view in response.views)
        return ServerStatus(response.project, response.server_version, response.registry_version, views)

    def _repr_html_(self) -> str:
        heads = [("view", ""), ("table version", ""), ("materialized until", ""), ("online table version", "")]
        rows = [
            [(view.name, ""), (view.table_version, ""), (view.materialized_until, ""), (view.online_table_version, "")]
            for view in self.views
        ]
        return table_html(f"{self.project}, registry version {self.registry_version}", heads, rows)


def _view(view: pb.ViewStatus) -> ViewStatus:
    def given(field: str) -> int | None:
        return getattr(view, field) if view.HasField(field) else None

    until = given("materialized_until")
    return ViewStatus(
        view.name,
        given("table_version"),
        None if until is None else _EPOCH + timedelta(microseconds=until),
        given("online_table_version"),
    )
