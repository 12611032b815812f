"""Batch answers as they come: record batches, of which no more than a few are in memory."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ._answer import Metadata
from ._exceptions import InternalError, InvalidError

if TYPE_CHECKING:
    from ._calls import OpenAnswer


class _Pieces(io.RawIOBase):
    """The Arrow IPC of an answer, as a file that gets its bytes message by message."""

    def __init__(self, opened: OpenAnswer, receive: Callable[[], Any]) -> None:
        self._opened, self._receive = opened, receive
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece:
            message = self._receive()
            if message is None:
                return 0
            self._piece = memoryview(self._opened.reader.feed_piece(message))
        count = min(len(buffer), len(self._piece))
        buffer[:count], self._piece = self._piece[:count], self._piece[count:]
        return count


def _open(pieces: _Pieces) -> pa.RecordBatchReader:
    try:
        return pa.ipc.open_stream(io.BufferedReader(pieces, 1 << 20))
    except pa.ArrowException as error:
        raise InternalError(f"the answer is no Arrow IPC stream: {error}") from error


def _refuse_closed(is_closed: bool) -> None:
    if is_closed:
        raise InvalidError("the answer was closed; ask again for more of it")


class AnswerStream:
    """A batch answer on its way: iterate over its record batches, or give :attr:`reader` to what reads Arrow.

    Closing it before its end, which leaving its ``with`` block does, tells the server to stop.
    """

    def __init__(self, opened: OpenAnswer, receive: Callable[[], Any]) -> None:
        self._opened = opened
        self._is_closed = False
        self._reader = _open(_Pieces(opened, receive))

    @property
    def metadata(self) -> Metadata:
        """The versions the answer is made from, and the server's warnings."""
        return self._opened.reader.metadata()

    @property
    def schema(self) -> pa.Schema:
        """The columns of every batch."""
        return self._reader.schema

    @property
    def reader(self) -> pa.RecordBatchReader:
        """For ``pyarrow.dataset.write_dataset``, DuckDB, and whatever else takes a reader."""
        return self._reader

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while True:
            _refuse_closed(self._is_closed)
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return
            yield batch

    def close(self) -> None:
        """Stops the answer if it is still on its way."""
        self._is_closed = True
        self._opened.stream.cancel()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncAnswerStream:
    """:class:`AnswerStream` for asyncio: ``async for batch in stream``."""

    def __init__(self, opened: OpenAnswer, receive: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._opened, self._receive = opened, receive
        self._is_closed = False

    @property
    def metadata(self) -> Metadata:
        """The versions the answer is made from, and the server's warnings."""
        return self._opened.reader.metadata()

    async def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        loop = asyncio.get_running_loop()
        _refuse_closed(self._is_closed)

        def receive() -> Any:
            # Arrow reads in a thread; the messages come on the loop.
            return asyncio.run_coroutine_threadsafe(self._receive(), loop).result()

        reader = await asyncio.to_thread(_open, _Pieces(self._opened, receive))
        while (batch := await asyncio.to_thread(next, reader, None)) is not None:
            yield batch
            _refuse_closed(self._is_closed)

    async def close(self) -> None:
        """Stops the answer if it is still on its way."""
        self._is_closed = True
        self._opened.stream.cancel()

    async def __aenter__(self) -> AsyncAnswerStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
