"""Definitions as Python has them: one dataclass for each mapping of a definition file, with its keys as fields.

What refers to another definition takes that definition or its name. Nothing is checked here but the keys: what a
definition means, the ``asof`` command knows, and it says what is wrong when the file is validated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Literal, Self, TypeAlias

from ._exceptions import InvalidError
from ._html import definition_html
from ._records import Record

Duration: TypeAlias = str | timedelta
"""``"30s"``, ``"12h"``, ``"7d"``, or a timedelta."""

Function: TypeAlias = Literal[
    "count", "sum", "mean", "min", "max", "variance", "stddev", "skew", "kurtosis", "first", "last", "top", "bottom",
    "count_distinct", "approx_count_distinct", "approx_percentile", "histogram", "any", "all",
]  # fmt: skip
"""What an aggregation computes."""


@dataclass(frozen=True)
class Field(Record):
    """A named and typed column: a join key, a feature, a request value.

    >>> Field("temp", "float64").to_dict()
    {'name': 'temp', 'type': 'float64'}
    """

    name: str
    type: str
    description: str | None = None


@dataclass(frozen=True, kw_only=True)
class Definition(Record):
    """What every definition has."""

    kind: ClassVar[str]
    """The key of definition files under which it stands."""

    name: str
    description: str | None = None
    owner: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The mapping that a definition file has for it, with what it is for people at the end."""
        written = super().to_dict()
        for key in ("description", "owner", "tags"):
            if key in written:
                written[key] = written.pop(key)
        return written

    def references(self) -> Iterator[Definition]:
        """The definitions that it holds itself, instead of their names."""
        return iter(())

    def _repr_html_(self) -> str:
        return definition_html(self.kind, self.to_dict())


def name_of(reference: str | Definition) -> str:
    """The name by which a definition file refers to it."""
    return reference if isinstance(reference, str) else reference.name


def _definitions(*references: object) -> Iterator[Definition]:
    return (reference for reference in references if isinstance(reference, Definition))


@dataclass(frozen=True, kw_only=True)
class Entity(Definition):
    """What features describe, identified by its join keys together."""

    kind: ClassVar[str] = "entities"
    _records: ClassVar[Mapping[str, type[Record]]] = {"join_keys": Field}

    join_keys: Sequence[Field]


@dataclass(frozen=True)
class Batch(Record):
    """Where a source's rows are: files, or a Delta table."""

    format: Literal["parquet", "csv", "json", "ndjson", "delta"]
    path: str


@dataclass(frozen=True, kw_only=True)
class Source(Definition):
    """Rows that features are read from; without an event timestamp they hold at every time."""

    kind: ClassVar[str] = "sources"
    _records: ClassVar[Mapping[str, type[Record]]] = {"batch": Batch, "schema": Field}

    batch: Batch | None = None
    stream: Mapping[str, Any] | None = None
    """For instance ``{"type": "push"}``."""
    stream_from: str | None = None
    event_timestamp: str | None = None
    created_timestamp: str | None = None
    event_id: str | None = None
    deduplicate_for: Duration | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    """Column of the file to the name used here."""
    schema: Sequence[Field] = ()


@dataclass(frozen=True, kw_only=True)
class Aggregation(Record):
    """One function over one input; each of its windows makes a feature.

    >>> Aggregation(input="delay", function="mean", windows=["1h", timedelta(days=7)]).to_dict()
    {'input': 'delay', 'function': 'mean', 'windows': ['1h', '7d']}
    """

    name: str | None = None
    input: str | None = None
    function: Function
    windows: Sequence[Duration]
    n: int | None = None
    p: float | Sequence[float] | None = None
    by: str | None = None


@dataclass(frozen=True, kw_only=True)
class View(Definition):
    """What a feature service may name features of: a feature view or an on-demand feature view."""

    def __getitem__(self, features: str | Sequence[str]) -> Projection:
        """Some of the view's features, for a feature service: ``view["temp"]``, ``view[["temp", "humid"]]``."""
        return Projection(self, features=[features] if isinstance(features, str) else features)

    def with_name(self, name: str) -> Projection:
        """The view under another name in full feature names."""
        return Projection(self, as_=name)

    def with_join_key_map(self, join_keys: Mapping[str, str]) -> Projection:
        """The view with columns of the request for its join keys: ``{"airport": "dest"}``."""
        return Projection(self, join_keys=join_keys)


@dataclass(frozen=True, kw_only=True)
class FeatureView(View):
    """Named features of entities: rows of a source, of a query over sources, or aggregations of events."""

    kind: ClassVar[str] = "feature_views"
    _records: ClassVar[Mapping[str, type[Record]]] = {"features": Field, "aggregations": Aggregation}

    entities: Sequence[str | Entity] = ()
    source: str | Source | None = None
    sources: Sequence[str | Source] = ()
    sql: str | None = None
    where: str | None = None
    aggregations: Sequence[Aggregation] = ()
    resolution: Duration | None = None
    ttl: Duration | None = None
    lookback: Duration | None = None
    features: Sequence[Field] = ()

    def to_dict(self) -> dict[str, Any]:
        named = dataclasses.replace(
            self,
            entities=[name_of(entity) for entity in self.entities],
            source=None if self.source is None else name_of(self.source),
            sources=[name_of(source) for source in self.sources],
        )
        return Definition.to_dict(named)

    def references(self) -> Iterator[Definition]:
        return _definitions(*self.entities, self.source, *self.sources)


@dataclass(frozen=True)
class OnDemandFeature(Record):
    """A feature that an SQL expression computes when it is asked for."""

    name: str
    type: str
    expression: str
    description: str | None = None


@dataclass(frozen=True, kw_only=True)
class OnDemandFeatureView(View):
    """Features computed from other features and from values of the request, when they are asked for."""

    kind: ClassVar[str] = "on_demand_feature_views"
    _records: ClassVar[Mapping[str, type[Record]]] = {"request": Field, "features": OnDemandFeature}

    request: Sequence[Field] = ()
    features_from: Sequence[str | FeatureView] = ()
    """``view:feature``, or a view for all of its features."""
    features: Sequence[OnDemandFeature]

    def to_dict(self) -> dict[str, Any]:
        named = dataclasses.replace(self, features_from=[name_of(view) for view in self.features_from])
        return Definition.to_dict(named)

    def references(self) -> Iterator[Definition]:
        return _definitions(*self.features_from)


@dataclass(frozen=True)
class Projection(Record):
    """Some or all features of one view, perhaps under another name and for another key."""

    view: str | View
    features: Sequence[str] | None = None
    as_: str | None = None
    join_keys: Mapping[str, str] = field(default_factory=dict)

    def with_name(self, name: str) -> Projection:
        """The same features under another name in full feature names."""
        return dataclasses.replace(self, as_=name)

    def with_join_key_map(self, join_keys: Mapping[str, str]) -> Projection:
        """The same features with columns of the request for the view's join keys."""
        return dataclasses.replace(self, join_keys=join_keys)

    def to_dict(self) -> dict[str, Any]:
        """The short form ``view: [features]`` where it says all."""
        view = name_of(self.view)
        if self.features is not None and self.as_ is None and not self.join_keys:
            return {view: list(self.features)}
        return Record.to_dict(dataclasses.replace(self, view=view))

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], *, unknown: str = "refuse") -> Self:
        """From the short form or the long one."""
        if isinstance(mapping, Mapping) and len(mapping) == 1:
            ((view, features),) = mapping.items()
            if isinstance(features, list):
                return cls(view, features=features)
        return super().from_dict(mapping, unknown=unknown)


@dataclass(frozen=True, kw_only=True)
class FeatureService(Definition):
    """The features that one model reads, in order.

    Each of `features` is a view, its name, ``view:feature``, ``view[["feature", …]]`` or a :class:`Projection`.
    """

    kind: ClassVar[str] = "feature_services"

    features: Sequence[str | View | Projection]

    def to_dict(self) -> dict[str, Any]:
        named = [each if isinstance(each, Projection) else name_of(each) for each in self.features]
        return Definition.to_dict(dataclasses.replace(self, features=named))

    def references(self) -> Iterator[Definition]:
        views = [each.view if isinstance(each, Projection) else each for each in self.features]
        return _definitions(*views)

    @classmethod
    def _read(cls, key: str, value: Any, unknown: str) -> Any:
        if key != "features" or not isinstance(value, list):
            return super()._read(key, value, unknown)
        return [each if isinstance(each, str) else Projection.from_dict(each, unknown=unknown) for each in value]


@dataclass(frozen=True, kw_only=True)
class RouteStep(Record):
    """One of a route's models that are asked after each other.

    >>> RouteStep(when="ip > 0.8", model="deep@champion", else_="light@champion").to_dict()
    {'model': 'deep@champion', 'when': 'ip > 0.8', 'else': 'light@champion'}
    """

    model: str
    as_: str | None = None
    """The name of its prediction for the steps after it."""
    when: str | None = None
    """The rows that it is asked about, as an SQL condition."""
    else_: str | None = None
    """The model for the other rows."""


@dataclass(frozen=True, kw_only=True)
class Shadow(Record):
    """A model that sees what a route sees, and whose answers nobody waits for."""

    model: str
    percent: float = 100.0
    where: str | None = None


@dataclass(frozen=True)
class Variant(Record):
    """A model of an experiment, and its share among them."""

    model: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Experiment(Record):
    """Models among which the values of a column are shared out, the same ones each time."""

    _records: ClassVar[Mapping[str, type[Record]]] = {"variants": Variant}

    name: str
    unit: str
    variants: Sequence[Variant]


@dataclass(frozen=True, kw_only=True)
class PredictionLog(Record):
    """What is remembered of a route's predictions, how safely, and how long."""

    sample: float = 1.0
    durability: Literal["machine", "process", "none"] = "process"
    retention: Duration | None = None


@dataclass(frozen=True, kw_only=True)
class PredictionRoute(Definition):
    """What callers ask for predictions by: a `model`, `steps` or a `lookup` answers.

    >>> PredictionRoute(name="delay", model="delay@champion", shadows=[Shadow(model="delay@rival", percent=10)]).to_dict()
    {'name': 'delay', 'model': 'delay@champion', 'shadows': [{'model': 'delay@rival', 'percent': 10}]}
    """

    kind: ClassVar[str] = "prediction_routes"
    _records: ClassVar[Mapping[str, type[Record]]] = {
        "steps": RouteStep, "shadows": Shadow, "experiment": Experiment, "log": PredictionLog,
    }  # fmt: skip

    model: str | None = None
    """``name``, ``name@alias`` or ``name@version``."""
    steps: Sequence[RouteStep] = ()
    lookup: str | None = None
    """``view:feature``: a feature that holds predictions."""
    fallback: str | None = None
    shadows: Sequence[Shadow] = ()
    experiment: Experiment | None = None
    log: PredictionLog = PredictionLog()


KINDS: Mapping[str, type[Definition]] = {
    kind.kind: kind
    for kind in (Entity, Source, FeatureView, OnDemandFeatureView, FeatureService, PredictionRoute)
}
"""Key of definition files to what stands under it, in the order in which files are read best."""


def definition_from_dict(kind: str, mapping: Mapping[str, Any], *, unknown: str = "refuse") -> Definition:
    """A definition of a kind from its mapping."""
    if kind not in KINDS:
        raise InvalidError(f"there is no kind `{kind}`; the kinds are {', '.join(KINDS)}")
    return KINDS[kind].from_dict(mapping, unknown=unknown)
