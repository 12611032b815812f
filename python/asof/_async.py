"""The calls, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from ._answer import Answer, Metadata
from ._connection import CHANNEL_OPTIONS, Connection, definition_dicts
from ._exceptions import InvalidError, NotFoundError, from_rpc_error
from ._proto import feature_store_pb2 as pb
from ._proto.feature_store_pb2_grpc import FeatureStoreStub
from ._push import Acknowledge, PushResult, push_messages
from ._questions import BatchAnswerReader, BatchQuestion, OnlineQuestion
from ._signature import Definitions, Features
from ._times import Time

if TYPE_CHECKING:
    from ._entities import Entities


class AsyncClient:
    """The calls of :class:`~asof.Client` as coroutines; also at hand as ``client.async_``.

    The connection belongs to the event loop of the first call; in another loop a new one is made.

    Example::

        async with asof.AsyncClient("localhost:6566") as client:
            answer = await client.get_online_features(features="arrival_delay_v1", entities=[{"carrier": "UA"}])
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = 30.0,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._open(Connection.to(address, timeout, token, credentials))

    @classmethod
    def _with(cls, connection: Connection) -> AsyncClient:
        client = cls.__new__(cls)
        client._open(connection)
        return client

    def _open(self, connection: Connection) -> None:
        self._connection = connection
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Any = None
        self._stub: Any = None
        self._definitions: Definitions | None = None

    async def get_online_features(
        self,
        features: Features,
        entities: Entities,
        *,
        request: Mapping[str, Any] | None = None,
        timestamp_column: str | None = None,
        full_feature_names: bool = False,
        statuses: bool = False,
        event_timestamps: bool = False,
        now: Time | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """See :meth:`asof.Client.get_online_features`."""
        del timestamp_column
        question = OnlineQuestion.of(
            features,
            entities,
            request,
            full_feature_names=full_feature_names,
            statuses=statuses,
            event_timestamps=event_timestamps,
            now=now,
        )
        definitions = self._definitions or await self._list(timeout)
        try:
            return await self._ask(question, definitions, timeout)
        except (InvalidError, NotFoundError):
            # The definitions may have changed since they were listed.
            newer = await self._list(timeout)
            if newer == definitions:
                raise
            return await self._ask(question, newer, timeout)

    async def get_batch_features(
        self,
        features: Features,
        entities: Entities | None = None,
        *,
        start: Time | None = None,
        end: Time | None = None,
        as_of: Time | None = None,
        request: Mapping[str, Any] | None = None,
        timestamp_column: str | None = None,
        full_feature_names: bool = False,
        statuses: bool = False,
        as_known: bool = False,
        from_source: bool = False,
        versions: Metadata | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """See :meth:`asof.Client.get_batch_features`."""
        question = BatchQuestion.of(
            features,
            entities,
            request,
            timestamp_column=timestamp_column,
            start=start,
            end=end,
            as_of=as_of,
            full_feature_names=full_feature_names,
            statuses=statuses,
            as_known=as_known,
            from_source=from_source,
            versions=versions,
        )
        reader = BatchAnswerReader(with_statuses=statuses)
        try:
            stub = await self._connected()
            answers = stub.GetBatchFeatures(question.messages(), timeout=timeout, metadata=self._connection.metadata)
            async for message in answers:
                reader.feed(message)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._connection.address) from error
        return reader.answer(stacklevel=2)

    async def push(
        self,
        source: str,
        rows: Entities,
        *,
        acknowledge: Acknowledge = "durable",
        timeout: float | None = None,
    ) -> PushResult:
        """See :meth:`asof.Client.push`."""
        messages = push_messages(source, rows, acknowledge)
        try:
            stub = await self._connected()
            response = await stub.Push(messages, timeout=timeout, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._connection.address) from error
        return PushResult.of(response)

    async def list_definitions(self, kind: str = "", *, timeout: float | None = None) -> list[dict[str, Any]]:
        """See :meth:`asof.Client.list_definitions`."""
        return definition_dicts(await self._call_list(kind, timeout))

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

    async def _connected(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            address, credentials = self._connection.address, self._connection.credentials
            if credentials is None:
                self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
            self._stub, self._loop = FeatureStoreStub(self._channel), loop
        return self._stub

    async def _ask(self, question: OnlineQuestion, definitions: Definitions, timeout: float | None) -> Answer:
        request = question.request(definitions)
        response = await self._unary("GetOnlineFeatures", request, timeout)
        if response.registry_version != definitions.version:
            self._definitions = None
        return question.answer(request, response)

    async def _list(self, timeout: float | None) -> Definitions:
        self._definitions = Definitions.of(await self._call_list("", timeout))
        return self._definitions

    async def _call_list(self, kind: str, timeout: float | None) -> pb.ListDefinitionsResponse:
        response: pb.ListDefinitionsResponse = await self._unary(
            "ListDefinitions", pb.ListDefinitionsRequest(kind=kind), timeout
        )
        return response

    async def _unary(self, method: str, request: Any, timeout: float | None) -> Any:
        deadline = self._connection.timeout if timeout is None else timeout
        stub = await self._connected()
        try:
            return await getattr(stub, method)(request, timeout=deadline, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._connection.address) from error
