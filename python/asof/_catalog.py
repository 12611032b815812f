"""What may be asked for, as attributes that a notebook completes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._html import table_html
from ._signature import Definitions


class FeatureReference(str):
    """``view:feature``: a text like any other, that knows the feature's type and description."""

    type: str
    description: str | None

    @staticmethod
    def of(view: str, feature: Mapping[str, Any]) -> FeatureReference:
        reference = FeatureReference(f"{view}:{feature['name']}")
        reference.type, reference.description = feature["type"], feature.get("description")
        return reference

    def _repr_html_(self) -> str:
        return table_html("feature", [(self, self.type)], [[(self.description or "", "")]])


class _Names:
    """Names as attributes, which notebooks complete without running code of ours, and as keys."""

    def __init__(self, what: str, values: Mapping[str, Any]) -> None:
        self.__what, self.__values = what, values
        self.__dict__.update({name: value for name, value in values.items() if not name.startswith("__")})

    def __getitem__(self, name: str) -> Any:
        if name not in self.__values:
            raise KeyError(f"there is no {self.__what} `{name}`; there are {', '.join(self) or 'none'}")
        return self.__values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__values)

    def __len__(self) -> int:
        return len(self.__values)

    def __dir__(self) -> list[str]:
        return list(self)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        return f"<{self.__what}s: {', '.join(self)}>"


class ViewFeatures(_Names):
    """The features of one view: ``view.temp`` is the reference ``"origin_weather:temp"``."""

    def __init__(self, view: str, features: list[Mapping[str, Any]]) -> None:
        super().__init__("feature", {feature["name"]: FeatureReference.of(view, feature) for feature in features})
        self.__view = view

    def _repr_html_(self) -> str:
        heads = [("feature", ""), ("type", ""), ("description", "")]
        references = [self[name] for name in self]
        rows = [[(each, ""), (each.type, ""), (each.description or "", "")] for each in references]
        return table_html(self.__view, heads, rows)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> FeatureReference: ...


class Features(_Names):
    """The views by name: ``features.origin_weather``."""

    def __getitem__(self, name: str) -> ViewFeatures:
        view: ViewFeatures = super().__getitem__(name)
        return view

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> ViewFeatures: ...


class Services(_Names):
    """The feature services by name."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> str: ...


class Catalog:
    """The features and the feature services of a server, for completion in notebooks.

    ``catalog.features.<TAB>`` shows the views, ``catalog.features.origin_weather.<TAB>`` its features, and
    ``catalog.services.<TAB>`` the feature services; each is what ``features=`` of a call takes.
    """

    def __init__(self, definitions: Definitions) -> None:
        self.registry_version = definitions.version
        views = {**definitions.kinds.get("feature_views", {}), **definitions.kinds.get("on_demand_feature_views", {})}
        self.features = Features("view", {name: ViewFeatures(name, view["features"]) for name, view in views.items()})
        self.services = Services("service", {name: name for name in definitions.kinds.get("feature_services", {})})

    def __repr__(self) -> str:
        return f"<Catalog of registry version {self.registry_version}: {self.features!r}, {self.services!r}>"

    def _repr_html_(self) -> str:
        return "".join(self.features[name]._repr_html_() for name in self.features)
