from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    PRESENT: _ClassVar[Status]
    NULL_VALUE: _ClassVar[Status]
    NOT_FOUND: _ClassVar[Status]
    OUTSIDE_MAX_AGE: _ClassVar[Status]

class Acknowledge(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACKNOWLEDGE_UNSPECIFIED: _ClassVar[Acknowledge]
    DURABLE: _ClassVar[Acknowledge]
    ASYNC: _ClassVar[Acknowledge]
    VISIBLE: _ClassVar[Acknowledge]
STATUS_UNSPECIFIED: Status
PRESENT: Status
NULL_VALUE: Status
NOT_FOUND: Status
OUTSIDE_MAX_AGE: Status
ACKNOWLEDGE_UNSPECIFIED: Acknowledge
DURABLE: Acknowledge
ASYNC: Acknowledge
VISIBLE: Acknowledge

class FeatureSelection(_message.Message):
    __slots__ = ("feature_service", "features")
    FEATURE_SERVICE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    feature_service: str
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, feature_service: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class GetOnlineFeaturesRequest(_message.Message):
    __slots__ = ("features", "entities", "request", "full_feature_names", "event_timestamps", "now")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    FULL_FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    features: FeatureSelection
    entities: _containers.RepeatedCompositeFieldContainer[Column]
    request: _containers.RepeatedCompositeFieldContainer[Column]
    full_feature_names: bool
    event_timestamps: bool
    now: int
    def __init__(self, features: _Optional[_Union[FeatureSelection, _Mapping]] = ..., entities: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., request: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., full_feature_names: bool = ..., event_timestamps: bool = ..., now: _Optional[int] = ...) -> None: ...

class GetOnlineFeaturesResponse(_message.Message):
    __slots__ = ("columns", "registry_version")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    registry_version: int
    def __init__(self, columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., registry_version: _Optional[int] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "type", "bools", "int32s", "int64s", "floats", "doubles", "strings", "bytes_values", "lists", "maps", "validity", "statuses", "event_timestamps", "event_timestamps_validity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    BOOLS_FIELD_NUMBER: _ClassVar[int]
    INT32S_FIELD_NUMBER: _ClassVar[int]
    INT64S_FIELD_NUMBER: _ClassVar[int]
    FLOATS_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    BYTES_VALUES_FIELD_NUMBER: _ClassVar[int]
    LISTS_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    VALIDITY_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMESTAMPS_VALIDITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    bools: BoolValues
    int32s: Int32Values
    int64s: Int64Values
    floats: FloatValues
    doubles: DoubleValues
    strings: StringValues
    bytes_values: BytesValues
    lists: ListValues
    maps: MapValues
    validity: bytes
    statuses: _containers.RepeatedScalarFieldContainer[Status]
    event_timestamps: _containers.RepeatedScalarFieldContainer[int]
    event_timestamps_validity: bytes
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., bools: _Optional[_Union[BoolValues, _Mapping]] = ..., int32s: _Optional[_Union[Int32Values, _Mapping]] = ..., int64s: _Optional[_Union[Int64Values, _Mapping]] = ..., floats: _Optional[_Union[FloatValues, _Mapping]] = ..., doubles: _Optional[_Union[DoubleValues, _Mapping]] = ..., strings: _Optional[_Union[StringValues, _Mapping]] = ..., bytes_values: _Optional[_Union[BytesValues, _Mapping]] = ..., lists: _Optional[_Union[ListValues, _Mapping]] = ..., maps: _Optional[_Union[MapValues, _Mapping]] = ..., validity: _Optional[bytes] = ..., statuses: _Optional[_Iterable[_Union[Status, str]]] = ..., event_timestamps: _Optional[_Iterable[int]] = ..., event_timestamps_validity: _Optional[bytes] = ...) -> None: ...

class BoolValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, values: _Optional[_Iterable[bool]] = ...) -> None: ...

class Int32Values(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class Int64Values(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class FloatValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class DoubleValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class StringValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class BytesValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, values: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ListValues(_message.Message):
    __slots__ = ("lengths", "items")
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    items: Column
    def __init__(self, lengths: _Optional[_Iterable[int]] = ..., items: _Optional[_Union[Column, _Mapping]] = ...) -> None: ...

class MapValues(_message.Message):
    __slots__ = ("lengths", "keys", "values")
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    keys: Column
    values: Column
    def __init__(self, lengths: _Optional[_Iterable[int]] = ..., keys: _Optional[_Union[Column, _Mapping]] = ..., values: _Optional[_Union[Column, _Mapping]] = ...) -> None: ...

class GetBatchFeaturesRequest(_message.Message):
    __slots__ = ("header", "spine")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SPINE_FIELD_NUMBER: _ClassVar[int]
    header: BatchHeader
    spine: bytes
    def __init__(self, header: _Optional[_Union[BatchHeader, _Mapping]] = ..., spine: _Optional[bytes] = ...) -> None: ...

class BatchHeader(_message.Message):
    __slots__ = ("features", "full_feature_names", "statuses", "as_known", "from_source", "spine", "range", "as_of", "table_versions", "registry_version")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FULL_FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    AS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    FROM_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SPINE_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    features: FeatureSelection
    full_feature_names: bool
    statuses: bool
    as_known: bool
    from_source: bool
    spine: Spine
    range: TimeRange
    as_of: int
    table_versions: _containers.RepeatedCompositeFieldContainer[TableVersion]
    registry_version: int
    def __init__(self, features: _Optional[_Union[FeatureSelection, _Mapping]] = ..., full_feature_names: bool = ..., statuses: bool = ..., as_known: bool = ..., from_source: bool = ..., spine: _Optional[_Union[Spine, _Mapping]] = ..., range: _Optional[_Union[TimeRange, _Mapping]] = ..., as_of: _Optional[int] = ..., table_versions: _Optional[_Iterable[_Union[TableVersion, _Mapping]]] = ..., registry_version: _Optional[int] = ...) -> None: ...

class Spine(_message.Message):
    __slots__ = ("timestamp_column",)
    TIMESTAMP_COLUMN_FIELD_NUMBER: _ClassVar[int]
    timestamp_column: str
    def __init__(self, timestamp_column: _Optional[str] = ...) -> None: ...

class TimeRange(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class GetBatchFeaturesResponse(_message.Message):
    __slots__ = ("metadata", "arrow_ipc")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ARROW_IPC_FIELD_NUMBER: _ClassVar[int]
    metadata: BatchMetadata
    arrow_ipc: bytes
    def __init__(self, metadata: _Optional[_Union[BatchMetadata, _Mapping]] = ..., arrow_ipc: _Optional[bytes] = ...) -> None: ...

class BatchMetadata(_message.Message):
    __slots__ = ("registry_version", "tables", "warnings")
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    registry_version: int
    tables: _containers.RepeatedCompositeFieldContainer[TableVersion]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, registry_version: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[TableVersion, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class TableVersion(_message.Message):
    __slots__ = ("view", "version")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    view: str
    version: int
    def __init__(self, view: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("source", "acknowledge", "arrow_ipc", "json", "columns")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    ARROW_IPC_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    source: str
    acknowledge: Acknowledge
    arrow_ipc: bytes
    json: RowMessages
    columns: PushColumns
    def __init__(self, source: _Optional[str] = ..., acknowledge: _Optional[_Union[Acknowledge, str]] = ..., arrow_ipc: _Optional[bytes] = ..., json: _Optional[_Union[RowMessages, _Mapping]] = ..., columns: _Optional[_Union[PushColumns, _Mapping]] = ...) -> None: ...

class RowMessages(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rows: _Optional[_Iterable[str]] = ...) -> None: ...

class PushColumns(_message.Message):
    __slots__ = ("columns",)
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class PushResponse(_message.Message):
    __slots__ = ("accepted", "duplicates", "ignored", "late", "dead_letters", "problems")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    duplicates: int
    ignored: int
    late: int
    dead_letters: int
    problems: _containers.RepeatedCompositeFieldContainer[RowProblem]
    def __init__(self, accepted: _Optional[int] = ..., duplicates: _Optional[int] = ..., ignored: _Optional[int] = ..., late: _Optional[int] = ..., dead_letters: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[RowProblem, _Mapping]]] = ...) -> None: ...

class RowProblem(_message.Message):
    __slots__ = ("row", "reason")
    ROW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    row: int
    reason: str
    def __init__(self, row: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ListDefinitionsRequest(_message.Message):
    __slots__ = ("kind",)
    KIND_FIELD_NUMBER: _ClassVar[int]
    kind: str
    def __init__(self, kind: _Optional[str] = ...) -> None: ...

class ListDefinitionsResponse(_message.Message):
    __slots__ = ("registry_version", "definitions")
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    registry_version: int
    definitions: _containers.RepeatedCompositeFieldContainer[Definition]
    def __init__(self, registry_version: _Optional[int] = ..., definitions: _Optional[_Iterable[_Union[Definition, _Mapping]]] = ...) -> None: ...

class Definition(_message.Message):
    __slots__ = ("kind", "name", "description", "json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    description: str
    json: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., json: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("project", "server_version", "registry_version", "views", "streams", "process_cpu_seconds")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    project: str
    server_version: str
    registry_version: int
    views: _containers.RepeatedCompositeFieldContainer[ViewStatus]
    streams: _containers.RepeatedCompositeFieldContainer[StreamStatus]
    process_cpu_seconds: float
    def __init__(self, project: _Optional[str] = ..., server_version: _Optional[str] = ..., registry_version: _Optional[int] = ..., views: _Optional[_Iterable[_Union[ViewStatus, _Mapping]]] = ..., streams: _Optional[_Iterable[_Union[StreamStatus, _Mapping]]] = ..., process_cpu_seconds: _Optional[float] = ...) -> None: ...

class StreamStatus(_message.Message):
    __slots__ = ("source", "watermark", "accepted", "dead_letters", "duplicates", "late", "ignored", "online_lag_records", "offline_lag_records", "fault")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    ONLINE_LAG_RECORDS_FIELD_NUMBER: _ClassVar[int]
    OFFLINE_LAG_RECORDS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    source: str
    watermark: int
    accepted: int
    dead_letters: int
    duplicates: int
    late: int
    ignored: int
    online_lag_records: int
    offline_lag_records: int
    fault: str
    def __init__(self, source: _Optional[str] = ..., watermark: _Optional[int] = ..., accepted: _Optional[int] = ..., dead_letters: _Optional[int] = ..., duplicates: _Optional[int] = ..., late: _Optional[int] = ..., ignored: _Optional[int] = ..., online_lag_records: _Optional[int] = ..., offline_lag_records: _Optional[int] = ..., fault: _Optional[str] = ...) -> None: ...

class ViewStatus(_message.Message):
    __slots__ = ("name", "fault", "table_version", "materialized_until", "online_table_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MATERIALIZED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    ONLINE_TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    fault: str
    table_version: int
    materialized_until: int
    online_table_version: int
    def __init__(self, name: _Optional[str] = ..., fault: _Optional[str] = ..., table_version: _Optional[int] = ..., materialized_until: _Optional[int] = ..., online_table_version: _Optional[int] = ...) -> None: ...
