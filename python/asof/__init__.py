"""Client of the Asof feature store.

One question in two tenses: what were these features worth at those moments
(:meth:`Client.get_batch_features`), and what are they worth now
(:meth:`Client.get_online_features`)? Events come in by :meth:`Client.push`.

    Client, AsyncClient     the calls, for threads and for asyncio
    Answer                  what both calls give back
      Status                how a value came about
      Metadata              what the answer was made from
    PushResult              what became of pushed rows
    AsofWarning             what the server remarks about an answer
    AsofError
      InvalidError          fix the call or the definition; also a ValueError
      NotFoundError         name something that exists; also a LookupError
      PreconditionError     do something else first: apply, materialize, configure
      UnauthenticatedError  send a token
      DeniedError           ask for the role; also a PermissionError
      ExhaustedError        ask for less, or later
      ConflictError         somebody else was faster: read again and retry
      UnavailableError      retry later; also a ConnectionError
      CorruptError          repair the data
      InternalError         report a bug
"""

from ._answer import Answer, AsofWarning, Metadata, Status
from ._async import AsyncClient
from ._client import Client
from ._exceptions import (
    AsofError,
    ConflictError,
    CorruptError,
    DeniedError,
    ExhaustedError,
    InternalError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)
from ._push import PushResult

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AsofError",
    "AsofWarning",
    "AsyncClient",
    "Client",
    "ConflictError",
    "CorruptError",
    "DeniedError",
    "ExhaustedError",
    "InternalError",
    "InvalidError",
    "Metadata",
    "NotFoundError",
    "PreconditionError",
    "PushResult",
    "Status",
    "UnauthenticatedError",
    "UnavailableError",
]
