"""Value types: their names on the wire and their Arrow types."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ._exceptions import InternalError, InvalidError

_SCALARS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "timestamp": pa.timestamp("us", "UTC"),
    "date": pa.date32(),
}


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a value type.

    >>> arrow_type("map<string, list<int64>>")
    MapType(map<string, list<item: int64>>)
    """
    text = name.strip()
    if text in _SCALARS:
        return _SCALARS[text]
    inner = inner_types(text)
    if len(inner) == 1:
        return pa.list_(arrow_type(inner[0]))
    if len(inner) == 2:
        return pa.map_(arrow_type(inner[0]), arrow_type(inner[1]))
    raise InternalError(f"the server sent the type `{name}`, which this client does not know; upgrade the client")


def inner_types(name: str) -> list[str]:
    """The item type of a list, the key and value types of a map; nothing for other types.

    >>> inner_types("list<int64>"), inner_types("map<string, list<int64>>"), inner_types("int64")
    (['int64'], ['string', 'list<int64>'], [])
    """
    text = name.strip()
    if text.startswith("list<") and text.endswith(">"):
        return [text[5:-1].strip()]
    if text.startswith("map<") and text.endswith(">") and "," in text:
        return [part.strip() for part in text[4:-1].split(",", 1)]
    return []


def cast(values: pa.Array | pa.ChunkedArray, type_name: str, column: str, *, is_key: bool = False) -> pa.Array:
    """The values as the declared type, in one array, if they are of its kind and every one fits.

    Widths, encodings and time units give way; a number does not become text. A text stays one, which the server
    reads as the declared type. A key that the type cannot hold is one that nobody has: null. The server sees to the
    same in the columns of a batch question.
    """
    array = _plain(values)
    wanted = arrow_type(type_name)
    if array.type == wanted:
        return array
    kind = _kind(array.type)
    if kind == "text" and not pa.types.is_nested(wanted):
        return array.cast(pa.string())
    if not (pa.types.is_null(array.type) or kind == _kind(wanted) or _is_small_decimal(array.type, wanted)):
        advice = f"cast it to {type_name}, or to text" if kind == "decimal" else "convert it first"
        raise InvalidError(f"column `{column}` is {array.type} and is declared {type_name}; {advice}")
    try:
        if pa.types.is_timestamp(array.type) and array.type.unit == "ns":
            array = pc.floor_temporal(array, unit="microsecond")
        if pa.types.is_timestamp(array.type) and array.type.tz is None:
            array = array.cast(pa.timestamp(array.type.unit, "UTC"))
        if is_key and pa.types.is_integer(array.type) and pa.types.is_integer(wanted):
            array = _within(array, wanted.bit_width)
        # Whole numbers often come as floats, because they had nulls once.
        return array.cast(wanted, safe=not pa.types.is_floating(wanted))
    except pa.ArrowException as error:
        raise InvalidError(f"column `{column}` is {array.type} and is declared {type_name}: {error}") from error


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array without dictionary."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _within(integers: pa.Array, bits: int) -> pa.Array:
    """The integers that a signed type of so many bits holds; the others are null."""
    least, greatest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if integers.type.bit_width < bits:
        return integers
    fits = pc.less_equal(integers, pa.scalar(greatest, integers.type))
    if pa.types.is_signed_integer(integers.type):
        fits = pc.and_(fits, pc.greater_equal(integers, pa.scalar(least, integers.type)))
    return pc.if_else(fits, integers, pa.scalar(None, integers.type))


def _is_small_decimal(data_type: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether the decimals are whole numbers that fit whatever they are."""
    digits = {pa.int32(): 9, pa.int64(): 18}.get(wanted, 0)
    return bool(pa.types.is_decimal(data_type) and data_type.scale == 0 and data_type.precision <= digits)


def _kind(data_type: pa.DataType) -> str:
    kinds = {
        "bool": pa.types.is_boolean,
        "number": lambda t: pa.types.is_integer(t) or pa.types.is_floating(t),
        "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t),
        "bytes": lambda t: (
            pa.types.is_binary(t)
            or pa.types.is_large_binary(t)
            or pa.types.is_binary_view(t)
            or pa.types.is_fixed_size_binary(t)
        ),
        "timestamp": pa.types.is_timestamp,
        "date": pa.types.is_date,
        "list": lambda t: (
            pa.types.is_list(t)
            or pa.types.is_large_list(t)
            or pa.types.is_fixed_size_list(t)
            or pa.types.is_list_view(t)
        ),
        "map": pa.types.is_map,
        "decimal": pa.types.is_decimal,
    }
    return next((kind for kind, holds in kinds.items() if holds(data_type)), str(data_type))
