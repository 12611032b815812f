"""Where a server is, and how it is spoken to."""

from __future__ import annotations

import numbers
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from ._exceptions import InvalidError

_CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    # The server limits what it sends; the client takes it.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Notices a dead connection during a long batch call.
    ("grpc.keepalive_time_ms", 60_000),
    # A server that comes back is found within the pauses between attempts. How long one attempt may take is left as it
    # is: a server far away, or a busy one, takes its time.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
# A server compresses for whoever takes it, which costs more than it saves where the network is quick.
_UNCOMPRESSED = (("grpc.compression_enabled_algorithms_bitset", 1),)
# Far more than anybody waits, and what gRPC can count.
_TIMEOUT_END = 1e9
_COMPRESSION = {None: grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}


@dataclass(frozen=True)
class Tls:
    """Certificates, as files in PEM.

    Args:
        ca: Whom to trust; without it the authorities that gRPC trusts.
        cert: Shown to a server that asks for it; with `key`.
        key: The key of `cert`.
        server_name: The name in the server's certificate, where it is not the host of the address.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidError("`cert` and `key` of Tls go together; give both or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC takes."""
        ca, key, cert = (self._read(name) for name in ("ca", "key", "cert"))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def _read(self, name: str) -> bytes | None:
        path = getattr(self, name)
        if path is None:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise InvalidError(f"`{name}` of Tls cannot be read: {error}") from error


@dataclass(frozen=True)
class Connection:
    """Where to, and with what."""

    address: str
    timeout: float | None
    retries: Retries
    metadata: tuple[tuple[str, str], ...]
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, Any], ...]
    compression: grpc.Compression

    @staticmethod
    def to(
        address: str,
        timeout: float | None,
        retries: int,
        token: str | None,
        tls: Tls | bool,
        compression: str | None,
        options: Sequence[tuple[str, Any]],
    ) -> Connection:
        if not isinstance(address, str):
            raise InvalidError(f"`address` is {address!r}; give host:port of the server's gRPC port")
        if address.startswith(("http://", "https://", "grpc://", "grpcs://")):
            raise InvalidError(f"address `{address}` is a URL; give host:port of the server's gRPC port, and `tls`")
        if compression not in _COMPRESSION:
            raise InvalidError(f'compression `{compression}` is not known; give "gzip" or None')
        if not isinstance(retries, int) or retries < 0:
            raise InvalidError(f"`retries` is {retries!r}; give how often a read may be tried again, 0 for never")
        tls = Tls() if tls is True else tls
        name = tls.server_name if isinstance(tls, Tls) else None
        named = (("grpc.ssl_target_name_override", name),) if name else ()
        return Connection(
            address,
            seconds(timeout, "timeout"),
            Retries(retries),
            (("authorization", f"Bearer {_checked(token)}"),) if token is not None else (),
            tls.credentials() if isinstance(tls, Tls) else None,
            (*_CHANNEL_OPTIONS, *(_UNCOMPRESSED if compression is None else ()), *named, *options),
            _COMPRESSION[compression],
        )

    def channel(self, grpc_module: Any) -> Any:
        """A channel of `grpc`, or of `grpc.aio`."""
        arguments = {"options": list(self.options), "compression": self.compression}
        if self.credentials is None:
            return grpc_module.insecure_channel(self.address, **arguments)
        return grpc_module.secure_channel(self.address, self.credentials, **arguments)


def seconds(timeout: float | None, argument: str) -> float | None:
    """A deadline that a caller gave, checked."""
    if timeout is None:
        return None
    if isinstance(timeout, numbers.Real) and not isinstance(timeout, bool) and 0 < timeout < _TIMEOUT_END:
        return float(timeout)
    raise InvalidError(f"`{argument}` is {timeout!r}; give seconds above zero, fewer than a billion")


def _checked(token: str) -> str:
    """A token that can travel; what is wrong with another one is told without it."""
    if not isinstance(token, str):
        raise InvalidError(f"`token` is a {type(token).__name__}; give it as text")
    if not token or not all("!" <= each <= "~" for each in token):
        what = "is empty" if not token else "has a line break, a blank or another character that no token has"
        raise InvalidError(f"`token` {what}; give it as `asof tokens create` printed it, without what is around it")
    return token


@dataclass(frozen=True)
class Retries:
    """When a read is tried again: the server is not there, or is full and says when to come back."""

    count: int
    first_pause: float = 0.1
    longest_pause: float = 2.0

    def pause(self, failed: int, error: grpc.RpcError) -> float | None:
        """Seconds before the next attempt after `failed` ones, or None: there is no use in another."""
        hint = _pushback(error)
        if failed > self.count or (hint is not None and hint < 0):
            return None
        if hint is not None and error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
            # Callers that were turned away together do not come back together.
            return hint * float(2 ** (failed - 1)) * random.uniform(1.0, 1.5)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return min(self.longest_pause, self.first_pause * float(2 ** (failed - 1))) * random.uniform(0.8, 1.2)
        return None


def _pushback(error: grpc.RpcError) -> float | None:
    """What the server says about trying again, in seconds; negative: not at all."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-retry-pushback-ms":
            try:
                return int(value) / 1000
            except ValueError:
                return -1.0
    return None
