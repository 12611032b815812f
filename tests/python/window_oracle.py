"""What sliding windows answer, by brute force: every window is summed up anew, from its raw events, with integers.

```text
View + rows ──> Oracle.answer(feature, key, t) ──> bits, None, or what accepts them (Near)
                       Arrow column ── plain ──> bits, None
```

Answers are compared in plain form: floats by their bits, times as integers, lists as lists, maps as lists of pairs.
It knows nothing of tiles, of orders of arrival, or of how events are stored.
"""

import bisect
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import pyarrow as pa

Row = Mapping[str, Any]
UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
ARROW = {
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
NAN = struct.unpack("<q", struct.pack("<Q", 0x7FF8_0000_0000_0000))[0]
COUNTS = {"count", "count_distinct", "approx_count_distinct"}


@dataclass(frozen=True)
class Expression:
    """A column, or what a definition writes over columns, with what it means."""

    sql: str
    type: str
    of: Callable[[Row], Any]

    @classmethod
    def column(cls, name: str, value_type: str) -> "Expression":
        return cls(name, value_type, lambda row: row[name])

    @property
    def is_column(self) -> bool:
        return re.fullmatch(r"[A-Za-z_]\w*", self.sql) is not None


@dataclass(frozen=True)
class Aggregation:
    function: str
    windows: tuple[str, ...]
    input: Expression | None = None
    n: int | None = None
    p: float | tuple[float, ...] | None = None
    by: Expression | None = None
    name: str | None = None

    def definition(self) -> dict[str, Any]:
        given = {"name": self.name, "n": self.n, "p": self.p}
        given |= {key: expression and expression.sql for key, expression in (("input", self.input), ("by", self.by))}
        given = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        return {"function": self.function, "windows": list(self.windows)} | {
            key: value for key, value in given.items() if value is not None
        }

    def feature(self, window: str) -> str:
        base = self.name or (f"{self.input.sql}_{self.function}" if self.input else self.function)
        return f"{base}_{largest_unit(window)}"

    @cached_property
    def arrow_type(self) -> pa.DataType:
        of = self.input and ARROW[self.input.type]
        if self.function in COUNTS:
            one = pa.int64()
        elif self.function == "sum":
            one = pa.int64() if self.input.type.startswith("int") else pa.float64()
        elif self.function == "histogram":
            one = pa.map_(of, pa.int64())
        elif self.function in ("any", "all", "min", "max", "first", "last", "top", "bottom"):
            one = of
        else:
            one = pa.float64()
        if self.n is not None or isinstance(self.p, tuple):
            one = pa.list_(one)
        return pa.map_(ARROW[self.by.type], one) if self.by else one


@dataclass(frozen=True)
class View:
    name: str
    keys: tuple[str, ...]
    aggregations: tuple[Aggregation, ...]
    where: Expression | None = None
    resolution: str | None = None

    @cached_property
    def features(self) -> dict[str, tuple[Aggregation, str]]:
        named = ((a.feature(window), (a, window)) for a in self.aggregations for window in a.windows)
        return dict(named)

    def definition(self, entities: list[str], source: str) -> dict[str, Any]:
        written: dict[str, Any] = {"name": self.name, "entities": entities, "source": source}
        if self.where:
            written["where"] = self.where.sql
        if self.resolution:
            written["resolution"] = self.resolution
        return written | {"aggregations": [aggregation.definition() for aggregation in self.aggregations]}


@dataclass(frozen=True)
class Near:
    """Accepts what lies within a bound of a number; counts are integers, other numbers floats by their bits."""

    value: float
    tolerance: float
    is_count: bool = False

    def accepts(self, found: Any) -> bool:
        if found is None:
            return False
        number = found if self.is_count else struct.unpack("<d", struct.pack("<q", found))[0]
        return number == self.value or abs(number - self.value) <= self.tolerance


def matches(expected: Any, found: Any) -> bool:
    if isinstance(expected, Near):
        return expected.accepts(found)
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(expected) == len(found)
            and all(matches(one, other) for one, other in zip(expected, found, strict=True))
        )
    return type(expected) is type(found) and expected == found


def micros(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([a-z]+)", duration).groups()
    return int(number) * UNITS[unit]


def largest_unit(window: str) -> str:
    if window == "lifetime":
        return window
    length = micros(window)
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if length % UNITS[unit] == 0)
    return f"{length // UNITS[unit]}{unit}"


@dataclass
class Oracle:
    """One view over the rows of its source.

    Rows have the view's keys and inputs; `at`, microseconds or None; `written`, likewise, if `has_created`.
    """

    view: View
    rows: list[Row]
    has_created: bool
    _answers: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def _events(self) -> dict[tuple[Any, ...], tuple[list[int], list[Row]]]:
        """Of each key its events by time."""
        keyed: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            key = tuple(row[name] for name in self.view.keys)
            if row["at"] is None or None in key or (self.view.where and self.view.where.of(row) is not True):
                continue
            keyed.setdefault(key, []).append(row)
        sort = {key: sorted(rows, key=lambda row: row["at"]) for key, rows in keyed.items()}
        return {key: ([row["at"] for row in rows], rows) for key, rows in sort.items()}

    def keys(self) -> Iterable[tuple[Any, ...]]:
        return self._events.keys()

    def times(self, key: tuple[Any, ...]) -> list[int]:
        return self._events.get(key, ([], []))[0]

    def answer(self, feature: str, key: tuple[Any, ...], asked: int, as_known: bool = False) -> Any:
        """The feature at an instant in plain form."""
        if None in key:
            return None
        aggregation, window = self.view.features[feature]
        times, rows = self._events.get(key, ([], []))
        end = bisect.bisect_left(times, asked)
        start = 0
        if window != "lifetime":
            edge = asked - micros(window)
            if self.view.resolution:
                edge -= edge % micros(self.view.resolution)
            start = bisect.bisect_left(times, edge)
        within = rows[start:end]
        if as_known and self.has_created:
            within = [row for row in within if row["written"] is not None and row["written"] <= asked]
            return aggregate(aggregation, within)
        cached = (feature, key, start, end)
        if cached not in self._answers:
            self._answers[cached] = aggregate(aggregation, within)
        return self._answers[cached]


def aggregate(aggregation: Aggregation, rows: list[Row]) -> Any:
    """The aggregate of the rows, in plain form."""
    if aggregation.by is None:
        return aggregate_one(aggregation, rows)
    buckets: dict[Any, list[Row]] = {}
    representatives: dict[Any, Any] = {}
    for row in rows:
        bucket = aggregation.by.of(row)
        if bucket is not None:
            buckets.setdefault(order(as_key(bucket)), []).append(row)
            representatives[order(as_key(bucket))] = as_key(bucket)
    by = aggregation.by.type
    found = [(bits(representatives[key], by), aggregate_one(aggregation, buckets[key])) for key in sorted(buckets)]
    return found or None


def aggregate_one(aggregation: Aggregation, rows: list[Row]) -> Any:
    function, of = aggregation.function, aggregation.input
    if of is None:
        return len(rows)
    timed = [(row, of.of(row)) for row in rows]
    timed = [(row, value) for row, value in timed if value is not None]
    values = [value for _, value in timed]
    if function == "count":
        return len(values)
    distinct = {order(as_key(value)): as_key(value) for value in values}
    if function == "count_distinct":
        return len(distinct)
    if function == "approx_count_distinct":
        # Five standard errors of 4096 registers, or that two values share one.
        return Near(len(distinct), max(float(len(distinct) > 1), 5 * 0.0163 * len(distinct)), is_count=True)
    if not values:
        return None
    if function == "any":
        return any(values)
    if function == "all":
        return all(values)
    if function == "histogram":
        counts = {key: 0 for key in distinct}
        for value in values:
            counts[order(as_key(value))] += 1
        return [(bits(distinct[key], of.type), counts[key]) for key in sorted(counts)]
    if function == "approx_percentile":
        return percentiles(aggregation, [float(value) for value in values])
    if function in ("first", "last", "min", "max", "top", "bottom"):
        return ranked(aggregation, timed)
    return number(function, of.type, values)


def ranked(aggregation: Aggregation, timed: list[tuple[Row, Any]]) -> Any:
    def by_time(item: tuple[Row, Any]) -> Any:
        written = item[0].get("written")
        return (item[0]["at"], -math.inf if written is None else written, order(item[1]))

    function = aggregation.function
    key = by_time if function in ("first", "last") else lambda item: order(item[1])
    chosen = sorted(timed, key=key, reverse=function in ("last", "max", "top"))
    plain_values = [bits(value, aggregation.input.type) for _, value in chosen[: aggregation.n or 1]]
    return plain_values if aggregation.n else plain_values[0]


def percentiles(aggregation: Aggregation, values: list[float]) -> Any:
    ascending = sorted(value for value in values if not math.isnan(value))
    if not ascending:
        return None

    def one(p: float) -> Near:
        value = ascending[math.floor(p * (len(ascending) - 1))]
        # Numbers of less than 53 bits have a bound of their own, which is not relative.
        return Near(value, 0.0 if math.isinf(value) else max(abs(value) * 0.01, 2.0**-1029 if value else 0.0))

    return [one(p) for p in aggregation.p] if isinstance(aggregation.p, tuple) else one(aggregation.p)


def number(function: str, value_type: str, values: list[Any]) -> Any:
    """Sums and moments, rounded once."""
    if function == "sum" and value_type.startswith("int"):
        return sum(values) if -(2**63) <= sum(values) < 2**63 else None
    if not all(math.isfinite(value) for value in values):
        # Not exactly representable either way: the rules of IEEE 754.
        return bits(sum_of_specials(values) if function in ("sum", "mean") else math.nan, "float64")
    integers, unit = scaled(values)
    n = len(integers)
    if function in ("sum", "mean"):
        return bits(rounded(sum(integers), 1 if function == "sum" else n, unit), "float64")
    sums = [sum(integer**power for integer in integers) for power in (1, 2, 3, 4)]
    second = n * sums[1] - sums[0] ** 2
    if function == "variance":
        return bits(rounded(second, n * n, 2 * unit), "float64")
    if function == "stddev":
        # The root of the variance, rounded as far from the ends of the range as powers of four bring it.
        half = (second.bit_length() - (n * n).bit_length()) // 2
        return bits(math.ldexp(math.sqrt(rounded(second, n * n, -2 * half)), half + unit), "float64")
    if second == 0:
        return None
    if function == "skew":
        third = n * n * sums[2] - 3 * n * sums[0] * sums[1] + 2 * sums[0] ** 3
        # m3 / m2^1.5 = third / second^1.5: of the exact square, the root.
        root = square_root(Fraction(third * third, second**3))
        return near_ulps(-root if third < 0 else root)
    fourth = n**3 * sums[3] - 4 * n**2 * sums[0] * sums[2] + 6 * n * sums[0] ** 2 * sums[1] - 3 * sums[0] ** 4
    return near_ulps(float(Fraction(fourth, second * second) - 3))


def near_ulps(value: float) -> Near:
    return Near(value, 8 * math.ulp(value))


def square_root(square: Fraction) -> float:
    """Right to far more digits than a float has."""
    scale = 1 << (256 + 2 * max(0, square.denominator.bit_length() - square.numerator.bit_length()))
    return float(Fraction(math.isqrt(square.numerator * scale * scale // square.denominator), scale))


def sum_of_specials(values: list[float]) -> float:
    specials = [value for value in values if not math.isfinite(value)]
    return math.nan if any(math.isnan(value) or value != specials[0] for value in specials) else specials[0]


def scaled(values: list[Any]) -> tuple[list[int], int]:
    """Integers and the exponent of a power of two that they are multiples of."""
    ratios = [value.as_integer_ratio() for value in values]
    shift = max(denominator.bit_length() - 1 for _, denominator in ratios)
    return [numerator << (shift - denominator.bit_length() + 1) for numerator, denominator in ratios], -shift


def rounded(numerator: int, denominator: int, exponent: int) -> float:
    """`numerator / denominator * 2^exponent`: Python divides integers with one rounding."""
    if exponent < 0:
        denominator <<= -exponent
    else:
        numerator <<= exponent
    try:
        return numerator / denominator
    except OverflowError:
        return -math.inf if numerator < 0 else math.inf


def as_key(value: Any) -> Any:
    """Values that counts take for the same: zeros of either sign."""
    return 0.0 if isinstance(value, float) and value == 0.0 else value


def order(value: Any) -> Any:
    """Numbers by size, `-0.0` before `0.0`, NaN last; text by its bytes."""
    if isinstance(value, float):
        return (2, 0.0, 0.0) if math.isnan(value) else (1, value, math.copysign(1.0, value))
    return value.encode() if isinstance(value, str) else value


def bits(value: Any, value_type: str) -> Any:
    """A value in plain form."""
    if value_type == "float64":
        return NAN if math.isnan(value) else struct.unpack("<q", struct.pack("<d", value))[0]
    if value_type == "float32":
        return 0x7FC0_0000 if math.isnan(value) else struct.unpack("<i", struct.pack("<f", value))[0]
    return value


def plain(array: pa.Array) -> list[Any]:
    """A column in plain form."""
    kind = array.type
    if pa.types.is_float64(kind) or pa.types.is_timestamp(kind):
        return array.view(pa.int64()).to_pylist()
    if pa.types.is_float32(kind) or pa.types.is_date32(kind):
        return array.view(pa.int32()).to_pylist()
    if pa.types.is_map(kind):
        items = list(zip(plain(array.keys), plain(array.items), strict=True))
    elif pa.types.is_list(kind):
        items = plain(array.values)
    else:
        return array.to_pylist()
    offsets = array.offsets.to_pylist()
    return [items[offsets[i] : offsets[i + 1]] if array[i].is_valid else None for i in range(len(array))]
