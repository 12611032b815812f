"""Prints the registry of a Feast repository as JSON. Run by a Python that has `feast`; uses nothing else of ours."""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    from feast import FeatureStore
    from google.protobuf.json_format import MessageToDict

    store: Any = FeatureStore(repo_path=sys.argv[1])
    registry = MessageToDict(store.registry.proto(), preserving_proto_field_name=True)
    # Feast writes to standard output whatever it likes; the document is the last line.
    print("\n" + json.dumps({"project": store.project, "registry": registry}))


if __name__ == "__main__":
    main()
