"""Every call, written once for both clients.

A call is a generator: it yields what is to be done (a step), is sent what came of it, and returns its result.
`_client` does the steps with threads, `_async` on an event loop; nothing here touches the network.

    Unary     one message there, or a stream of them, and one back
    Open      messages there, a stream of messages back
    Receive   the next message of such a stream, None at its end; fails as what was sent there failed
    Pause     wait before another attempt
"""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import grpc

from ._answer import Answer, Metadata
from ._batch import BatchAnswerReader, BatchQuestion
from ._catalog import Catalog
from ._connection import Connection, seconds
from ._definitions import (
    KINDS,
    Definition,
    Entity,
    FeatureService,
    FeatureView,
    OnDemandFeatureView,
    PredictionRoute,
    Source,
)
from ._exceptions import InvalidError, NotFoundError, from_rpc_error
from ._online import OnlineQuestion
from ._predict import predict_answer, predict_request
from ._proto import feature_store_pb2 as pb
from ._push import Acknowledge, PushResult, push_messages
from ._signature import Definitions, Features
from ._status import ServerStatus
from ._times import Time

if TYPE_CHECKING:
    from ._entities import Entities, Spine


class Sending:
    """Messages on their way; what keeps the next one from being made is the caller's own error, not the network's."""

    def __init__(self, messages: Iterator[Any]) -> None:
        self._messages = messages
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._messages
        except Exception as error:
            self._failure = error
            raise

    def raise_failure(self) -> None:
        """Raises what kept a message from being made, if something did."""
        if self._failure is not None:
            raise self._failure


@dataclass(frozen=True)
class Unary:
    method: str
    request: Any
    timeout: float | None


@dataclass(frozen=True)
class Open:
    method: str
    messages: Sending
    timeout: float | None


@dataclass(frozen=True)
class Receive:
    stream: Any
    sending: Sending


@dataclass(frozen=True)
class Pause:
    seconds: float


T = TypeVar("T")
P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])
Steps: TypeAlias = Generator[Unary | Open | Receive | Pause, Any, T]


@dataclass
class OpenAnswer:
    """A batch answer whose rows are still to come."""

    stream: Any
    sending: Sending
    reader: BatchAnswerReader


def gathered(
    stream: Callable[Concatenate[Calls, P], Steps[OpenAnswer]],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Calls, P], Steps[Answer]]]:
    """A call that takes the arguments of `stream` and gives the whole answer; its documentation is given with it."""

    def documented(documentation: Callable[..., None]) -> Callable[Concatenate[Calls, P], Steps[Answer]]:
        def gather(calls: Calls, /, *args: P.args, **kwargs: P.kwargs) -> Steps[Answer]:
            answer = yield from stream(calls, *args, **kwargs)
            while (message := (yield from calls.receive(answer))) is not None:
                answer.reader.feed(message)
            return answer.reader.answer()

        functools.update_wrapper(gather, documentation)
        vars(gather)["__signature__"] = inspect.signature(stream).replace(return_annotation="Steps[Answer]")
        return gather

    return documented


def shown_as(core: Callable[..., Any], returns: str | None = None) -> Callable[[F], F]:
    """Names and documents a method of a client as the call it makes, with what its steps come to as its result."""

    def show(method: F) -> F:
        signature = inspect.signature(core)
        result = returns or str(signature.return_annotation).removeprefix("Steps[").removesuffix("]")
        functools.update_wrapper(method, core)
        vars(method)["__signature__"] = signature.replace(return_annotation=result)
        return method

    return show


class Calls:
    """The calls of one client, and what it remembers between them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.definitions: Definitions | None = None

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
    ) -> Steps[Answer]:
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
            timeout: Seconds this call may take, attempts and pauses together.

        >>> answer = client.get_online_features(
        ...     features="comfort_v1",
        ...     entities=[{"origin": "JFK", "wanted": 20.0}],
        ...     now="2024-01-01T01:30:00Z",
        ... )
        >>> answer.to_dict()
        {'origin': ['JFK'], 'wanted': [20.0], 'temp': [-4.0], 'gusts': [9007199254740993], 'too_cold_by': [24.0]}
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
        definitions = self.definitions or (yield from self._list(timeout))
        try:
            return (yield from self._ask(question, definitions, timeout))
        except (InvalidError, NotFoundError):
            # The definitions may have changed since they were listed.
            newer = yield from self._list(timeout)
            if newer == definitions:
                raise
            return (yield from self._ask(question, newer, timeout))

    def stream_batch_features(
        self,
        features: Features,
        entities: Spine | None = None,
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
    ) -> Steps[OpenAnswer]:
        """:meth:`get_batch_features` for answers that memory cannot hold: record batches as they come.

        Takes the same arguments. A spine that memory cannot hold is a ``pyarrow.RecordBatchReader``,
        which is read as it is sent.

        >>> with client.stream_batch_features(features=["origin_weather:temp"], as_of="2024-01-01T01:30:00Z") as stream:
        ...     sum(batch.num_rows for batch in stream)
        2
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

        def attempt(seconds: float | None) -> Steps[OpenAnswer]:
            sending = Sending(question.messages())
            stream = yield Open("GetBatchFeatures", sending, seconds)
            reader = BatchAnswerReader(with_statuses=statuses)
            # The first message says that the question was taken; from here on rows may have been given out.
            if (message := (yield Receive(stream, sending))) is not None:
                reader.feed(message)
            return OpenAnswer(stream, sending, reader)

        return (yield from self._tried(attempt, timeout, again=question.can_be_sent_again))

    @gathered(stream_batch_features)
    def get_batch_features() -> None:
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

        >>> spine = [{"origin": "JFK", "event_timestamp": datetime(2024, 1, 1, 1, 30)}]
        >>> client.get_batch_features(features=["origin_weather"], entities=spine).to_pandas()
          origin     event_timestamp  temp             gusts
        0    JFK 2024-01-01 01:30:00  -4.0  9007199254740993
        """

    def push(
        self,
        source: str,
        rows: Entities,
        *,
        acknowledge: Acknowledge = "durable",
        timeout: float | None = None,
    ) -> Steps[PushResult]:
        """Events of a source whose stream is pushed.

        A push is not tried again: rows of a source without an event id would count twice.

        Args:
            source: Name of the source.
            rows: All of the source's columns, in any of the forms of :meth:`get_online_features`.
            acknowledge: When the call returns: once the rows survive a crash (``durable``), are answered
                online, too (``visible``), or are on their way (``async``).
            timeout: Seconds this call may take; without it as long as it takes.
        """
        messages = push_messages(source, rows, acknowledge)

        def attempt(seconds: float | None) -> Steps[Any]:
            return (yield Unary("Push", messages, seconds))

        return PushResult.of((yield from self._tried(attempt, timeout, again=False)))

    def predict(
        self,
        route: str,
        entities: Entities,
        *,
        request: Mapping[str, Any] | None = None,
        prediction_ids: Sequence[str] | None = None,
        now: Time | None = None,
        timeout: float | None = None,
    ) -> Steps[Answer]:
        """What does a route, or a model, say about these entities?

        A prediction is not tried again: it may have been answered, and then stands in the log.

        Args:
            route: A route's name, or a model as ``name``, ``name@alias`` or ``name@version``.
            entities: Join keys and values that only the caller knows, in any of the forms of
                :meth:`get_online_features`. A feature among them wins over the store's value.
            request: More of such values by column.
            prediction_ids: One a row, by which the predictions are found in the log; else they are made.
            now: Stands in for the clock, if the server was started with ``--allow-request-time``.
            timeout: Seconds this call may take.

        Returns:
            The rows with the columns ``prediction``, ``model``, ``model_version``, ``prediction_id`` and
            ``defaults_used`` (the inputs for which neither the request nor the store had a value).
        """
        rows, response = yield from self._predict([route], entities, request, prediction_ids, now, timeout)
        return predict_answer(rows, response)

    def predict_all(
        self,
        routes: Sequence[str],
        entities: Entities,
        *,
        request: Mapping[str, Any] | None = None,
        prediction_ids: Sequence[str] | None = None,
        now: Time | None = None,
        timeout: float | None = None,
    ) -> Steps[dict[str, Answer]]:
        """What do several routes say about the same entities?

        What they read of one feature service is fetched once, all are answered by the same versions of models and
        definitions, and all of them or none.

        Args:
            routes: Names as of :meth:`predict`, each once.
            entities: As of :meth:`predict`; a column may be for some of the routes only.
            request: More of such values by column.
            prediction_ids: One a row, the same for every route; else each gets its own.
            now: Stands in for the clock, if the server was started with ``--allow-request-time``.
            timeout: Seconds this call may take.

        Returns:
            For each route what :meth:`predict` gives.
        """
        rows, response = yield from self._predict(routes, entities, request, prediction_ids, now, timeout)
        answers = [predict_answer(rows, each) for each in (response, *response.others)]
        return dict(zip(routes, answers, strict=True))

    def _predict(
        self,
        routes: Sequence[str],
        entities: Entities,
        request: Mapping[str, Any] | None,
        prediction_ids: Sequence[str] | None,
        now: Time | None,
        timeout: float | None,
    ) -> Steps[tuple[Any, Any]]:
        rows, message = predict_request(routes, entities, request, prediction_ids, now)

        def attempt(seconds: float | None) -> Steps[Any]:
            return (yield Unary("Predict", message, seconds))

        limit = self.connection.timeout if timeout is None else timeout
        return rows, (yield from self._tried(attempt, limit, again=False))

    def list_definitions(self, kind: str = "", *, timeout: float | None = None) -> Steps[list[dict[str, Any]]]:
        """The definitions the server answers from, each as a dict with its ``kind``.

        Args:
            kind: ``entities``, ``sources``, ``feature_views``, ``on_demand_feature_views``,
                ``feature_services`` or ``prediction_routes``; all if empty.
            timeout: Seconds this call may take.

        >>> [entity["name"] for entity in client.list_definitions("entities")]
        ['origin']
        """
        response = yield from self._call_list(kind, timeout)
        return [{"kind": definition.kind, **json.loads(definition.json)} for definition in response.definitions]

    def list_entities(self, *, timeout: float | None = None) -> Steps[list[Entity]]:
        """The entities that are applied."""
        return (yield from self._list_kind(Entity, timeout))

    def list_sources(self, *, timeout: float | None = None) -> Steps[list[Source]]:
        """The sources that are applied."""
        return (yield from self._list_kind(Source, timeout))

    def list_feature_views(self, *, timeout: float | None = None) -> Steps[list[FeatureView]]:
        """The feature views that are applied.

        >>> [view.name for view in client.list_feature_views()]
        ['origin_weather']
        """
        return (yield from self._list_kind(FeatureView, timeout))

    def list_on_demand_feature_views(self, *, timeout: float | None = None) -> Steps[list[OnDemandFeatureView]]:
        """The on-demand feature views that are applied."""
        return (yield from self._list_kind(OnDemandFeatureView, timeout))

    def list_feature_services(self, *, timeout: float | None = None) -> Steps[list[FeatureService]]:
        """The feature services that are applied."""
        return (yield from self._list_kind(FeatureService, timeout))

    def list_prediction_routes(self, *, timeout: float | None = None) -> Steps[list[PredictionRoute]]:
        """The prediction routes that are applied."""
        return (yield from self._list_kind(PredictionRoute, timeout))

    def describe_entity(self, name: str, *, timeout: float | None = None) -> Steps[Entity]:
        """One entity in full."""
        return (yield from self._describe(Entity, name, timeout))

    def describe_source(self, name: str, *, timeout: float | None = None) -> Steps[Source]:
        """One source in full."""
        return (yield from self._describe(Source, name, timeout))

    def describe_feature_view(self, name: str, *, timeout: float | None = None) -> Steps[FeatureView]:
        """One feature view in full.

        >>> client.describe_feature_view("origin_weather").ttl
        '3h'
        """
        return (yield from self._describe(FeatureView, name, timeout))

    def describe_on_demand_feature_view(self, name: str, *, timeout: float | None = None) -> Steps[OnDemandFeatureView]:
        """One on-demand feature view in full."""
        return (yield from self._describe(OnDemandFeatureView, name, timeout))

    def describe_feature_service(self, name: str, *, timeout: float | None = None) -> Steps[FeatureService]:
        """One feature service in full."""
        return (yield from self._describe(FeatureService, name, timeout))

    def describe_prediction_route(self, name: str, *, timeout: float | None = None) -> Steps[PredictionRoute]:
        """One prediction route in full."""
        return (yield from self._describe(PredictionRoute, name, timeout))

    def catalog(self, *, timeout: float | None = None) -> Steps[Catalog]:
        """What may be asked for, for completion: ``catalog.features.origin_weather.temp``.

        >>> catalog = client.catalog()
        >>> catalog.features.origin_weather.temp, catalog.services.comfort_v1
        ('origin_weather:temp', 'comfort_v1')
        """
        return Catalog((yield from self._list(timeout)))

    def status(self, *, timeout: float | None = None) -> Steps[ServerStatus]:
        """What the server serves, and how far each view is materialized.

        >>> client.status().project
        'client_test'
        """
        response = yield from self._unary("GetStatus", pb.GetStatusRequest(), timeout)
        return ServerStatus.of(response)

    def _ask(self, question: OnlineQuestion, definitions: Definitions, timeout: float | None) -> Steps[Answer]:
        request = question.request(definitions)
        response = yield from self._unary("GetOnlineFeatures", request, timeout)
        if response.registry_version != definitions.version:
            self.definitions = None
        return question.answer(request, response)

    def _list(self, timeout: float | None) -> Steps[Definitions]:
        self.definitions = Definitions.of((yield from self._call_list("", timeout)))
        return self.definitions

    def _list_kind(self, kind: type[D], timeout: float | None) -> Steps[list[D]]:
        response = yield from self._call_list(kind.kind, timeout)
        return [_definition(kind, json.loads(definition.json)) for definition in response.definitions]

    def _describe(self, kind: type[D], name: str, timeout: float | None) -> Steps[D]:
        definitions = yield from self._list(timeout)
        mapping = definitions.get(kind.kind, name)
        if mapping is None:
            raise NotFoundError(definitions.no_such(kind.kind, name))
        return _definition(kind, mapping)

    def _call_list(self, kind: str, timeout: float | None) -> Steps[pb.ListDefinitionsResponse]:
        if kind and kind not in KINDS:
            raise InvalidError(f"there is no kind `{kind}`; the kinds are {', '.join(KINDS)}")
        request = pb.ListDefinitionsRequest(kind=kind)
        response: pb.ListDefinitionsResponse = yield from self._unary("ListDefinitions", request, timeout)
        return response

    def _unary(self, method: str, request: Any, timeout: float | None) -> Steps[Any]:
        def attempt(seconds: float | None) -> Steps[Any]:
            return (yield Unary(method, request, seconds))

        return (yield from self._tried(attempt, self.connection.timeout if timeout is None else timeout))

    def receive(self, answer: OpenAnswer) -> Steps[Any]:
        """The next message of an answer that was opened, None at its end."""
        try:
            return (yield Receive(answer.stream, answer.sending))
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.connection.address) from error

    def _tried(
        self, attempt: Callable[[float | None], Steps[T]], timeout: float | None, again: bool = True
    ) -> Steps[T]:
        """What comes of an attempt, or of another one, if there is use in it and the call may take as long."""
        timeout = seconds(timeout, "timeout")
        deadline = None if timeout is None else time.monotonic() + timeout
        failed = 0
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                return (yield from attempt(left))
            except grpc.RpcError as error:
                failed += 1
                pause = self.connection.retries.pause(failed, error) if again else None
                if pause is None or (deadline is not None and time.monotonic() + pause >= deadline):
                    raise from_rpc_error(error, self.connection.address) from error
            yield Pause(pause)


D = TypeVar("D", bound=Definition)


def _definition(kind: type[D], mapping: Mapping[str, Any]) -> D:
    """A definition that a server told; keys of a later version than the client's are left out."""
    if kind is FeatureView and mapping.get("aggregations"):
        # They follow from the aggregations, and definition files do not have them.
        mapping = {key: value for key, value in mapping.items() if key != "features"}
    if kind is Source and isinstance(stream := mapping.get("stream"), Mapping):
        # They follow from the source's files or its schema.
        mapping = {**mapping, "stream": {key: value for key, value in stream.items() if key != "columns"}}
    return kind.from_dict(mapping, unknown="skip")
