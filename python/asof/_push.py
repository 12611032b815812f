"""A push from its rows to its messages, and from the server's message to its result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pyarrow as pa

from ._entities import to_table
from ._exceptions import InvalidError
from ._proto import feature_store_pb2 as pb

if TYPE_CHECKING:
    from ._entities import Entities

Acknowledge: TypeAlias = Literal["durable", "visible", "async"]

_ACKNOWLEDGE: dict[str, Any] = {"durable": pb.DURABLE, "visible": pb.VISIBLE, "async": pb.ASYNC}
_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class PushResult:
    """What became of pushed rows.

    Attributes:
        accepted: Rows that count.
        duplicates: Rows whose event id came before.
        ignored: Rows before the source's ``stream_from``.
        late: Rows later than the stream allows; they are among the dead letters, too.
        dead_letters: Rows that were refused, and accepted ones that an expression of a view fails for, once a view.
        problems: The first of these, counted from 0, and why.
    """

    accepted: int
    duplicates: int = 0
    ignored: int = 0
    late: int = 0
    dead_letters: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)

    @staticmethod
    def of(response: pb.PushResponse) -> PushResult:
        return PushResult(
            accepted=response.accepted,
            duplicates=response.duplicates,
            ignored=response.ignored,
            late=response.late,
            dead_letters=response.dead_letters,
            problems=[(problem.row, problem.reason) for problem in response.problems],
        )


def push_messages(source: str, rows: Entities, acknowledge: Acknowledge) -> Iterator[pb.PushRequest]:
    """The messages that carry the rows.

    >>> [message.source for message in push_messages("clicks", [{"page": "/"}], "durable")]
    ['clicks']
    """
    if acknowledge not in _ACKNOWLEDGE:
        raise InvalidError(f"`acknowledge` is {acknowledge!r}; it is 'durable', 'visible' or 'async'")
    table = to_table(rows, argument="rows", dicts_are_maps=True)
    return _messages(source, table, _ACKNOWLEDGE[acknowledge])


def _messages(source: str, table: pa.Table, acknowledge: Any) -> Iterator[pb.PushRequest]:
    for start in range(0, max(table.num_rows, 1), _BATCH_ROWS):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(start, _BATCH_ROWS))
        yield pb.PushRequest(source=source, acknowledge=acknowledge, arrow_ipc=sink.getvalue().to_pybytes())
