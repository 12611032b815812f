"""Spines and answers that memory does not hold."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import grpc
import pyarrow as pa
import pytest

import asof
from asof._proto import feature_store_pb2 as pb
from conftest import FakeStore

SCHEMA = pa.schema({"carrier": pa.string(), "event_timestamp": pa.timestamp("us", "UTC")})


def batches(count: int) -> Iterator[pa.RecordBatch]:
    for number in range(count):
        rows = pa.array(range(number * 1000, (number + 1) * 1000), pa.timestamp("us", "UTC"))
        yield pa.record_batch([pa.array(["UA"] * 1000), rows], schema=SCHEMA)


def test_a_reader_is_sent_as_it_is_read(client: asof.Client, store: FakeStore) -> None:
    store.table = pa.Table.from_batches(batches(50))
    reader = pa.RecordBatchReader.from_batches(SCHEMA, batches(50))
    with client.stream_batch_features(features=["delay"], entities=reader) as stream:
        assert stream.schema == store.table.schema
        assert pa.Table.from_batches(list(stream)).equals(store.table)
    assert store.spine is not None and store.spine.equals(store.table)


def test_the_stream_is_a_reader_for_others(client: asof.Client, store: FakeStore) -> None:
    store.table = pa.table({"carrier": ["UA"], "mean": [1.5]})
    store.batch_metadata = pb.BatchMetadata(registry_version=3)
    with client.stream_batch_features(features=["delay"], as_of="2024-01-01") as stream:
        assert stream.metadata.registry_version == 3
        assert stream.reader.read_all().equals(store.table)


def test_the_same_for_asyncio(client: asof.Client, store: FakeStore) -> None:
    store.table = pa.Table.from_batches(batches(20))

    async def read() -> list[pa.RecordBatch]:
        async with await client.async_.stream_batch_features(features=["delay"], entities=store.table) as stream:
            read = [batch async for batch in stream]
        await client.async_.close()
        return read

    assert pa.Table.from_batches(asyncio.run(read())).equals(store.table)


def test_an_error_on_the_way_is_one_of_ours(client: asof.Client, store: FakeStore) -> None:
    store.failures = [(grpc.StatusCode.NOT_FOUND, "there is no view `dely`")]
    with pytest.raises(asof.NotFoundError, match="dely"):
        client.stream_batch_features(features=["dely"], as_of="2024-01-01")


def test_remarks_come_with_the_first_message(client: asof.Client, store: FakeStore) -> None:
    store.batch_metadata = pb.BatchMetadata(warnings=["late"])
    with pytest.warns(asof.AsofWarning, match="late") as caught:
        client.stream_batch_features(features=["delay"], as_of="2024-01-01").close()
    assert caught[0].filename == __file__


def test_a_reader_has_its_request_values_with_it(client: asof.Client) -> None:
    reader = pa.RecordBatchReader.from_batches(SCHEMA, batches(1))
    with pytest.raises(asof.InvalidError, match="let the reader of `entities` carry"):
        client.get_batch_features(features=["delay"], entities=reader, request={"distance": [1.0]})


def test_memory_stays_flat(real_address: str) -> None:
    """Ten times the rows take no more memory, there and back; in a process of its own, whose peak is measured."""
    program = textwrap.dedent("""
        import resource, sys
        import pyarrow as pa
        import asof

        schema = pa.schema({"origin": pa.string(), "event_timestamp": pa.timestamp("us", "UTC"), "text": pa.string()})

        def batches(count):
            keys, texts = pa.array(["EWR", "JFK"] * 5000), pa.array(["x" * 100] * 10_000)
            times = pa.array([1704067200000000] * 10_000, pa.timestamp("us", "UTC"))
            for _ in range(count):
                yield pa.record_batch([keys, times, texts], schema=schema)

        def ask(client, count):
            spine = pa.RecordBatchReader.from_batches(schema, batches(count))
            with client.stream_batch_features(["origin_weather"], spine) as stream:
                assert sum(batch.num_rows for batch in stream) == count * 10_000
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        with asof.Client(sys.argv[1]) as client:
            print(ask(client, 20), ask(client, 200))
    """)
    done = subprocess.run([sys.executable, "-c", program, real_address], check=True, capture_output=True, text=True)
    few, many = (int(peak) for peak in done.stdout.split())
    # Two million rows are 240 MB each way.
    assert many - few < 60_000, f"peaks of {few} and {many} KiB"


def test_a_stream_that_is_left_early_is_stopped(client: asof.Client, store: FakeStore) -> None:
    store.table = pa.Table.from_batches(batches(200))
    with client.stream_batch_features(features=["delay"], as_of="2024-01-01") as stream:
        assert next(iter(stream)).num_rows == 1000
    assert not stream._opened.stream.is_active()

    async def leave() -> bool:
        async with await client.async_.stream_batch_features(features=["delay"], as_of="2024-01-01") as stream:
            async for batch in stream:
                assert batch.num_rows == 1000
                break
        done: bool = stream._opened.stream.done()
        await client.async_.close()
        return done

    assert asyncio.run(leave())


def test_an_answer_that_breaks_off_is_an_error(client: asof.Client, store: FakeStore) -> None:
    store.table, store.breaks_off_after = pa.Table.from_batches(batches(50)), 3
    with pytest.raises(asof.UnavailableError, match="going down"):
        client.get_batch_features(features=["delay"], as_of="2024-01-01")
    with client.stream_batch_features(features=["delay"], as_of="2024-01-01") as stream:
        with pytest.raises(asof.UnavailableError, match="going down"):
            list(stream)

    async def read() -> None:
        async with await client.async_.stream_batch_features(features=["delay"], as_of="2024-01-01") as stream:
            async for _ in stream:
                pass

    with pytest.raises(asof.UnavailableError, match="going down"):
        asyncio.run(read())
    # What was given out is not asked for again.
    assert len(store.asked) == 3


class _Broken(Exception):
    """Of the caller's own making."""


def broken() -> pa.RecordBatchReader:
    def rows() -> Iterator[pa.RecordBatch]:
        yield from batches(3)
        raise _Broken("the disk is gone")

    return pa.RecordBatchReader.from_batches(SCHEMA, rows())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_spine_that_fails_fails_with_its_own_error(client: asof.Client) -> None:
    with pytest.raises(_Broken, match="the disk is gone"):
        client.get_batch_features(features=["delay"], entities=broken())

    async def ask() -> None:
        try:
            await client.async_.get_batch_features(features=["delay"], entities=broken())
        finally:
            await client.async_.close()

    with pytest.raises(_Broken, match="the disk is gone"):
        asyncio.run(ask())


def test_a_batch_call_past_its_deadline_says_so(client: asof.Client, store: FakeStore) -> None:
    store.delay_secs, store.table = 0.5, pa.Table.from_batches(batches(1))
    with pytest.raises(asof.UnavailableError, match="within the deadline"):
        client.get_batch_features(features=["delay"], entities=store.table, timeout=0.1)

    async def ask() -> None:
        try:
            await client.async_.get_batch_features(features=["delay"], entities=store.table, timeout=0.1)
        finally:
            await client.async_.close()

    with pytest.raises(asof.UnavailableError, match="within the deadline"):
        asyncio.run(ask())


def test_a_stream_that_was_closed_says_so(client: asof.Client, store: FakeStore) -> None:
    store.table = pa.Table.from_batches(batches(200))
    with client.stream_batch_features(features=["delay"], as_of="2024-01-01") as stream:
        rows = iter(stream)
        next(rows)
    with pytest.raises(asof.InvalidError, match="the answer was closed"):
        next(rows)
    with pytest.raises(asof.InvalidError, match="the answer was closed"):
        list(stream)

    async def read() -> None:
        async with await client.async_.stream_batch_features(features=["delay"], as_of="2024-01-01") as stream:
            pass
        try:
            async for _ in stream:
                pass
        finally:
            await client.async_.close()

    with pytest.raises(asof.InvalidError, match="the answer was closed"):
        asyncio.run(read())
