"""The calls, for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc

from ._async import AsyncClient
from ._calls import Calls, Open, OpenAnswer, Pause, Receive, Steps, Unary, shown_as
from ._connection import Connection, Tls
from ._exceptions import InvalidError
from ._stream import AnswerStream
from ._stubs import Stubs

P = ParamSpec("P")
T = TypeVar("T")


def _call(core: Callable[Concatenate[Calls, P], Steps[T]]) -> Callable[Concatenate[Client, P], T]:
    """The call as a method that returns when it is done."""

    @shown_as(core)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(core(self._calls, *args, **kwargs))

    return method


def _stream_call(
    core: Callable[Concatenate[Calls, P], Steps[OpenAnswer]],
) -> Callable[Concatenate[Client, P], AnswerStream]:
    """The call as a method that returns when the answer begins."""

    @shown_as(core, returns="AnswerStream")
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> AnswerStream:
        opened = self._run(core(self._calls, *args, **kwargs))
        return AnswerStream(opened, lambda: self._run(self._calls.receive(opened)))

    return method


class Client:
    """A connection to an Asof server; threads may share it.

    Connects at the first call, and again whenever the connection breaks.

    Args:
        address: ``host:port`` of the server's gRPC port.
        timeout: Seconds that a call may take, if the call does not say otherwise; batch calls, whose
            length depends on their data, have no deadline of their own.
        retries: How often a read is tried again while the server is not there, or is full and says when to
            come back; with growing pauses, and never past the deadline. Seven attempts last about as long as a server
            takes to start anew.
        token: Sent with every call, as ``asof tokens create`` printed it. Over a network it needs `tls`.
        tls: True to trust the authorities that gRPC trusts, or a :class:`Tls` with certificates.
        compression: ``"gzip"``, both ways, for a slow network.
        options: Further options of the gRPC channel, such as ``("grpc.http_proxy", "http://proxy:3128")``.

    >>> with Client("localhost:6566", token="secret", tls=True) as client:
    ...     pass  # client.get_online_features(...)
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = 30.0,
        retries: int = 7,
        token: str | None = None,
        tls: Tls | bool = False,
        compression: str | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._connection = Connection.to(address, timeout, retries, token, tls, compression, options)
        self._calls = Calls(self._connection)
        self._channel = self._connection.channel(grpc)
        self._stub: Any = Stubs(self._channel)
        self._async = AsyncClient._with(self._connection)
        self._is_closed = False

    get_online_features = _call(Calls.get_online_features)
    get_batch_features = _call(Calls.get_batch_features)
    stream_batch_features = _stream_call(Calls.stream_batch_features)
    push = _call(Calls.push)
    predict = _call(Calls.predict)
    predict_all = _call(Calls.predict_all)
    list_definitions = _call(Calls.list_definitions)
    list_entities = _call(Calls.list_entities)
    list_sources = _call(Calls.list_sources)
    list_feature_views = _call(Calls.list_feature_views)
    list_on_demand_feature_views = _call(Calls.list_on_demand_feature_views)
    list_feature_services = _call(Calls.list_feature_services)
    list_prediction_routes = _call(Calls.list_prediction_routes)
    describe_entity = _call(Calls.describe_entity)
    describe_source = _call(Calls.describe_source)
    describe_feature_view = _call(Calls.describe_feature_view)
    describe_on_demand_feature_view = _call(Calls.describe_on_demand_feature_view)
    describe_feature_service = _call(Calls.describe_feature_service)
    describe_prediction_route = _call(Calls.describe_prediction_route)
    catalog = _call(Calls.catalog)
    status = _call(Calls.status)

    @property
    def address(self) -> str:
        """``host:port`` of the server's gRPC port."""
        return self._connection.address

    @property
    def async_(self) -> AsyncClient:
        """The same calls for asyncio."""
        return self._async

    def close(self) -> None:
        """Ends the connection and the calls that are under way; :attr:`async_` is closed by itself."""
        self._is_closed = True
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r})"

    def _run(self, steps: Steps[T]) -> T:
        """Does step after step until the call has its result."""
        if self._is_closed:
            raise InvalidError("the client is closed; make another one")
        result: Any = None
        failure: grpc.RpcError | None = None
        while True:
            try:
                step = steps.send(result) if failure is None else steps.throw(failure)
            except StopIteration as done:
                value: T = done.value
                return value
            result, failure = None, None
            try:
                result = self._do(step)
            except grpc.RpcError as error:
                failure = error

    def _do(self, step: Unary | Open | Receive | Pause) -> Any:
        match step:
            case Unary(method, request, timeout):
                return getattr(self._stub, method)(request, timeout=timeout, metadata=self._connection.metadata)
            case Open(method, messages, timeout):
                call = getattr(self._stub, method)
                return call(iter(messages), timeout=timeout, metadata=self._connection.metadata)
            case Receive(stream, sending):
                try:
                    return next(stream, None)
                except grpc.RpcError:
                    sending.raise_failure()
                    raise
            case Pause(seconds):
                return time.sleep(seconds)
