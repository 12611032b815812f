"""A batch question from its arguments to its messages, and from the server's messages to its answer."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ._answer import Answer, AsofWarning, Metadata
from ._entities import to_spine
from ._exceptions import InternalError, InvalidError
from ._proto import feature_store_pb2 as pb
from ._signature import Features, selection
from ._times import Time, to_micros

_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class BatchQuestion:
    """What were these features worth at those moments?"""

    header: pb.BatchHeader
    spine: pa.Table | pa.RecordBatchReader | None

    @staticmethod
    def of(
        features: Features,
        entities: Any,
        request: Mapping[str, Any] | None,
        *,
        timestamp_column: str | None,
        start: Time | None,
        end: Time | None,
        as_of: Time | None,
        versions: Metadata | None,
        **options: Any,
    ) -> BatchQuestion:
        header = pb.BatchHeader(features=selection(features), **options)
        if versions is not None and not isinstance(versions, Metadata):
            raise InvalidError(f"`versions` is {versions!r}; give the `metadata` of an earlier answer")
        if versions is not None:
            header.registry_version = versions.registry_version
            for view, version in versions.tables.items():
                header.table_versions.add(view=view, version=version)
        ways = {
            "entities": entities is not None,
            "start and end": start is not None or end is not None,
            "as_of": as_of is not None,
        }
        given = [way for way, is_given in ways.items() if is_given]
        if len(given) != 1:
            raise InvalidError(f"{' with '.join(given) or 'no times'} given; give one of {', '.join(ways)}")
        if entities is not None:
            header.spine.timestamp_column = timestamp_column or ""
            return BatchQuestion(header, to_spine(entities, request))
        if request is not None:
            raise InvalidError("`request` has a value for each row of `entities`; give `entities` with it")
        if as_of is not None:
            header.as_of = to_micros(as_of, "as_of")
        elif start is None or end is None:
            missing = "start" if start is None else "end"
            raise InvalidError(f"`{missing}` is missing; a range is [start, end)")
        else:
            header.range.start, header.range.end = to_micros(start, "start"), to_micros(end, "end")
        return BatchQuestion(header, None)

    @property
    def can_be_sent_again(self) -> bool:
        """Whether the spine is still there after it was sent."""
        return not isinstance(self.spine, pa.RecordBatchReader)

    def messages(self) -> Iterator[pb.GetBatchFeaturesRequest]:
        """The header, then the spine piece by piece."""
        yield pb.GetBatchFeaturesRequest(header=self.header)
        if self.spine is not None:
            for piece in _ipc_pieces(self.spine):
                yield pb.GetBatchFeaturesRequest(spine=piece)


def _ipc_pieces(rows: pa.Table | pa.RecordBatchReader) -> Iterator[bytes]:
    """An Arrow IPC stream of the rows, written as it is read."""
    sink = io.BytesIO()

    def drain() -> Iterator[bytes]:
        written = sink.getbuffer()
        for start in range(0, len(written), _CHUNK_BYTES):
            yield bytes(written[start : start + _CHUNK_BYTES])
        written.release()
        sink.seek(0)
        sink.truncate()

    with pa.ipc.new_stream(sink, rows.schema) as writer:
        for batch in rows.to_batches(max_chunksize=_BATCH_ROWS) if isinstance(rows, pa.Table) else rows:
            writer.write_batch(batch)
            yield from drain()
    yield from drain()


class BatchAnswerReader:
    """Gathers the messages of a batch answer."""

    def __init__(self, with_statuses: bool) -> None:
        self._with_statuses = with_statuses
        self._metadata = pb.BatchMetadata()
        self._pieces: list[bytes] = []

    def feed(self, message: pb.GetBatchFeaturesResponse) -> None:
        """Keeps what the message carries."""
        if piece := self.feed_piece(message):
            self._pieces.append(piece)

    def feed_piece(self, message: pb.GetBatchFeaturesResponse) -> bytes:
        """The piece of Arrow IPC in the message, if there is one; the server's remarks are warnings at once."""
        if message.WhichOneof("part") == "metadata":
            self._metadata.MergeFrom(message.metadata)
            for text in message.metadata.warnings:
                warnings.warn(text, AsofWarning, stacklevel=_level_of_caller())
        return message.arrow_ipc

    def metadata(self) -> Metadata:
        """What the answer is made from, as far as it was told."""
        return Metadata(
            registry_version=self._metadata.registry_version,
            tables={table.view: table.version for table in self._metadata.tables},
            warnings=tuple(self._metadata.warnings),
        )

    def answer(self) -> Answer:
        """The whole answer."""
        try:
            table = pa.ipc.open_stream(b"".join(self._pieces)).read_all()
        except (pa.ArrowException, OSError) as error:
            raise InternalError(f"the answer is not a whole Arrow IPC stream: {error}") from error
        self._pieces.clear()
        names = set(table.column_names) if self._with_statuses else set()
        statuses = {name: table[f"{name}__status"] for name in table.column_names if f"{name}__status" in names}
        return Answer(table, self.metadata(), statuses)


def _level_of_caller() -> int:
    """How many frames above the function that asks the code is that called this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    return level
