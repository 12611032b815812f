"""Wire columns and Arrow arrays: packed values and a validity bit a row, on both sides."""

from __future__ import annotations

import sys
from array import array as packed
from itertools import accumulate
from typing import Any

import pyarrow as pa

from ._answer import to_list
from ._exceptions import InternalError
from ._proto import feature_store_pb2 as pb
from ._types import arrow_type, cast, inner_types

# Fixed-width types: the field of Column, the message in it, and the typecode of one value.
_FIXED: dict[str, tuple[str, Any, str]] = {
    "int32": ("int32s", pb.Int32Values, "i"),
    "date": ("int32s", pb.Int32Values, "i"),
    "int64": ("int64s", pb.Int64Values, "q"),
    "timestamp": ("int64s", pb.Int64Values, "q"),
    "float32": ("floats", pb.FloatValues, "f"),
    "float64": ("doubles", pb.DoubleValues, "d"),
}
_STORED_AS: dict[str, Any] = {"date": pa.int32(), "timestamp": pa.int64()}
_VARIABLE: dict[str, tuple[str, Any]] = {
    "bool": ("bools", pb.BoolValues),
    "string": ("strings", pb.StringValues),
    "bytes": ("bytes_values", pb.BytesValues),
}
_EMPTY: dict[str, Any] = {"bool": False, "string": "", "bytes": b""}

# Types whose values the wire has as Python has them.
_SAME_IN_PYTHON = {
    name: field for name, (field, *_) in {**_FIXED, **_VARIABLE}.items() if name not in ("date", "timestamp")
}

assert sys.byteorder == "little", "Arrow buffers are read as the machine's own numbers"


def encode(name: str, values: pa.Array | pa.ChunkedArray, type_name: str, *, is_key: bool = False) -> pb.Column:
    """A column of scalars for a request: join keys and request values.

    Raises InvalidError if the values are not of the declared type.
    """
    array = cast(values, type_name, name, is_key=is_key)
    if pa.types.is_string(array.type):
        type_name = "string"
    column = pb.Column(name=name, type=type_name)
    if array.null_count:
        column.validity = _bits(array.is_valid())
    if type_name in _FIXED:
        field, message, typecode = _FIXED[type_name]
        numbers = array.view(_STORED_AS[type_name]) if type_name in _STORED_AS else array
        numbers = numbers.fill_null(0) if array.null_count else numbers
        getattr(column, field).CopyFrom(message(values=_numbers(numbers, typecode)))
    elif type_name in _VARIABLE:
        field, message = _VARIABLE[type_name]
        dense = array.fill_null(_EMPTY[type_name]) if array.null_count else array
        getattr(column, field).CopyFrom(message(values=dense.to_pylist()))
    else:
        return _encode_list(column, array, type_name)
    return column


def _encode_list(column: pb.Column, array: pa.Array, type_name: str) -> pb.Column:
    """Lists of scalars; null rows are empty."""
    lengths = array.value_lengths().fill_null(0).to_pylist()
    items = encode("", array.flatten(), inner_types(type_name)[0])
    column.lists.CopyFrom(pb.ListValues(lengths=lengths, items=items))
    return column


def _numbers(array: pa.Array, typecode: str) -> Any:
    view: Any = memoryview(array.buffers()[1] or b"")
    return view.cast(typecode)[array.offset : array.offset + len(array)]


def _bits(booleans: pa.Array) -> bytes:
    """One bit a row, least significant first: the layout of Arrow's own bitmaps."""
    fresh = pa.concat_arrays([booleans, pa.array([], pa.bool_())]) if booleans.offset else booleans
    return bytes(fresh.buffers()[1])[: (len(fresh) + 7) // 8]


def decode(column: pb.Column) -> pa.Array:
    """The values of a column of an answer; its type says which."""
    return _decode_inner(column, column.type)


def decode_list(column: pb.Column) -> list[Any]:
    """The values of a column of an answer as Python has them; of small answers this is quicker than by way of Arrow."""
    field = _SAME_IN_PYTHON.get(column.type)
    if field is None or column.WhichOneof("values") != field:
        return to_list(decode(column))
    values = list(getattr(column, field).values)
    if not (bits := column.validity):
        return values
    return [value if bits[row >> 3] >> (row & 7) & 1 else None for row, value in enumerate(values)]


def decode_event_timestamps(column: pb.Column) -> pa.Array:
    """The event timestamps of a feature's values; null where there is none."""
    timestamps = packed("q", column.event_timestamps)
    return _from_buffers(arrow_type("timestamp"), len(timestamps), column.event_timestamps_validity, timestamps)


def _decode(column: pb.Column, type_name: str, validity: bytes) -> pa.Array:
    wanted, field = arrow_type(type_name), column.WhichOneof("values")
    if type_name in _FIXED and field in (_FIXED[type_name][0], None):
        values = packed(_FIXED[type_name][2], getattr(column, _FIXED[type_name][0]).values)
        return _from_buffers(wanted, len(values), validity, values)
    if type_name in _VARIABLE and field in (_VARIABLE[type_name][0], None):
        dense = pa.array(list(getattr(column, _VARIABLE[type_name][0]).values), wanted)
        buffers = [pa.py_buffer(validity) if validity else None, *dense.buffers()[1:]]
        return pa.Array.from_buffers(wanted, len(dense), buffers)
    if pa.types.is_list(wanted) and field in ("lists", None):
        items = _decode_inner(column.lists.items, inner_types(type_name)[0])
        return _nested(wanted, column.lists.lengths, validity, items)
    if pa.types.is_map(wanted) and field in ("maps", None):
        key_type, value_type = inner_types(type_name)
        keys, values = _decode_inner(column.maps.keys, key_type), _decode_inner(column.maps.values, value_type)
        entries = pa.StructArray.from_arrays([keys, values], fields=[wanted.key_field, wanted.item_field])
        return _nested(wanted, column.maps.lengths, validity, entries)
    raise InternalError(f"column `{column.name}` is declared {type_name} and carries `{field}`")


def _decode_inner(column: pb.Column, type_name: str) -> pa.Array:
    return _decode(column, type_name, column.validity)


def _nested(wanted: pa.DataType, lengths: Any, validity: bytes, children: pa.Array) -> pa.Array:
    offsets = packed("i", accumulate(lengths, initial=0))
    return _from_buffers(wanted, len(offsets) - 1, validity, offsets, children=[children])


def _from_buffers(wanted: pa.DataType, length: int, validity: bytes, values: packed[Any], **parts: Any) -> pa.Array:
    buffers = [pa.py_buffer(validity) if validity else None, pa.py_buffer(values)]
    return pa.Array.from_buffers(wanted, length, buffers, **parts)
