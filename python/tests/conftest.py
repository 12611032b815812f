"""A server in this process that answers what a test puts into it, and the real one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
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
    delay_secs: float = 0.0

    def ListDefinitions(self, request: Any, context: Any) -> Any:
        self.listed += 1
        listed = [
            pb.Definition(kind=kind, name=definition["name"], json=json.dumps(definition))
            for kind, definition in self.definitions
            if request.kind in ("", kind)
        ]
        return pb.ListDefinitionsResponse(registry_version=self.registry_version, definitions=listed)

    def GetOnlineFeatures(self, request: Any, context: Any) -> Any:
        self._record(request, context)
        columns = [*request.entities, *self.columns]
        return pb.GetOnlineFeaturesResponse(columns=columns, registry_version=self.registry_version)

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
        for start in range(0, len(answer), 10_000):
            yield pb.GetBatchFeaturesResponse(arrow_ipc=answer[start : start + 10_000])

    def _record(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        self.metadata = dict(context.invocation_metadata())
        time.sleep(self.delay_secs)
        if self.failures:
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


PROJECT = {
    "asof.yaml": """\
project: client_test
server: {{grpc: "127.0.0.1:{grpc}", http: "127.0.0.1:{http}"}}
""",
    "feature_defs/all.yaml": """\
entities:
  - {name: origin, join_keys: [{name: origin, type: string}]}
sources:
  - name: weather
    batch: {format: csv, path: weather.csv}
    event_timestamp: observed_at
feature_views:
  - name: origin_weather
    entities: [origin]
    source: weather
    ttl: 3h
    features: [{name: temp, type: float64}, {name: gusts, type: int64}]
on_demand_feature_views:
  - name: comfort
    request: [{name: wanted, type: float64}]
    features_from: ["origin_weather:temp"]
    features: [{name: too_cold_by, type: float64, expression: "wanted - temp"}]
feature_services:
  - {name: comfort_v1, features: [origin_weather, comfort]}
""",
    "weather.csv": """\
origin,observed_at,temp,gusts
EWR,2024-01-01T00:00:00Z,1.5,10
EWR,2024-01-01T01:00:00Z,2.5,
JFK,2024-01-01T00:30:00Z,-4.0,9007199254740993
""",
}


@pytest.fixture(scope="session")
def real_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the binary that ASOF_BIN names, on a project of three rows."""
    binary = os.environ.get("ASOF_BIN")
    if binary is None:
        pytest.skip("ASOF_BIN does not name the asof binary")
    project = tmp_path_factory.mktemp("project")
    grpc_port, http_port = _free_ports(2)
    for name, text in PROJECT.items():
        path = project / name
        path.parent.mkdir(exist_ok=True)
        is_settings = name == "asof.yaml"
        path.write_text(text.format(grpc=grpc_port, http=http_port) if is_settings else text)
    for command in (["apply", "--yes"], ["materialize", "--end", "2024-01-02"]):
        subprocess.run([binary, *command], cwd=project, check=True)
    yield from _serve(Path(binary), project, f"127.0.0.1:{grpc_port}")


def _serve(binary: Path, project: Path, address: str) -> Iterator[str]:
    server = subprocess.Popen([binary, "serve", "--allow-request-time"], cwd=project)
    try:
        with grpc.insecure_channel(address) as channel:
            ready, deadline = grpc.channel_ready_future(channel), time.monotonic() + 60
            while not ready.done():
                assert server.poll() is None, "the server ended before it listened"
                assert time.monotonic() < deadline, "the server does not listen"
                time.sleep(0.05)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
