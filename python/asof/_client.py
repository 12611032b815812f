"""The calls, for threads."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from ._answer import Answer, Metadata
from ._async import AsyncClient
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


class Client:
    """A connection to an Asof server; threads may share it.

    Connects at the first call, and again whenever the connection breaks.

    Args:
        address: ``host:port`` of the server's gRPC port.
        timeout: Seconds that a call may take, if the call does not say otherwise; batch calls, whose
            length depends on their data, have no deadline of their own.
        token: Sent with every call, as ``asof tokens create`` printed it.
        credentials: For TLS, ``grpc.ssl_channel_credentials(...)``.

    >>> client = Client("localhost:6566")
    >>> client.close()
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = 30.0,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._connection = Connection.to(address, timeout, token, credentials)
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._stub: Any = FeatureStoreStub(self._channel)
        self._definitions: Definitions | None = None
        self._async = AsyncClient._with(self._connection)

    @property
    def async_(self) -> AsyncClient:
        """The same calls for asyncio."""
        return self._async

    def get_online_features(
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
        """What are these features worth now, for these entities?

        Takes what :meth:`get_batch_features` takes: of the columns of `entities` the join keys and the
        values that on-demand features take from the request are used; the others, a time column among
        them, are carried along into the answer.

        Args:
            features: A feature service's name, or a list of ``view:feature`` and ``view``.
            entities: A list of dicts, a dict of lists, an Arrow table, or a pandas or polars frame.
            request: Request values by column, in addition to those in `entities`.
            timestamp_column: Not used: the time is now.
            full_feature_names: Name columns ``view__feature``.
            statuses: Add a column ``feature__status`` after each feature.
            event_timestamps: Fill :attr:`Answer.event_timestamps`.
            now: Stands in for the clock, if the server was started with ``--allow-request-time``.
            timeout: Seconds this call may take.

        Example::

            client.get_online_features(
                features="arrival_delay_v1",
                entities=[{"carrier": "UA", "origin": "EWR", "dest": "IAH"}],
            ).to_dict()
        """
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
        definitions = self._definitions or self._list(timeout)
        try:
            return self._ask(question, definitions, timeout)
        except (InvalidError, NotFoundError):
            # The definitions may have changed since they were listed.
            newer = self._list(timeout)
            if newer == definitions:
                raise
            return self._ask(question, newer, timeout)

    def get_batch_features(
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
        """What were these features worth at those past moments?

        The moments are those of a spine, or every (key, event timestamp) of the asked views in
        ``[start, end)``, or one moment for every known key.

        Args:
            features: A feature service's name, or a list of ``view:feature`` and ``view``.
            entities: The spine: rows of join keys and times, in any of the forms of
                :meth:`get_online_features`. Its other columns are carried along.
            start: Begin of the range, inclusive; a datetime (UTC where it has no offset), a date, or RFC 3339.
            end: End of the range, exclusive.
            as_of: The one moment.
            request: Request values by column, in addition to those in `entities`.
            timestamp_column: Column of the times; else ``event_timestamp``, else the only timestamp column.
            full_feature_names: Name columns ``view__feature``.
            statuses: Add a column ``feature__status`` after each feature.
            as_known: Look only at rows that had been written down at the asked time.
            from_source: Compute from the sources, without materialized tables.
            versions: The ``metadata`` of an earlier answer: read the tables, and the definitions, as they were for it.
                The same question then has the same answer.
            timeout: Seconds this call may take; without it as long as it takes.

        Example::

            spine = pandas.read_parquet("labels.parquet")    # carrier, origin, dest, event_timestamp, label
            train = client.get_batch_features(features="arrival_delay_v1", entities=spine).to_pandas()
        """
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
            answers = self._stub.GetBatchFeatures(
                question.messages(), timeout=timeout, metadata=self._connection.metadata
            )
            for message in answers:
                reader.feed(message)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._connection.address) from error
        return reader.answer(stacklevel=2)

    def push(
        self,
        source: str,
        rows: Entities,
        *,
        acknowledge: Acknowledge = "durable",
        timeout: float | None = None,
    ) -> PushResult:
        """Events of a source whose stream is pushed.

        Args:
            source: Name of the source.
            rows: All of the source's columns, in any of the forms of :meth:`get_online_features`.
            acknowledge: When the call returns: once the rows survive a crash (``durable``), are answered
                online, too (``visible``), or are on their way (``async``).
            timeout: Seconds this call may take; without it as long as it takes.

        Example::

            client.push("arrivals", pandas.DataFrame({"carrier": ["UA"], "arr_delay": [7.0], "landed_at": [now]}))
        """
        messages = push_messages(source, rows, acknowledge)
        try:
            response = self._stub.Push(messages, timeout=timeout, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._connection.address) from error
        return PushResult.of(response)

    def list_definitions(self, kind: str = "", *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The definitions the server answers from, as their files have them, each with its `kind`.

        Args:
            kind: One of entities, sources, feature_views, on_demand_feature_views, feature_services; else all.
            timeout: Seconds this call may take.
        """
        return definition_dicts(self._call_list(kind, timeout))

    def close(self) -> None:
        """Ends the connection and the calls that are under way; :attr:`async_` is closed by itself."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: OnlineQuestion, definitions: Definitions, timeout: float | None) -> Answer:
        request = question.request(definitions)
        response = self._unary(self._stub.GetOnlineFeatures, request, timeout)
        if response.registry_version != definitions.version:
            self._definitions = None
        return question.answer(request, response)

    def _list(self, timeout: float | None) -> Definitions:
        self._definitions = Definitions.of(self._call_list("", timeout))
        return self._definitions

    def _call_list(self, kind: str, timeout: float | None) -> pb.ListDefinitionsResponse:
        response: pb.ListDefinitionsResponse = self._unary(
            self._stub.ListDefinitions, pb.ListDefinitionsRequest(kind=kind), timeout
        )
        return response

    def _unary(self, method: Any, request: Any, timeout: float | None) -> Any:
        deadline = self._connection.timeout if timeout is None else timeout
        try:
            return method(request, timeout=deadline, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._connection.address) from error
