"""What is asked: the orders, the aggregates of a view over them, and the spine.

The setting is food delivery. Each order has a store, a consumer and an amount; a question names a store and a time, and
asks for aggregates of the store's orders in the windows before it. Sizes are those of the scale `default`; the other
scales multiply events, stores and questions alike, so that each store keeps as many events.
"""

from dataclasses import dataclass, replace

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WINDOWS_US = {"1h": HOUR_US, "1d": DAY_US, "7d": 7 * DAY_US, "30d": 30 * DAY_US}

SCALES = {"small": 1 / 50, "default": 1.0, "large": 4.0}


@dataclass(frozen=True)
class Events:
    """A table of orders."""

    name: str
    rows: int
    keys: int
    # How orders and questions spread over stores: "even" or "zipf".
    spread: str = "even"


@dataclass(frozen=True)
class Aggregate:
    """One function of one column over one window, and the name of the feature that it is."""

    function: str
    input: str
    window: str
    n: int | None = None

    @property
    def name(self) -> str:
        return f"{self.input}_{self.function}_{self.window}"

    @property
    def window_us(self) -> int:
        return WINDOWS_US[self.window]


@dataclass(frozen=True)
class View:
    """An aggregation view by store."""

    name: str
    events: Events
    aggregates: tuple[Aggregate, ...]

    key = "store"

    @property
    def columns(self) -> list[str]:
        """The columns of the events that it reads."""
        return list(dict.fromkeys(aggregate.input for aggregate in self.aggregates))


@dataclass(frozen=True)
class Workload:
    name: str
    about: str
    view: View
    spine_rows: int
    # How many cores a contender may use, where that is part of the question.
    cores: int | None = None
    # What is wanted of Asof: seconds inside the command, and multiples of the time of the fastest peer.
    inside_goal: float | None = None
    time_goal: float | None = None

    @property
    def views(self) -> tuple[View, ...]:
        return (self.view,)

    @property
    def feature_rows(self) -> int:
        return self.view.events.rows

    @property
    def features(self) -> list[str]:
        return [aggregate.name for aggregate in self.view.aggregates]


def aggregates(functions: list[str], column: str, windows: list[str], n: int | None = None) -> tuple[Aggregate, ...]:
    return tuple(Aggregate(function, column, window, n) for function in functions for window in windows)


AMOUNTS = aggregates(["count", "sum", "mean", "max"], "amount", list(WINDOWS_US))
DISTINCT = aggregates(["count_distinct"], "consumer", ["7d", "30d"])
LAST5 = aggregates(["last"], "amount", ["30d"], n=5)

ORDERS = Events("orders", 10_000_000, 10_000)
ZIPF = Events("zipf", 10_000_000, 10_000, spread="zipf")
BUSY = Events("busy", 10_000_000, 200)
HOT_KEY = Events("hot_key", 10_000, 1)
# Tables of one shape and growing length, and a tenth as many questions.
GROWING = tuple(Events(f"orders_{millions}m", millions * 1_000_000, millions * 1_000) for millions in (1, 3, 10))

ABOUT_AMOUNTS = "count, sum, mean, max of amounts over 1 h, 1 d, 7 d, 30 d"
WORKLOADS = (
    Workload("amounts", ABOUT_AMOUNTS, View("amounts", ORDERS, AMOUNTS), 1_000_000, time_goal=10),
    Workload("distinct", "how many consumers over 7 d, 30 d", View("distinct", ORDERS, DISTINCT), 1_000_000, time_goal=10),
    Workload("last5", "the last 5 amounts of 30 d", View("last5", ORDERS, LAST5), 1_000_000, time_goal=10),
    Workload("zipf", "amounts, stores by Zipf's law", View("zipf", ZIPF, AMOUNTS), 1_000_000, time_goal=10),
    Workload("few", "amounts, few questions about busy stores", View("busy", BUSY, AMOUNTS), 400, time_goal=10),
    Workload("hot_key", "amounts of one store", View("hot_key", HOT_KEY, AMOUNTS), 100_000, cores=1, inside_goal=0.3),
    *(
        Workload(f"scaling_{events.name}", "amounts, growing", View(events.name, events, AMOUNTS), events.rows // 10)
        for events in GROWING
    ),
)
# What runs unless workloads are named; `scaling` takes long.
DEFAULT_WORKLOADS = ["amounts", "distinct", "last5", "zipf", "few", "hot_key"]


def at_scale(workload: Workload, scale: str) -> Workload:
    # One store is one store at every scale.
    factor = SCALES[scale] if workload.view.events.keys > 1 else 1
    events = workload.view.events
    events = replace(events, rows=int(events.rows * factor), keys=int(events.keys * factor))
    return replace(workload, view=replace(workload.view, events=events), spine_rows=int(workload.spine_rows * factor))


def chosen(names: list[str], scale: str) -> list[Workload]:
    """Workloads by name; `scaling` stands for all of its sizes, `all` for everything."""
    wanted = names or DEFAULT_WORKLOADS
    picked = [w for w in WORKLOADS if "all" in wanted or w.name in wanted or w.name.split("_orders_")[0] in wanted]
    return [at_scale(workload, scale) for workload in picked]
