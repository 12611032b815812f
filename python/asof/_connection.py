"""What the two clients have in common."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import grpc

from ._exceptions import InvalidError
from ._proto import feature_store_pb2 as pb

CHANNEL_OPTIONS = [
    # The server limits what it sends; the client takes it.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Notices a dead connection during a long batch call.
    ("grpc.keepalive_time_ms", 60_000),
]


@dataclass(frozen=True)
class Connection:
    """Where to, and with what."""

    address: str
    timeout: float | None
    metadata: tuple[tuple[str, str], ...]
    credentials: grpc.ChannelCredentials | None

    @staticmethod
    def to(
        address: str, timeout: float | None, token: str | None, credentials: grpc.ChannelCredentials | None
    ) -> Connection:
        if address.startswith(("http://", "https://", "grpc://")):
            raise InvalidError(f"address `{address}` is a URL; give host:port of the server's gRPC port")
        metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        return Connection(address, timeout, metadata, credentials)


def definition_dicts(response: pb.ListDefinitionsResponse) -> list[dict[str, Any]]:
    """Each definition with its kind, as one dict."""
    return [{"kind": definition.kind, **json.loads(definition.json)} for definition in response.definitions]
