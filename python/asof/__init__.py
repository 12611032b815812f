"""Client of the Asof feature store.

One question in two tenses: what were these features worth at those moments
(:meth:`Client.get_batch_features`), and what are they worth now
(:meth:`Client.get_online_features`)? Events come in by :meth:`Client.push`.

    Client, AsyncClient     the calls, for threads and for asyncio
      Tls                   certificates of a connection
    Local                   a client with a server of its own
    Answer                  what both calls give back
      Status                how a value came about
      Metadata              what the answer was made from
    AnswerStream            a batch answer too large for memory
    AsyncAnswerStream       the same for asyncio
    PushResult              what became of pushed rows
    Catalog                 what may be asked for, completed in notebooks
      FeatureReference      ``view:feature``
    ServerStatus            what a server serves
      ViewStatus            how far one view is materialized
      StreamStatus          how a source's stream stands
    DefinitionSet           definitions as files
      Definition            what each of them has
        Entity              what features describe
        Source              rows that features are read from
          Batch             where they are
        View                what a service names features of
          FeatureView       named features of entities
            Aggregation     a function over windows
          OnDemandFeatureView
                            features of expressions
            OnDemandFeature one of them
        FeatureService      what one model reads
          Projection        features of one view in it
        PredictionRoute     what callers ask for predictions by
          RouteStep         one of its models after each other
          Shadow            a model that sees what it sees
          Experiment        models that share its traffic
            Variant         one of them
          PredictionLog     what is remembered of its predictions
      Field                 a named and typed column
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
from ._catalog import Catalog, FeatureReference
from ._client import Client
from ._connection import Tls
from ._definition_files import DefinitionSet
from ._definitions import (
    Aggregation,
    Batch,
    Definition,
    Entity,
    Experiment,
    FeatureService,
    FeatureView,
    Field,
    OnDemandFeature,
    OnDemandFeatureView,
    PredictionLog,
    PredictionRoute,
    Projection,
    RouteStep,
    Shadow,
    Source,
    Variant,
    View,
)
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
from ._local import Local
from ._push import PushResult
from ._status import ServerStatus, StreamStatus, ViewStatus
from ._stream import AnswerStream, AsyncAnswerStream

__version__ = "0.1.0"

__all__ = [
    "Aggregation",
    "Answer",
    "AnswerStream",
    "AsofError",
    "AsofWarning",
    "AsyncAnswerStream",
    "AsyncClient",
    "Batch",
    "Catalog",
    "Client",
    "ConflictError",
    "CorruptError",
    "Definition",
    "DefinitionSet",
    "DeniedError",
    "Entity",
    "ExhaustedError",
    "Experiment",
    "FeatureReference",
    "FeatureService",
    "FeatureView",
    "Field",
    "InternalError",
    "InvalidError",
    "Local",
    "Metadata",
    "NotFoundError",
    "OnDemandFeature",
    "OnDemandFeatureView",
    "PreconditionError",
    "PredictionLog",
    "PredictionRoute",
    "Projection",
    "PushResult",
    "RouteStep",
    "ServerStatus",
    "Shadow",
    "Source",
    "Status",
    "StreamStatus",
    "Tls",
    "UnauthenticatedError",
    "UnavailableError",
    "Variant",
    "View",
    "ViewStatus",
]
