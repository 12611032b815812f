from asof._proto import feature_store_pb2 as _feature_store_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PredictRequest(_message.Message):
    __slots__ = ("route", "entities", "request", "prediction_ids", "now", "other_routes")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    OTHER_ROUTES_FIELD_NUMBER: _ClassVar[int]
    route: str
    entities: _containers.RepeatedCompositeFieldContainer[_feature_store_pb2.Column]
    request: _containers.RepeatedCompositeFieldContainer[_feature_store_pb2.Column]
    prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    now: int
    other_routes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, route: _Optional[str] = ..., entities: _Optional[_Iterable[_Union[_feature_store_pb2.Column, _Mapping]]] = ..., request: _Optional[_Iterable[_Union[_feature_store_pb2.Column, _Mapping]]] = ..., prediction_ids: _Optional[_Iterable[str]] = ..., now: _Optional[int] = ..., other_routes: _Optional[_Iterable[str]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("predictions", "models", "model_versions", "prediction_ids", "defaults_used", "registry_version", "others")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_USED_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    predictions: _feature_store_pb2.Column
    models: _containers.RepeatedScalarFieldContainer[str]
    model_versions: _containers.RepeatedScalarFieldContainer[int]
    prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    defaults_used: _containers.RepeatedCompositeFieldContainer[DefaultsUsed]
    registry_version: int
    others: _containers.RepeatedCompositeFieldContainer[PredictResponse]
    def __init__(self, predictions: _Optional[_Union[_feature_store_pb2.Column, _Mapping]] = ..., models: _Optional[_Iterable[str]] = ..., model_versions: _Optional[_Iterable[int]] = ..., prediction_ids: _Optional[_Iterable[str]] = ..., defaults_used: _Optional[_Iterable[_Union[DefaultsUsed, _Mapping]]] = ..., registry_version: _Optional[int] = ..., others: _Optional[_Iterable[_Union[PredictResponse, _Mapping]]] = ...) -> None: ...

class DefaultsUsed(_message.Message):
    __slots__ = ("inputs",)
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, inputs: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchPredictRequest(_message.Message):
    __slots__ = ("header", "spine")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SPINE_FIELD_NUMBER: _ClassVar[int]
    header: BatchPredictHeader
    spine: bytes
    def __init__(self, header: _Optional[_Union[BatchPredictHeader, _Mapping]] = ..., spine: _Optional[bytes] = ...) -> None: ...

class BatchPredictHeader(_message.Message):
    __slots__ = ("route", "timestamp_column")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_COLUMN_FIELD_NUMBER: _ClassVar[int]
    route: str
    timestamp_column: str
    def __init__(self, route: _Optional[str] = ..., timestamp_column: _Optional[str] = ...) -> None: ...

class BatchPredictResponse(_message.Message):
    __slots__ = ("arrow_ipc",)
    ARROW_IPC_FIELD_NUMBER: _ClassVar[int]
    arrow_ipc: bytes
    def __init__(self, arrow_ipc: _Optional[bytes] = ...) -> None: ...

class RegisterModelRequest(_message.Message):
    __slots__ = ("header", "model")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    header: ModelHeader
    model: bytes
    def __init__(self, header: _Optional[_Union[ModelHeader, _Mapping]] = ..., model: _Optional[bytes] = ...) -> None: ...

class ModelHeader(_message.Message):
    __slots__ = ("name", "service", "format", "inputs", "request", "defaults", "metrics", "training", "golden", "owner", "description", "output", "takes_matrix")
    class DefaultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TAKES_MATRIX_FIELD_NUMBER: _ClassVar[int]
    name: str
    service: str
    format: str
    inputs: _containers.RepeatedScalarFieldContainer[str]
    request: _containers.RepeatedScalarFieldContainer[str]
    defaults: _containers.ScalarMap[str, str]
    metrics: _containers.ScalarMap[str, float]
    training: str
    golden: str
    owner: str
    description: str
    output: str
    takes_matrix: bool
    def __init__(self, name: _Optional[str] = ..., service: _Optional[str] = ..., format: _Optional[str] = ..., inputs: _Optional[_Iterable[str]] = ..., request: _Optional[_Iterable[str]] = ..., defaults: _Optional[_Mapping[str, str]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., training: _Optional[str] = ..., golden: _Optional[str] = ..., owner: _Optional[str] = ..., description: _Optional[str] = ..., output: _Optional[str] = ..., takes_matrix: bool = ...) -> None: ...

class RegisterModelResponse(_message.Message):
    __slots__ = ("version", "json")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    version: int
    json: str
    def __init__(self, version: _Optional[int] = ..., json: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, models: _Optional[_Iterable[str]] = ...) -> None: ...

class SetModelAliasRequest(_message.Message):
    __slots__ = ("model", "alias", "version", "expected")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    model: str
    alias: str
    version: int
    expected: int
    def __init__(self, model: _Optional[str] = ..., alias: _Optional[str] = ..., version: _Optional[int] = ..., expected: _Optional[int] = ...) -> None: ...

class SetModelAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RetireModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class RetireModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FlushPredictionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FlushPredictionsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
