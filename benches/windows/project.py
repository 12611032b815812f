"""The Asof project over the generated orders: one for each scale, which grows by the views that workloads need."""

from collections.abc import Iterable
from pathlib import Path

from join.project import Project, fingerprint

from .generate import ensure_events, ensure_spine
from .workloads import Aggregate, Events, View, Workload, chosen

ENTITIES = "entities:\n  - {name: store, join_keys: [{name: store, type: int64}]}\n"


class WindowProject(Project):
    def __init__(self, folder: Path, scale: str, asof: str) -> None:
        super().__init__(folder / "windows", scale, asof)
        self.views = {view.name: view for workload in chosen(["all"], scale) for view in workload.views}.values()

    def source(self, view: View) -> Path:
        """Views over the same orders share them."""
        return self.folder / f"sources/{view.events.name}-{fingerprint(view.events)}.parquet"

    def generate(self, workload: Workload) -> None:
        ensure_events(self.source(workload.view), workload.view.events)
        ensure_spine(self.spine(workload), workload, self.source(workload.view))

    def definitions(self, views: Iterable[View]) -> str:
        files = {view.events: self.source(view) for view in views}
        sources = "".join(source_definition(events, file) for events, file in files.items())
        return f"{ENTITIES}sources:\n{sources}feature_views:\n" + "".join(map(view_definition, views))


def source_definition(events: Events, file: Path) -> str:
    batch = f"batch: {{format: parquet, path: {file}}}"
    return f"  - {{name: {events.name}, {batch}, event_timestamp: event_timestamp}}\n"


def view_definition(view: View) -> str:
    aggregations = "".join(map(aggregation_definition, view.aggregates))
    head = f"  - name: {view.name}\n    entities: [store]\n    source: {view.events.name}\n"
    return f"{head}    aggregations:\n{aggregations}"


def aggregation_definition(aggregate: Aggregate) -> str:
    n = "" if aggregate.n is None else f", n: {aggregate.n}"
    function = f"input: {aggregate.input}, function: {aggregate.function}{n}"
    return f"      - {{{function}, windows: [{aggregate.window}]}}\n"
