"""A Feast repository as definitions of Asof.

Feast's registry is read by Feast itself and comes as JSON. Each object of it becomes a definition, or a remark that
says why not; so does each of its settings: what is not known here is told, not dropped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset

from ._definition_files import DefinitionSet
from ._definitions import Batch, Definition, Entity, FeatureService, FeatureView, Field, Projection, Source
from ._exceptions import InvalidError, NotFoundError, PreconditionError
from ._types import arrow_type

_SCALARS = {
    "BYTES": "bytes",
    "STRING": "string",
    "INT32": "int32",
    "INT64": "int64",
    "DOUBLE": "float64",
    "FLOAT": "float32",
    "BOOL": "bool",
    "UNIX_TIMESTAMP": "timestamp",
}
_TYPES = {**_SCALARS, **{f"{feast}_LIST": f"list<{ours}>" for feast, ours in _SCALARS.items()}}
_KEY_TYPES = {"bool", "int32", "int64", "string", "bytes", "timestamp", "date"}
# Which types hold every value of a type that files have.
_HELD_BY = {"int32": {"int32", "int64"}, "float32": {"float32", "float64"}}
_RESERVED = {"event_timestamp", "created_timestamp"}
# What Feast makes for itself, and counts itself.
_OWN_SECTIONS = {
    "registry_schema_version",
    "version_id",
    "last_updated",
    "infra",
    "project_metadata",
    "projects",
    "feature_view_version_history",
}
_OWN_ENTITY = "__dummy"
# Settings that are taken over.
_DOCUMENTATION = {"name", "project", "description", "owner", "tags"}
_SOURCE = {
    "type",
    "data_source_class_type",
    "timestamp_field",
    "created_timestamp_column",
    "field_mapping",
    "file_options",
    "meta",
}
_VIEW = {"entities", "features", "ttl", "batch_source", "stream_source", "online", "entity_columns"}


def read_repo(
    repo: str | os.PathLike[str], project: Path, python: str | None = None
) -> tuple[DefinitionSet, list[str]]:
    """The definitions of a Feast repository, and remarks about what they leave out.

    Args:
        repo: The folder of ``feature_store.yaml``, after ``feast apply``.
        project: The folder to which paths are relative.
        python: A Python that has ``feast``; this one if not given.
    """
    if not (Path(repo) / "feature_store.yaml").is_file():
        raise NotFoundError(f"there is no `{Path(repo) / 'feature_store.yaml'}`; give the folder of a Feast repository")
    dump = Path(__file__).with_name("_feast_dump.py")
    command = [python or sys.executable, "-W", "ignore", str(dump), str(repo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "No module named 'feast'" in last:
            last = "there is no `feast` in this Python: install it, or name another Python with --feast-python"
        raise PreconditionError(f"the Feast repository cannot be read: {last}")
    document = json.loads(done.stdout.strip().splitlines()[-1])
    return convert(document["project"], document["registry"], Path(repo), project)


def convert(
    feast_project: str, registry: Mapping[str, Any], repo: Path, project: Path
) -> tuple[DefinitionSet, list[str]]:
    """The definitions of one project of a registry, and remarks; without Feast."""
    importer = _Importer(feast_project, registry, repo.resolve(), project.resolve())
    definitions = DefinitionSet(importer.definitions())
    if not len(definitions):
        raise PreconditionError("Feast's registry has nothing that can be taken over; has `feast apply` been run?")
    return definitions, importer.remarks


class _Importer:
    def __init__(self, feast_project: str, registry: Mapping[str, Any], repo: Path, project: Path) -> None:
        self._feast_project, self._registry, self._repo, self._project = feast_project, registry, repo, project
        self.remarks: list[str] = []
        self._entities: dict[str, Entity] = {}
        self._sources: dict[str, Source] = {}
        self._views: dict[str, FeatureView] = {}

    def definitions(self) -> Iterator[Definition]:
        views = self._section("feature_views")
        for source in self._data_sources(views):
            self._add(self._sources, source["name"], self._source(source))
        for spec in self._section("entities"):
            if spec["name"] != _OWN_ENTITY:
                self._add(self._entities, spec["name"], self._entity(spec, views))
        for spec in views:
            self._add(self._views, spec["name"], self._view(spec))
        yield from (*self._entities.values(), *self._sources.values(), *self._views.values())
        for spec in self._section("feature_services"):
            service = self._service(spec)
            if service is not None:
                yield service
        self._remark_on_sections()

    def _add(self, named: dict[str, Any], name: str, definition: Definition | None) -> None:
        if definition is not None:
            named[name] = definition

    def _section(self, name: str) -> list[Mapping[str, Any]]:
        """The specifications of one kind of object of the project, by name."""
        specs = [each.get("spec", each) for each in self._registry.get(name, ())]
        ours = [spec for spec in specs if spec.get("project", self._feast_project) == self._feast_project]
        return sorted(ours, key=lambda spec: str(spec.get("name", "")))

    def _data_sources(self, views: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Every batch source by name, those of views and behind push sources among them."""
        sources = {source["name"]: source for source in self._section("data_sources")}
        for view in views:
            if (batch := view.get("batch_source")) is not None:
                sources.setdefault(batch["name"], batch)
        return [sources[name] for name in sorted(sources)]

    def _source(self, spec: Mapping[str, Any]) -> Source | None:
        what, kind = f"source `{spec['name']}`", spec.get("type", "INVALID")
        if kind == "PUSH_SOURCE":
            batch = spec.get("batch_source", {}).get("name", "none")
            return self._remark(f"{what} takes pushed rows; views read its batch source `{batch}` only")
        if kind == "REQUEST_SOURCE":
            columns = ", ".join(each["name"] for each in spec.get("request_data_options", {}).get("schema", ()))
            return self._remark(f"{what}: the values {columns} of requests belong to on-demand feature views")
        if kind != "BATCH_FILE":
            return self._remark(f"{what} is of the kind {kind}; only files are taken over")
        files = spec.get("file_options", {})
        self._rest(f"the files of {what}", files, {"uri", "file_format"})
        self._rest(what, spec, _DOCUMENTATION | _SOURCE)
        return Source(
            name=self._name(what, spec["name"]),
            batch=Batch("delta" if "delta_format" in files.get("file_format", {}) else "parquet", self._path(files)),
            event_timestamp=spec.get("timestamp_field") or None,
            created_timestamp=spec.get("created_timestamp_column") or None,
            rename=spec.get("field_mapping", {}),
            **_documentation(spec),
        )

    def _path(self, files: Mapping[str, Any]) -> str:
        """Relative to the project, as a file that is moved with it would be."""
        uri = str(files.get("uri", ""))
        if "://" in uri:
            return uri.removeprefix("file://")
        return os.path.relpath(self._repo / uri, self._project) if not os.path.isabs(uri) else uri

    def _entity(self, spec: Mapping[str, Any], views: Iterable[Mapping[str, Any]]) -> Entity | None:
        what, key = f"entity `{spec['name']}`", spec["join_key"]
        self._rest(what, spec, _DOCUMENTATION | {"join_key", "value_type"})
        types: dict[str, str] = {}
        for view in views:
            if spec["name"] in view.get("entities", ()):
                declared = [each["value_type"] for each in view.get("entity_columns", ()) if each["name"] == key]
                source = self._sources.get(view.get("batch_source", {}).get("name", ""))
                for each in [spec.get("value_type", ""), *declared]:
                    if each in _TYPES:
                        types[self._type_of(f"join key `{key}`", _TYPES[each], source, key)] = view["name"]
        if not types:
            return self._remark(f"{what} is left out: no feature view says the type of its join key `{key}`")
        chosen = next(iter(types))
        if len(types) > 1:
            self._remark(
                f"{what}: its join key `{key}` is {' and '.join(types)} in different views; written as {chosen}"
            )
        if chosen not in _KEY_TYPES or not _is_name(key):
            return self._remark(f"{what} is left out: `{key}` of type {chosen} cannot be a join key")
        return Entity(name=self._name(what, spec["name"]), join_keys=[Field(key, chosen)], **_documentation(spec))

    def _view(self, spec: Mapping[str, Any]) -> FeatureView | None:
        what = f"feature view `{spec['name']}`"
        if "feature_transformation" in spec or "source_views" in spec:
            return self._remark(f"{what} is left out: write its transformation as `sql` or `aggregations`")
        source = self._sources.get(spec.get("batch_source", {}).get("name", ""))
        if source is None:
            return self._remark(f"{what} is left out, for its source is")
        missing = [name for name in spec.get("entities", ()) if name not in self._entities and name != _OWN_ENTITY]
        if missing:
            return self._remark(f"{what} is left out, for its entity `{missing[0]}` is")
        if stream := spec.get("stream_source"):
            self._remark(
                f"{what}: rows of its stream `{stream.get('name')}` are not taken over, those of its files are"
            )
        if not spec.get("online", False):
            self._remark(f"{what} is not served online by Feast; Asof serves every view")
        version = {"version"} if spec.get("version") == "latest" else set()
        self._rest(what, spec, _DOCUMENTATION | _VIEW | version)
        features = [self._feature(what, each, source) for each in spec.get("features", ())]
        kept = [feature for feature in features if feature is not None]
        if not kept:
            return self._remark(f"{what} is left out: none of its features can be taken over")
        return FeatureView(
            name=self._name(what, spec["name"]),
            entities=[self._entities[name] for name in spec.get("entities", ()) if name != _OWN_ENTITY],
            source=source,
            ttl=_ttl(spec.get("ttl", "0s")),
            features=kept,
            **_documentation(spec),
        )

    def _feature(self, view: str, spec: Mapping[str, Any], source: Source) -> Field | None:
        what, kind = f"feature `{spec['name']}` of {view}", spec.get("value_type", "INVALID")
        if kind not in _TYPES:
            return self._remark(f"{what} is left out: there is no type for {kind}")
        if not _is_name(spec["name"]) or spec["name"] in _RESERVED:
            return self._remark(f"{what} is left out: features are not named so")
        self._rest(what, spec, {"name", "value_type", "description"})
        return Field(
            spec["name"], self._type_of(what, _TYPES[kind], source, spec["name"]), spec.get("description") or None
        )

    def _type_of(self, what: str, declared: str, source: Source | None, column: str) -> str:
        """The declared type, unless the files have values that it cannot hold: Feast gives them out as they are."""
        in_file = None if source is None else self._file_types(source).get(column)
        if in_file is None or declared in _HELD_BY.get(in_file, {in_file}):
            return declared
        self._remark(f"{what} is declared {declared} and is {in_file} in the files; written as {in_file}")
        return in_file

    def _file_types(self, source: Source) -> dict[str, str]:
        """Type by column name, for files that are at hand."""
        assert source.batch is not None, "Feast's sources have files"
        path = self._project / source.batch.path
        if source.batch.format != "parquet" or not path.exists():
            return {}
        names = {_plain_type(arrow_type(name)): name for name in (*_TYPES.values(), "date")}
        schema = pyarrow.dataset.dataset(path, format="parquet").schema
        types = {source.rename.get(field.name, field.name): _plain_type(field.type) for field in schema}
        return {column: names[found] for column, found in types.items() if found in names}

    def _service(self, spec: Mapping[str, Any]) -> FeatureService | None:
        what = f"feature service `{spec['name']}`"
        self._rest(what, spec, _DOCUMENTATION | {"features"})
        projections = [self._projection(what, each) for each in spec.get("features", ())]
        kept = [each for each in projections if each is not None]
        if not kept:
            return self._remark(f"{what} is left out: none of its features is taken over")
        return FeatureService(name=self._name(what, spec["name"]), features=kept, **_documentation(spec))

    def _projection(self, service: str, spec: Mapping[str, Any]) -> FeatureView | Projection | None:
        view = self._views.get(spec["feature_view_name"])
        if view is None:
            return self._remark(f"{service} leaves out `{spec['feature_view_name']}`, which is not taken over")
        known = [feature.name for feature in view.features]
        asked = [each["name"] for each in spec.get("feature_columns", ())]
        kept = [name for name in asked if name in known]
        if len(kept) < len(asked):
            left = ", ".join(name for name in asked if name not in known)
            self._remark(f"{service} leaves out {left} of `{view.name}`")
        if not kept:
            return None
        alias, join_keys = spec.get("feature_view_name_alias") or None, spec.get("join_key_map", {})
        if kept == known and not alias and not join_keys:
            return view
        return Projection(view, None if kept == known else kept, alias, join_keys)

    def _remark_on_sections(self) -> None:
        for view in self._section("on_demand_feature_views"):
            features = ", ".join(f"{each['name']} ({each['value_type']})" for each in view.get("features", ()))
            what = f"on-demand feature view `{view['name']}` is left out"
            inputs = ", ".join(sorted(view.get("sources", {})))
            self._remark(f"{what}: write {features} from {inputs} as SQL expressions")
        taken = {"entities", "data_sources", "feature_views", "feature_services", "on_demand_feature_views"}
        for section, objects in self._registry.items():
            if section not in taken | _OWN_SECTIONS:
                for spec in self._section(section) if isinstance(objects, list) else [{"name": ""}]:
                    self._remark(f"{section.rstrip('s').replace('_', ' ')} `{spec.get('name', '')}` is left out")

    def _rest(self, what: str, spec: Mapping[str, Any], known: set[str]) -> None:
        """Remarks on every setting that is not known."""
        for key, value in spec.items():
            if key not in known and value:
                shown = json.dumps(value, sort_keys=True)
                self._remark(f"{what}: `{key}` has no counterpart: {shown if len(shown) <= 80 else shown[:79] + '…'}")

    def _name(self, what: str, name: str) -> str:
        if _is_name(name):
            return name
        ours = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_]", "_", name))[:128]
        ours = ours if not ours[:1].isdigit() else f"_{ours[:127]}"
        self._remark(f"{what} is called `{ours}`")
        return ours

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name) is not None and "__" not in name


def _documentation(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": spec.get("description") or None,
        "owner": spec.get("owner") or None,
        "tags": dict(sorted(spec.get("tags", {}).items())),
    }


def _ttl(text: str) -> timedelta | None:
    """Protobuf's duration, ``86400s``; zero is no limit, and what no definition can say is refused."""
    match = re.fullmatch(r"([0-9]+)(?:\.([0-9]+))?s", text)
    if match is None:
        raise InvalidError(f"Feast's ttl `{text}` is no duration")
    micros = int(match[1]) * 1_000_000 + int((match[2] or "").ljust(6, "0")[:6])
    return timedelta(microseconds=micros) or None


def _plain_type(data_type: pa.DataType) -> str:
    """The type as text, with differences left out that make none: large or not, zones and units of instants."""
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return f"list<{_plain_type(data_type.value_type)}>"
    if pa.types.is_timestamp(data_type):
        return "timestamp"
    return str(data_type).removeprefix("large_")
