"""Pushed rows, and what became of them."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator

import grpc
import pyarrow as pa
import pytest
from conftest import FakeStore

import asof
from asof._proto import feature_store_pb2 as pb
from asof._push import push_messages

COUNT = 40_000
ROWS = pa.table({"carrier": ["UA"] * COUNT, "delay": pa.array(range(COUNT))})
RESULT = asof.PushResult(accepted=COUNT - 1, dead_letters=1, problems=[(1, "no time")])


def test_rows_are_pushed_whole(client: asof.Client, store: FakeStore) -> None:
    assert client.push("arrivals", ROWS, acknowledge="visible") == RESULT
    assert store.spine is not None and store.spine.equals(ROWS)
    assert (store.asked[-1].source, store.asked[-1].acknowledge) == ("arrivals", pb.VISIBLE)


def test_the_same_for_asyncio(client: asof.Client, store: FakeStore) -> None:
    async def push() -> asof.PushResult:
        result = await client.async_.push("arrivals", ROWS.to_pandas())
        await client.async_.close()
        return result

    assert asyncio.run(push()) == RESULT
    assert store.spine is not None and store.spine["delay"].to_pylist() == list(range(COUNT))


def test_a_push_is_not_tried_again(client: asof.Client, store: FakeStore) -> None:
    store.failures = [(grpc.StatusCode.UNAVAILABLE, "going down")]
    with pytest.raises(asof.UnavailableError, match="going down"):
        client.push("arrivals", ROWS)
    assert len(store.asked) == 1


def test_an_acknowledgement_that_is_none_is_refused(client: asof.Client) -> None:
    with pytest.raises(asof.InvalidError, match="`acknowledge` is 'never'"):
        client.push("arrivals", ROWS, acknowledge="never")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def local(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[asof.Local]:
    """A project whose events are readings of a device, by a whole number."""
    columns = {"at": "timestamp", "device": "int64", "value": "float64", "level": "int32"}
    source = asof.Source(
        name="readings",
        stream={"type": "push"},
        event_timestamp="at",
        schema=[asof.Field(name, kind) for name, kind in columns.items()],
    )
    view = asof.FeatureView(
        name="newest",
        entities=[asof.Entity(name="device", join_keys=[asof.Field("device", "int64")])],
        source=source,
        features=[asof.Field("value", "float64"), asof.Field("level", "int32")],
    )
    del binary
    with asof.Local(tmp_path_factory.mktemp("readings"), create=True) as store:
        store.apply(view)
        yield store


def readings(values: pa.Array, levels: pa.Array) -> pa.Table:
    at = pa.array([1_700_000_000_000_000] * len(values), pa.timestamp("us", "UTC"))
    return pa.table({"at": at, "device": range(len(values)), "value": values, "level": levels})


def test_numbers_that_lose_nothing_are_taken(local: asof.Local) -> None:
    rows = readings(pa.array([1, None, 2**53]), pa.array([1.0, None, -(2.0**31)]))
    assert local.push("readings", rows, acknowledge="visible").accepted == 3
    answer = local.get_online_features(["newest"], {"device": [0, 1, 2]}).to_dict()
    assert answer == {"device": [0, 1, 2], "value": [1.0, None, 2.0**53], "level": [1, None, -(2**31)]}
    for column, wrong in (
        ("value", readings(pa.array([2**53 + 1]), pa.array([1]))),
        ("level", readings(pa.array([1.0]), pa.array([0.5]))),
        ("level", readings(pa.array([1.0]), pa.array([2**31]))),
        ("level", readings(pa.array([1.0]), pa.array([float("nan")]))),
    ):
        result = local.push("readings", wrong)
        ((row, reason),) = result.problems
        assert (result.accepted, result.dead_letters, row) == (0, 1, 0)
        assert re.search(f"column `{column}` of source .*: send values that it can hold", reason)
    with pytest.raises(asof.InvalidError, match="column `level` of source `readings` is string, declared int32"):
        local.push("readings", readings(pa.array([1.0]), pa.array(["one"])))


def test_the_message_is_about_rows(local: asof.Local) -> None:
    with pytest.raises(asof.InvalidError, match="`rows` is a int"):
        local.push("readings", 7)  # type: ignore[arg-type]


def test_the_stream_shows_in_status_and_lists(local: asof.Local) -> None:
    (stream,) = local.status().streams
    assert (stream.source, stream.dead_letters, stream.fault) == ("readings", 4, None)
    (source,) = local.list_sources()
    assert source.stream == {"type": "push"}


@pytest.mark.parametrize("device", ["18446744073709551615", '"18446744073709551615"', "9223372036854775808"])
def test_a_number_that_no_key_can_be_is_an_unknown_key_over_http(local: asof.Local, device: str) -> None:
    body = f'{{"features": ["newest:value"], "entities": {{"device": [{device}, null]}}}}'
    with urllib.request.urlopen(f"http://{local.http}/v1/get-online-features", body.encode()) as answer:
        key, value = json.load(answer)["columns"]
    assert (value["statuses"][0], value["values"][0]) == ("NOT_FOUND", None)
    assert str(key["values"][0]) == device.strip('"')


def test_dicts_are_maps() -> None:
    rows = [{"id": 1, "tags": {"a": 1}}, {"id": 2, "tags": None}, {"id": 3, "tags": {"b": None, "a": 2}}, {"id": 4, "tags": {}}]
    (message,) = push_messages("clicks", rows, "durable")
    table = pa.ipc.open_stream(message.arrow_ipc).read_all()
    assert table.schema.field("tags").type == pa.map_(pa.string(), pa.int64())
    assert table["tags"].to_pylist() == [[("a", 1)], None, [("b", None), ("a", 2)], []]
    with pytest.raises(asof.InvalidError, match="`tags` cannot be read: some values are dicts"):
        push_messages("clicks", [{"tags": {"a": 1}}, {"tags": 5}], "durable")
