"""The calls, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc
import grpc.aio

from ._calls import Calls, Open, OpenAnswer, Pause, Receive, Steps, Unary, shown_as
from ._connection import Connection, Tls
from ._stream import AsyncAnswerStream
from ._stubs import Stubs

P = ParamSpec("P")
T = TypeVar("T")


def _call(
    core: Callable[Concatenate[Calls, P], Steps[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The call as a coroutine."""

    @shown_as(core)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(core(self._calls, *args, **kwargs))

    return method


def _stream_call(
    core: Callable[Concatenate[Calls, P], Steps[OpenAnswer]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, AsyncAnswerStream]]:
    """The call as a coroutine that returns when the answer begins."""

    @shown_as(core, returns="AsyncAnswerStream")
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncAnswerStream:
        opened = await self._run(core(self._calls, *args, **kwargs))
        return AsyncAnswerStream(opened, lambda: self._run(self._calls.receive(opened)))

    return method


class AsyncClient:
    """The calls of :class:`~asof.Client` as coroutines; also at hand as ``client.async_``.

    Takes the same arguments. The connection belongs to the event loop of the first call; in another
    loop a new one is made.

    Example::

        async with asof.AsyncClient("localhost:6566") as client:
            answer = await client.get_online_features(features="arrival_delay_v1", entities=[{"carrier": "UA"}])
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
        self._open(Connection.to(address, timeout, retries, token, tls, compression, options))

    @classmethod
    def _with(cls, connection: Connection) -> AsyncClient:
        client = cls.__new__(cls)
        client._open(connection)
        return client

    def _open(self, connection: Connection) -> None:
        self._connection = connection
        self._calls = Calls(connection)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Any = None
        self._stub: Any = None

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

    async def close(self) -> None:
        """Ends the connection and the calls that are under way."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = self._stub = self._loop = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r})"

    def _connected(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._channel = self._connection.channel(grpc.aio)
            self._stub, self._loop = Stubs(self._channel), loop
        return self._stub

    async def _run(self, steps: Steps[T]) -> T:
        """Does step after step until the call has its result."""
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
                result = await self._do(step)
            except grpc.RpcError as error:
                failure = error

    async def _do(self, step: Unary | Open | Receive | Pause) -> Any:
        match step:
            case Unary(method, request, timeout):
                call = getattr(self._connected(), method)
                return await call(request, timeout=timeout, metadata=self._connection.metadata)
            case Open(method, messages, timeout):
                call = getattr(self._connected(), method)
                return call(iter(messages), timeout=timeout, metadata=self._connection.metadata)
            case Receive(stream, sending):
                try:
                    message = await stream.read()
                except (grpc.RpcError, asyncio.CancelledError):
                    sending.raise_failure()
                    raise
                return None if message is grpc.aio.EOF else message
            case Pause(seconds):
                return await asyncio.sleep(seconds)
