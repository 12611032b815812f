"""The Asof project over the generated files: one for each scale, which grows by the views that workloads need."""

import hashlib
import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from deltalake import DeltaTable

from .generate import ensure_spine, ensure_table
from .workloads import View, Workload, chosen

# To be raised with every change of what generate.py writes, so that files of before are not taken for new ones.
GENERATION = 1

ENTITIES = "entities:\n" + "".join(
    f"  - {{name: {key}, join_keys: [{{name: {key}, type: int64}}]}}\n" for key in ("consumer", "store", "courier")
)


class Project:
    def __init__(self, folder: Path, scale: str, asof: str) -> None:
        self.folder = folder / scale
        self.asof = asof
        self.views = {view.name: view for workload in chosen(["all"], scale) for view in workload.views}.values()
        self.build = hashlib.sha256(Path(asof).read_bytes()).hexdigest()[:12]
        (self.folder / "feature_defs").mkdir(parents=True, exist_ok=True)
        (self.folder / "asof.yaml").write_text("project: bench\n")

    def source(self, view: View) -> Path:
        return self.folder / f"sources/{view.name}-{fingerprint(view)}.parquet"

    def spine(self, workload: Workload) -> Path:
        return self.folder / f"spines/{workload.name}-{fingerprint(workload)}.parquet"

    def generate(self, workload: Workload) -> None:
        """Writes the files of a workload that are not there yet."""
        for view in workload.views:
            ensure_table(self.source(view), view)
        ensure_spine(self.spine(workload), workload, {view.name: self.source(view) for view in workload.views})

    def forget_tables(self) -> None:
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        self.record_file.unlink(missing_ok=True)

    def materialize(self, views: tuple[View, ...]) -> None:
        """Applies the definitions of all views whose sources exist, and computes those of these tables that do not."""
        known = [view for view in self.views if self.source(view).exists()]
        (self.folder / "feature_defs/bench.yaml").write_text(self.definitions(known))
        self.command("apply", "--yes", "--allow-breaking")
        done = self.record()
        missing = [view for view in views if done.get(view.name, {}).get("source") != self.source(view).name]
        rows, seconds, upload_seconds = 0, 0.0, 0.0
        for view in missing:
            document = self.command("materialize", view.name)["views"][0]
            rows += document["rows_written"]
            seconds += document["seconds"]
            upload_seconds += document["upload_seconds"]
            # The Delta tables alone answer a batch request.
            shutil.rmtree(self.folder / "state/online", ignore_errors=True)
            done[view.name] = {"source": self.source(view).name, "build": self.build}
            self.record_file.write_text(json.dumps(done))
        if missing:
            print(f"materialized {rows:,} rows into {len(missing)} Delta table(s) in {seconds:.1f} s;", end=" ")
            print(f"the upload to the online store took {upload_seconds:.1f} s")
        other = sorted({done[view.name]["build"] for view in views} - {self.build})
        if other:
            print(f"note: tables of another build of asof ({', '.join(other)}); --rematerialize makes them anew")

    def definitions(self, views: Iterable[View]) -> str:
        sources = "".join(source_definition(view, self.source(view)) for view in views)
        return f"{ENTITIES}sources:\n{sources}feature_views:\n" + "".join(map(view_definition, views))

    @property
    def record_file(self) -> Path:
        """Of which source each table was computed, and by which build of asof."""
        return self.folder / "materialized.json"

    def record(self) -> dict[str, Any]:
        return json.loads(self.record_file.read_text()) if self.record_file.exists() else {}

    def table_files(self, view: View) -> list[Path]:
        """The Parquet files of a view's Delta table, in the order of their first rows."""

        def first_row(file: Path) -> tuple[Any, ...]:
            metadata = pq.read_metadata(file)
            names = [metadata.schema.column(number).name for number in range(metadata.num_columns)]
            columns = [metadata.row_group(0).column(names.index(name)) for name in (view.key, "event_timestamp")]
            return tuple(column.statistics.min for column in columns)

        uris = DeltaTable(self.folder / f"state/offline/views/{view.name}").file_uris()
        return sorted((Path(uri.removeprefix("file://")) for uri in uris), key=first_row)

    def command(self, *arguments: str) -> Any:
        command = [self.asof, *arguments, "--output", "json"]
        run = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE)
        if run.returncode:
            sys.exit(f"`asof {' '.join(arguments)}` failed in {self.folder}")
        return json.loads(run.stdout)


def fingerprint(described: View | Workload) -> str:
    """Tells files of one description from those of another."""
    return f"{zlib.crc32(f'{GENERATION} {described!r}'.encode()):08x}"


def source_definition(view: View, file: Path) -> str:
    created = ", created_timestamp: created_timestamp" if view.corrected else ""
    batch = f"batch: {{format: parquet, path: {file}}}"
    return f"  - {{name: {view.name}, {batch}, event_timestamp: event_timestamp{created}}}\n"


def view_definition(view: View) -> str:
    columns = [(name, "int64" if name in view.integers else "float64") for name in view.features]
    features = ", ".join(f"{{name: {name}, type: {kind}}}" for name, kind in columns)
    ttl = "" if view.ttl_us is None else f"ttl: {view.ttl_us // 1000}ms, "
    return f"  - {{name: {view.name}, entities: [{view.key}], source: {view.name}, {ttl}features: [{features}]}}\n"
