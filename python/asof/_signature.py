"""Which columns a request has to carry, read from the server's definitions.

The online call sends those and no others, so that the same entities do for both calls: a spine's
time column and whatever else it carries stay with the client.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._exceptions import InvalidError
from ._proto import feature_store_pb2 as pb

Features = str | Sequence[str]
"""A feature service's name, or a list of references: ``view:feature``, or ``view`` for all of a view's."""


def selection(features: Features) -> pb.FeatureSelection:
    """What is asked for; a text with a colon is a single reference.

    >>> selection("arrival_delay_v1").feature_service
    'arrival_delay_v1'
    """
    if isinstance(features, str):
        if ":" not in features:
            return pb.FeatureSelection(feature_service=features)
        features = [features]
    references = list(features) if isinstance(features, Iterable) else [None]
    if not all(isinstance(each, str) for each in references):
        raise InvalidError(f"`features` is {features!r}; give a feature service's name, or a list of `view:feature`")
    return pb.FeatureSelection(features=references)


# Different questions of one program, by far.
_REMEMBERED_MAX = 1000


@dataclass(frozen=True)
class Definitions:
    """The definitions of one registry version, by name."""

    version: int
    kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]
    # What was found out of them.
    signatures: dict[bytes, Signature] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(response: pb.ListDefinitionsResponse) -> Definitions:
        kinds: dict[str, dict[str, Any]] = {}
        for definition in response.definitions:
            kinds.setdefault(definition.kind, {})[definition.name] = json.loads(definition.json)
        return Definitions(response.registry_version, kinds)

    def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        return self.kinds.get(kind, {}).get(name)

    def no_such(self, kind: str, name: str) -> str:
        """What to say of a name that does not exist."""
        known = list(self.kinds.get(kind, {}))
        near = difflib.get_close_matches(name, known, n=1)
        help = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known) or 'none'}"
        return f"there is no `{name}` among {kind.replace('_', ' ')}; {help}"


@dataclass
class Signature:
    """Columns that a request carries, with their types."""

    join_keys: dict[str, str] = field(default_factory=dict)
    request: dict[str, str] = field(default_factory=dict)

    def __contains__(self, column: str) -> bool:
        return column in self.join_keys or column in self.request


def signature(features: pb.FeatureSelection, definitions: Definitions) -> Signature:
    """What `features` need; names that do not resolve are left for the server to refuse."""
    key = features.SerializeToString(deterministic=True)
    needed = definitions.signatures.get(key)
    if needed is None:
        needed = Signature()
        for view, renamed in _views(features, definitions):
            _add_view(needed, definitions, view, renamed, seen=set())
        if len(definitions.signatures) < _REMEMBERED_MAX:
            definitions.signatures[key] = needed
    return needed


def _views(features: pb.FeatureSelection, definitions: Definitions) -> Iterable[tuple[str, Mapping[str, str]]]:
    service = definitions.get("feature_services", features.feature_service)
    for projection in service["features"] if service else ():
        yield projection["view"], projection.get("join_keys", {})
    for reference in features.features:
        yield _view_of(reference), {}


def _add_view(
    needed: Signature, definitions: Definitions, name: str, renamed: Mapping[str, str], seen: set[str]
) -> None:
    if name in seen:
        return
    seen.add(name)
    if (view := definitions.get("feature_views", name)) is not None:
        for entity in view.get("entities", ()):
            for key in (definitions.get("entities", entity) or {}).get("join_keys", ()):
                needed.join_keys[renamed.get(key["name"], key["name"])] = key["type"]
    elif (view := definitions.get("on_demand_feature_views", name)) is not None:
        for value in view.get("request", ()):
            needed.request[value["name"]] = value["type"]
        for reference in view.get("features_from", ()):
            _add_view(needed, definitions, _view_of(reference), renamed, seen)


def _view_of(reference: str) -> str:
    return reference.split(":", 1)[0].strip()
