"""A server in this process that answers what a test puts into it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pyarrow as pa
import pytest

import asof
from asof._proto import feature_store_pb2 as pb
from asof._proto import feature_store_pb2_grpc as pb_grpc

DEFINITIONS: list[tuple[str, dict[str, Any]]] = [
    ("entities", {"name": "carrier", "join_keys": [{"name": "carrier", "type": "string"}]}),
    ("entities", {"name": "airport", "join_keys": [{"name": "airport", "type": "int32"}]}),
    ("feature_views", {"name": "delay", "entities": ["carrier"], "features": [{"name": "mean", "type": "float64"}]}),
    ("feature_views", {"name": "place", "entities": ["airport"], "features": [{"name": "lat", "type": "float64"}]}),
    (
        "on_demand_feature_views",
        {
            "name": "trip",
            "request": [{"name": "distance", "type": "float64"}],
            "features_from": ["delay:mean"],
            "features": [{"name": "delay_per_mile", "type": "float64", "expression": "mean / distance"}],
        },
    ),
    (
        "feature_services",
        {
            "name": "trip_v1",
            "features": [
                {"view": "trip"},
                {"view": "place", "as": "destination", "join_keys": {"airport": "dest"}},
            ],
        },
    ),
]


@dataclass
class FakeStore(pb_grpc.FeatureStoreServicer):  # type: ignore[misc]
    """Remembers what it was asked, and answers what the test says."""

    registry_version: int = 1
    definitions: list[tuple[str, dict[str, Any]]] = field(default_factory=lambda: list(DEFINITIONS))
    asked: list[Any] = field(default_factory=list)
    listed: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    columns: list[pb.Column] = field(default_factory=list)
    spine: pa.Table | None = None
    table: pa.Table = field(default_factory=lambda: pa.table({}))
    batch_metadata: pb.BatchMetadata = field(default_factory=pb.BatchMetadata)
    failures: list[tuple[grpc.StatusCode, str]] = field(default_factory=list)
    # What a failure says about trying again, in milliseconds.
    pushback: int | None = None
    status: pb.GetStatusResponse = field(default_factory=pb.GetStatusResponse)
    delay_secs: float = 0.0
    # Messages of a batch answer before the server goes down.
    breaks_off_after: int | None = None

    def ListDefinitions(self, request: Any, context: Any) -> Any:
        self.listed += 1
        listed = [
            pb.Definition(kind=kind, name=definition["name"], json=json.dumps(definition))
            for kind, definition in self.definitions
            if request.kind in ("", kind)
        ]
        return pb.ListDefinitionsResponse(registry_version=self.registry_version, definitions=listed)

    def GetStatus(self, request: Any, context: Any) -> Any:
        self._record(request, context)
        return self.status

    def GetOnlineFeatures(self, request: Any, context: Any) -> Any:
        self._record(request, context)
        columns = [*request.entities, *self.columns]
        return pb.GetOnlineFeaturesResponse(columns=columns, registry_version=self.registry_version)

    def Push(self, requests: Any, context: Any) -> Any:
        messages = list(requests)
        self._record(messages[0], context)
        tables = [pa.ipc.open_stream(message.arrow_ipc).read_all() for message in messages]
        self.spine = pa.concat_tables(tables)
        return pb.PushResponse(
            accepted=self.spine.num_rows - 1, dead_letters=1, problems=[pb.RowProblem(row=1, reason="no time")]
        )

    def GetBatchFeatures(self, requests: Any, context: Any) -> Any:
        messages = list(requests)
        self._record(messages[0].header, context)
        ipc = b"".join(message.spine for message in messages[1:])
        self.spine = pa.ipc.open_stream(ipc).read_all() if ipc else None
        yield pb.GetBatchFeaturesResponse(metadata=self.batch_metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        answer = sink.getvalue().to_pybytes()
        for number, start in enumerate(range(0, len(answer), 10_000)):
            if number == self.breaks_off_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
            yield pb.GetBatchFeaturesResponse(arrow_ipc=answer[start : start + 10_000])

    def _record(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        self.metadata = dict(context.invocation_metadata())
        time.sleep(self.delay_secs)
        if self.failures:
            if self.pushback is not None:
                context.set_trailing_metadata([("grpc-retry-pushback-ms", str(self.pushback))])
            context.abort(*self.failures.pop(0))


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def address(store: FakeStore) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_FeatureStoreServicer_to_server(store, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def client(address: str) -> Iterator[asof.Client]:
    with asof.Client(address, timeout=10) as client:
        yield client
