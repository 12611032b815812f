"""What is asked: the tables behind feature views, the spine, and which views a workload joins with it.

The setting is food delivery. An order of the spine names its consumer, store and courier; each feature view belongs to
one of them. Sizes are those of the scale `default`; the other scales multiply rows and keys alike, so that each key
keeps as many rows.
"""

from dataclasses import dataclass, replace

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

SCALES = {"small": 1 / 25, "default": 1.0, "large": 4.0}


@dataclass(frozen=True)
class View:
    """A feature view, and the one table behind it."""

    name: str
    key: str
    rows: int
    keys: int
    ttl_us: int | None
    # How rows spread over keys: "even", "zipf", or "hot" for one key with 30 % of all rows.
    spread: str = "even"
    # One row in a hundred is followed by a second one of the same key and event timestamp, written down later.
    corrected: bool = False

    @property
    def integers(self) -> list[str]:
        return [f"{self.name}_i{number}" for number in range(3)]

    @property
    def floats(self) -> list[str]:
        return [f"{self.name}_f{number}" for number in range(7)]

    @property
    def features(self) -> list[str]:
        return self.integers + self.floats

    @property
    def nullable(self) -> list[str]:
        """The features that are null in a tenth of the rows."""
        return [*self.integers[:1], *self.floats[:2]]


@dataclass(frozen=True)
class Workload:
    name: str
    about: str
    views: tuple[View, ...]
    spine_rows: int

    @property
    def key_views(self) -> dict[str, View]:
        """Each join key of the spine, and the first view that it leads to."""
        return {view.key: view for view in reversed(self.views)}

    @property
    def spine_columns(self) -> list[str]:
        return ["order_id", *sorted(self.key_views), "event_timestamp"]

    @property
    def feature_rows(self) -> int:
        return sum(view.rows for view in self.views)

    @property
    def has_small_spine(self) -> bool:
        """Whether the spine names so few keys that looking for those alone pays."""
        return self.spine_rows * 100 <= self.feature_rows


FIVE_VIEWS = (
    View("v0", "consumer", 10_000_000, 100_000, 2 * DAY_US),
    View("v1", "consumer", 2_500_000, 100_000, 7 * DAY_US),
    View("v2", "store", 2_500_000, 10_000, 6 * HOUR_US),
    View("v3", "courier", 2_500_000, 50_000, 30 * DAY_US),
    View("v4", "courier", 2_500_000, 50_000, None),
)
ONE_VIEW = FIVE_VIEWS[:1]
FIFTY_KEYS = (("consumer", 10_000), ("store", 1_000), ("courier", 5_000))
FIFTY_VIEWS = tuple(
    View(f"w{number:02}", key, 200_000, keys, (number % 7 + 1) * DAY_US)
    for number in range(50)
    for key, keys in [FIFTY_KEYS[number % len(FIFTY_KEYS)]]
)
# Tables of one shape and growing length: a hundred rows a key in each.
GROWING = tuple(
    View(f"rows_{millions}m", "consumer", millions * 1_000_000, millions * 10_000, 2 * DAY_US)
    for millions in (1, 5, 10, 25, 50)
)
ZIPF = View("zipf", "consumer", 10_000_000, 100_000, 2 * DAY_US, spread="zipf")
HOT_KEY = View("hot", "consumer", 10_000_000, 100_000, 2 * DAY_US, spread="hot")
CORRECTED = View("corrected", "consumer", 10_000_000, 100_000, 2 * DAY_US, corrected=True)

WORKLOADS = (
    Workload("one_view", "one view of 10 features", ONE_VIEW, 1_000_000),
    Workload("five_views", "five views of 10 features", FIVE_VIEWS, 1_000_000),
    Workload("fifty_views", "fifty small views of 10 features", FIFTY_VIEWS, 200_000),
    Workload("zipf", "rows and questions spread over keys by Zipf's law", (ZIPF,), 1_000_000),
    Workload("hot_key", "one key with 30 % of all rows and questions", (HOT_KEY,), 1_000_000),
    Workload("corrections", "1 % of the rows written down again, later", (CORRECTED,), 1_000_000),
    Workload("small_spine", "a thousand questions, a large table", GROWING[-1:], 1_000),
    Workload("wide_spine", "as many questions as rows", ONE_VIEW, 10_000_000),
    *(Workload(f"scaling_{view.name}", "a table that grows", (view,), 1_000_000) for view in GROWING),
)
# What runs unless workloads are named; the others take long.
DEFAULT_WORKLOADS = [
    "one_view",
    "five_views",
    "fifty_views",
    "zipf",
    "hot_key",
    "corrections",
    "small_spine",
]


def at_scale(workload: Workload, scale: str) -> Workload:
    factor = SCALES[scale]
    views = tuple(replace(v, rows=int(v.rows * factor), keys=int(v.keys * factor)) for v in workload.views)
    # A small spine is small at every scale.
    spine_rows = workload.spine_rows if workload.has_small_spine else int(workload.spine_rows * factor)
    return replace(workload, views=views, spine_rows=spine_rows)


def chosen(names: list[str], scale: str) -> list[Workload]:
    """Workloads by name; `scaling` stands for all of its sizes, `all` for everything."""
    wanted = names or DEFAULT_WORKLOADS
    picked = [w for w in WORKLOADS if "all" in wanted or w.name in wanted or w.name.split("_rows_")[0] in wanted]
    return [at_scale(workload, scale) for workload in picked]
