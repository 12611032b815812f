"""Pushed rows, and what became of them."""

from __future__ import annotations

import asyncio

import grpc
import pyarrow as pa
import pytest
from conftest import FakeStore

import asof
from asof._proto import feature_store_pb2 as pb

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
