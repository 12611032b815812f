"""The methods of all services that the clients call."""

from __future__ import annotations

from typing import Any

from ._proto.feature_store_pb2_grpc import FeatureStoreStub
from ._proto.prediction_pb2_grpc import PredictionStub


class Stubs:
    """One attribute a method, whichever service has it."""

    def __init__(self, channel: Any) -> None:
        for stub in (FeatureStoreStub(channel), PredictionStub(channel)):
            vars(self).update(vars(stub))
