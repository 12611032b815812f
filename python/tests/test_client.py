"""Both clients against a server in this process."""

from __future__ import annotations

import asyncio
import datetime as dt
import pickle
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pandas
import pyarrow as pa
import pytest

import asof
from asof._columns import encode
from asof._proto import feature_store_pb2 as pb
from conftest import FakeStore

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
Call = Callable[..., asof.Answer]


@pytest.fixture(params=["threads", "asyncio"])
def call(request: pytest.FixtureRequest, client: asof.Client) -> Call:
    """Calls a method by name, of either client."""
    if request.param == "threads":
        return lambda name, *args, **options: getattr(client, name)(*args, **options)

    async def run(name: str, *args: Any, **options: Any) -> Any:
        try:
            return await getattr(client.async_, name)(*args, **options)
        finally:
            await client.async_.close()

    return lambda name, *args, **options: asyncio.run(run(name, *args, **options))


def feature(name: str, values: list[Any], statuses: list[Any], type_name: str = "float64") -> pb.Column:
    column = encode(name, pa.array(values), type_name)
    column.statuses.extend(statuses)
    return column


def sent(columns: Any) -> dict[str, str]:
    return {column.name: column.type for column in columns}


def test_the_online_call_sends_what_is_needed_and_carries_the_rest(call: Call, store: FakeStore) -> None:
    store.columns = [feature("delay_per_mile", [0.5, None], [pb.PRESENT, pb.NOT_FOUND])]
    spine = pandas.DataFrame(
        {"label": [1, 0], "carrier": ["UA", "AA"], "event_timestamp": [NOON, NOON], "dest": [3, 4], "distance": [9, 8]}
    )
    answer = call("get_online_features", features="trip_v1", entities=spine)

    asked = store.asked[-1]
    assert asked.features.feature_service == "trip_v1"
    assert sent(asked.entities) == {"carrier": "string", "dest": "int32"}
    assert sent(asked.request) == {"distance": "float64"}
    assert answer.to_dict() == {
        "label": [1, 0],
        "carrier": ["UA", "AA"],
        "event_timestamp": [NOON, NOON],
        "dest": [3, 4],
        "distance": [9, 8],
        "delay_per_mile": [0.5, None],
    }
    assert answer.statuses == {"delay_per_mile": [asof.Status.PRESENT, asof.Status.NOT_FOUND]}
    assert answer.metadata == asof.Metadata(registry_version=1)


def test_online_options_are_sent(call: Call, store: FakeStore) -> None:
    column = feature("mean", [1.0], [pb.PRESENT])
    column.event_timestamps.append(0)
    store.columns = [column]
    answer = call(
        "get_online_features",
        features=["delay:mean"],
        entities={"carrier": ["UA"]},
        full_feature_names=True,
        statuses=True,
        event_timestamps=True,
        now="1970-01-01T00:00:01Z",
        timestamp_column="whatever",
    )
    asked = store.asked[-1]
    assert list(asked.features.features) == ["delay:mean"]
    assert asked.full_feature_names and asked.event_timestamps and asked.now == 1_000_000
    assert answer.to_dict() == {"carrier": ["UA"], "mean": [1.0], "mean__status": ["PRESENT"]}
    assert answer.event_timestamps == {"mean": [datetime(1970, 1, 1, tzinfo=UTC)]}


def test_request_values_may_come_apart(call: Call, store: FakeStore) -> None:
    call("get_online_features", features=["trip"], entities=[{"carrier": "UA"}], request={"distance": [100]})
    assert sent(store.asked[-1].request) == {"distance": "float64"}
    assert list(store.asked[-1].request[0].doubles.values) == [100.0]


def test_no_rows_are_a_question_too(call: Call, store: FakeStore) -> None:
    store.columns = [feature("mean", [], [])]
    answer = call("get_online_features", features="delay:mean", entities=[])
    assert sent(store.asked[-1].entities) == {"carrier": "string"}
    assert answer.to_dict() == {"mean": []}


def test_features_of_no_entity_come_once_a_row(call: Call, store: FakeStore) -> None:
    store.definitions.append(("feature_views", {"name": "world", "features": [{"name": "load", "type": "float64"}]}))
    store.columns = [feature("load", [0.5, 0.5], [pb.PRESENT, pb.PRESENT])]
    answer = call("get_online_features", features=["world"], entities={"label": [1, 0]})
    assert [len(column.validity) for column in store.asked[-1].entities] == [1], "a column says how many rows there are"
    assert answer.to_dict() == {"label": [1, 0], "load": [0.5, 0.5]}


def test_definitions_are_listed_once_and_again_when_they_changed(client: asof.Client, store: FakeStore) -> None:
    def ask() -> None:
        client.get_online_features(features=["delay"], entities=[{"carrier": "UA", "airport": 7}])

    ask()
    ask()
    assert store.listed == 1
    # A new version that keeps the keys: the next call knows it.
    store.registry_version = 2
    ask()
    ask()
    assert store.listed == 2
    # A new version that does not: the server refuses the old columns, and the call is made again.
    store.registry_version = 3
    store.definitions[2] = ("feature_views", {"name": "delay", "entities": ["airport"], "features": []})
    store.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "column `airport` is missing")]
    ask()
    assert store.listed == 3
    assert sent(store.asked[-1].entities) == {"airport": "int32"}


def test_a_column_named_like_a_feature_is_refused(call: Call, store: FakeStore) -> None:
    store.columns = [feature("mean", [1.0], [pb.PRESENT])]
    with pytest.raises(asof.InvalidError, match="column `mean` of `entities` is named like an asked feature"):
        call("get_online_features", features="delay:mean", entities=[{"carrier": "UA", "mean": 1}])
    with pytest.raises(asof.InvalidError, match="named like the status of an asked feature"):
        sent = [{"carrier": "UA", "mean__status": "mine"}]
        call("get_online_features", features="delay:mean", entities=sent, statuses=True)


def test_a_key_of_another_type_is_refused_by_name(call: Call) -> None:
    with pytest.raises(asof.InvalidError, match="column `carrier` is int64 and is declared string"):
        call("get_online_features", features=["delay"], entities=[{"carrier": 7}])


def test_a_spine_is_streamed_whole(call: Call, store: FakeStore) -> None:
    count = 300_000
    spine = pa.table({"carrier": ["UA"] * count, "event_timestamp": pa.array(range(count), pa.timestamp("us", "UTC"))})
    store.table = spine.append_column("mean", pa.array([0.5] * count))
    store.batch_metadata = pb.BatchMetadata(registry_version=4, tables=[pb.TableVersion(view="delay", version=7)])
    answer = call(
        "get_batch_features", features="trip_v1", entities=spine, timestamp_column="event_timestamp", as_known=True
    )
    header = store.asked[-1]
    assert header.features.feature_service == "trip_v1"
    assert header.spine.timestamp_column == "event_timestamp"
    assert header.as_known and not (header.from_source or header.full_feature_names or header.statuses)
    assert store.spine is not None and store.spine.equals(spine)
    assert answer.to_arrow().equals(store.table)
    assert answer.metadata == asof.Metadata(registry_version=4, tables={"delay": 7})


def test_times_may_be_a_range_or_a_moment(call: Call, store: FakeStore) -> None:
    call("get_batch_features", features=["delay"], start="1970-01-01T00:00:01Z", end=NOON)
    assert (store.asked[-1].range.start, store.asked[-1].range.end) == (1_000_000, int(NOON.timestamp()) * 1_000_000)
    call("get_batch_features", features=["delay"], as_of="1970-01-01T00:00:02Z")
    assert store.asked[-1].as_of == 2_000_000
    assert store.spine is None


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({}, "no times given; give one of entities, start and end, as_of"),
        ({"entities": [], "as_of": NOON}, "entities with as_of given"),
        ({"start": NOON}, "`end` is missing"),
        ({"end": NOON}, "`start` is missing"),
        ({"as_of": NOON, "request": {"distance": [1.0]}}, "`request` has a value for each row"),
    ],
)
def test_times_come_one_way(call: Call, times: dict[str, Any], message: str) -> None:
    with pytest.raises(asof.InvalidError, match=message):
        call("get_batch_features", features="trip_v1", **times)


def test_batch_statuses_are_columns_too(call: Call, store: FakeStore) -> None:
    store.table = pa.table({"carrier": ["UA"], "mean": [1.0], "mean__status": ["PRESENT"]})
    answer = call("get_batch_features", features=["delay"], entities=store.table.select(["carrier"]), statuses=True)
    assert answer.statuses == {"mean": [asof.Status.PRESENT]}
    assert store.asked[-1].statuses


def test_remarks_of_the_server_are_warnings_at_the_caller(client: asof.Client, store: FakeStore) -> None:
    store.batch_metadata = pb.BatchMetadata(warnings=["view `delay` is materialized up to 2024-01-01"])
    with pytest.warns(asof.AsofWarning, match="materialized up to") as caught:
        answer = client.get_batch_features(features=["delay"], as_of=NOON)
    assert caught[0].filename == __file__
    assert answer.metadata.warnings == ("view `delay` is materialized up to 2024-01-01",)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, asof.InvalidError),
        (grpc.StatusCode.NOT_FOUND, asof.NotFoundError),
        (grpc.StatusCode.FAILED_PRECONDITION, asof.PreconditionError),
        (grpc.StatusCode.UNAUTHENTICATED, asof.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, asof.DeniedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, asof.ExhaustedError),
        (grpc.StatusCode.ABORTED, asof.ConflictError),
        (grpc.StatusCode.UNAVAILABLE, asof.UnavailableError),
        (grpc.StatusCode.DATA_LOSS, asof.CorruptError),
        (grpc.StatusCode.INTERNAL, asof.InternalError),
        (grpc.StatusCode.UNIMPLEMENTED, asof.InternalError),
    ],
)
@pytest.mark.parametrize("name", ["get_online_features", "get_batch_features"])
def test_errors_are_named_for_what_to_do(
    call: Call, store: FakeStore, name: str, code: grpc.StatusCode, kind: type[asof.AsofError]
) -> None:
    store.failures = [(code, "do this instead")] * 2
    store.pushback = -1
    with pytest.raises(kind, match="do this instead") as error:
        call(name, features=["delay"], entities=[{"carrier": "UA"}])
    assert type(error.value) is kind
    assert isinstance(error.value, asof.AsofError)


def test_a_token_goes_with_every_call(address: str, store: FakeStore) -> None:
    with asof.Client(address, token="secret") as client:
        client.get_batch_features(features=["delay"], as_of=NOON)
        assert store.metadata["authorization"] == "Bearer secret"


def test_nobody_there_is_unavailable() -> None:
    with asof.Client("127.0.0.1:1", timeout=5) as client:
        with pytest.raises(asof.UnavailableError, match=r"127\.0\.0\.1:1 is not available"):
            client.get_online_features(features=["delay"], entities=[{"carrier": "UA"}])


def test_a_missed_deadline_says_so(address: str, store: FakeStore) -> None:
    store.delay_secs = 0.5
    with asof.Client(address) as client:
        with pytest.raises(asof.UnavailableError, match="did not answer within the deadline"):
            client.get_online_features(features=["delay"], entities=[{"carrier": "UA"}], timeout=0.1)


def test_a_url_is_no_address() -> None:
    with pytest.raises(asof.InvalidError, match="give host:port"):
        asof.Client("http://localhost:6566")


def test_definitions_are_dicts(client: asof.Client) -> None:
    (service,) = client.list_definitions("feature_services")
    assert service["kind"] == "feature_services" and service["name"] == "trip_v1"


def test_one_async_client_serves_one_loop_after_another(client: asof.Client, store: FakeStore) -> None:
    def ask() -> Awaitable[asof.Answer]:
        return client.async_.get_online_features(features=["delay"], entities=[{"carrier": "UA"}])

    async def both() -> None:
        await asyncio.gather(ask(), ask())
        await client.async_.close()

    asyncio.run(both())
    asyncio.run(both())
    assert len(store.asked) == 4


def test_an_answer_travels_to_other_processes(client: asof.Client, store: FakeStore) -> None:
    mean = encode("mean", pa.array([1.5, None]), "float64")
    mean.statuses.extend([pb.PRESENT, pb.NOT_FOUND])
    mean.event_timestamps.extend([1_000_000, 0])
    mean.event_timestamps_validity = b"\x01"
    store.columns = [mean]
    rows = [{"carrier": "UA"}, {"carrier": "AA"}]
    for asked in (False, True):
        answer = client.get_online_features(["delay"], rows, statuses=asked, event_timestamps=asked)
        there = pickle.loads(pickle.dumps(answer))
        assert there.to_arrow().equals(answer.to_arrow()) and there.to_dict() == answer.to_dict()
        assert (there.statuses, there.event_timestamps) == (answer.statuses, answer.event_timestamps)
        assert (there.metadata, len(there)) == (answer.metadata, 2)


@pytest.mark.parametrize("features", [None, 7, ["delay", 7]])
def test_features_that_are_none_are_refused(client: asof.Client, features: Any) -> None:
    with pytest.raises(asof.InvalidError, match="`features` is .*; give a feature service's name"):
        client.get_online_features(features, [{"carrier": "UA"}])
    with pytest.raises(asof.InvalidError, match="`features` is"):
        client.get_batch_features(features, as_of="2024-01-01")


def test_versions_are_those_of_an_answer(client: asof.Client) -> None:
    with pytest.raises(asof.InvalidError, match="`versions` is 'x'; give the `metadata` of an earlier answer"):
        client.get_batch_features(["delay"], as_of="2024-01-01", versions="x")  # type: ignore[arg-type]


def test_a_source_is_listed_as_its_file_has_it(client: asof.Client, store: FakeStore) -> None:
    columns = [{"name": "at", "type": "timestamp"}]
    source = {"name": "clicks", "stream": {"type": "push", "columns": columns}, "schema": columns}
    store.definitions = [("sources", source)]
    (listed,) = client.list_sources()
    assert listed.stream == {"type": "push"}
    assert client.list_definitions("sources")[0]["stream"]["columns"] == columns


def test_streams_are_part_of_the_status(client: asof.Client, store: FakeStore) -> None:
    store.status.streams.add(source="clicks", watermark=1_000_000, accepted=7, late=1)
    store.status.streams.add(source="quiet")
    first, second = client.status().streams
    assert (first.source, first.accepted, first.late) == ("clicks", 7, 1)
    assert first.watermark == dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC) and second.watermark is None
    assert "clicks" in client.status()._repr_html_()
