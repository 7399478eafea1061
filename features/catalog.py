"""The catalog: the one place where a feature is named.

Feast's fields, Delta's columns, the Flink job and docs/reference/features.md derive from it. To add one over the sums
that exist, add a line to `FEATURES`, and a test. A new measure (features/spans.py) is a new state layout; a changed
definition is a new `DEFINITION_VERSION` (config/definition.py), with views of its own beside the old.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from config.definition import DEFINITION_VERSION, versioned
from features.spans import (
    LAST_PRODUCTS,
    WINDOWS,
    Definition,
    Value,
    Window,
    category_distinct,
    duration_s,
    last_products,
    per_page_view,
    product_distinct,
    seconds_since_last_event,
    total,
    total_of,
)
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC

__all__ = [
    "DEFINITION_VERSION",
    "FEATURES",
    "ON_DEMAND_VIEW",
    "READ_REQUEST",
    "STATUS_FIELDS",
    "VIEWS",
    "WINDOWS",
    "Feature",
    "StatusField",
    "Value",
    "View",
    "Window",
    "as_markdown",
    "views_of",
]

Dtype = Literal["int", "float", "bool", "strings"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One value that `finalize` computes.

    Attributes:
        name: `<feature>_<window>`, or `session_<feature>`.
        window: key of `WINDOWS`; None for the session.
        unit: `events`, `ids`, `minor units`, `ms`, `s`, `ratio`, or empty.
        define: its value for a span.
    """

    name: str
    window: str | None
    dtype: Dtype
    nullable: bool
    unit: str
    description: str
    define: Definition


@dataclass(frozen=True, slots=True)
class StatusField:
    """One output of `finalize` about the answer itself."""

    name: str
    dtype: Dtype
    nullable: bool
    description: str


@dataclass(frozen=True, slots=True)
class View:
    """The Feast view that holds the states of one topic, in one field of bytes called `state`."""

    topic: str
    view: str
    push_source: str


_STATES_OF: Final = {CLICKS_TOPIC: "user_clicks", CARTS_TOPIC: "user_carts"}


def views_of(version: int) -> dict[str, View]:
    """Return the views of a definition version, by topic."""
    return {
        topic: View(topic, f"{name}_v{version}", versioned(f"{name}_push", version))
        for topic, name in _STATES_OF.items()
    }


VIEWS: Final[Mapping[str, View]] = views_of(DEFINITION_VERSION)
ON_DEMAND_VIEW: Final = f"session_features_v{DEFINITION_VERSION}"
READ_REQUEST: Final = versioned("session_features_request")


class _Kind(NamedTuple):
    dtype: Dtype
    unit: str
    nullable: bool = False


_EVENTS = _Kind("int", "events")
_IDS = _Kind("int", "ids")
_MONEY = _Kind("int", "minor units")
_TIME = _Kind("int", "ms")
_SECONDS = _Kind("float", "s")
_FLAG = _Kind("bool", "")
_EVENT_COUNTS: Final = {
    "page_view_count": "Page views.",
    "click_count": "Clicks.",
    "search_count": "Searches.",
    "cart_add_count": "Adds to the cart.",
    "cart_remove_count": "Removals from the cart.",
    "purchase_count": "Purchases.",
}
_CART_VALUE: Final = "Quantity times unit price, of adds minus removals."
_BOUGHT_VALUE: Final = "Quantity times unit price, of purchases."


def _windowed(name: str, windows: str, kind: _Kind, description: str, define: Definition) -> Iterator[Feature]:
    for window in windows.split():
        yield Feature(f"{name}_{window}", window, kind.dtype, kind.nullable, kind.unit, description, define)


def _session(name: str, kind: _Kind, description: str, define: Definition) -> Feature:
    return Feature(f"session_{name}", None, kind.dtype, kind.nullable, kind.unit, description, define)


def _unless_capped(name: str, kind: _Kind, description: str, define: Definition) -> Feature:
    return _session(name, kind._replace(nullable=True), description, define)


_RATE = _Kind("float", "ratio", nullable=True)
_LAST = (
    f"The {LAST_PRODUCTS} products of the newest events, each once, newest first; of equal times the greater id first."
)

FEATURES: Final[tuple[Feature, ...]] = (
    *(f for name, text in _EVENT_COUNTS.items() for f in _windowed(name, "5m 30m 1h 24h", _EVENTS, text, total(name))),
    *_windowed("cart_value_minor", "30m 1h 24h", _MONEY, _CART_VALUE, total("cart_value_minor")),
    *_windowed("purchase_value_minor", "24h", _MONEY, _BOUGHT_VALUE, total("purchase_value_minor")),
    *_windowed("product_distinct", "30m 24h", _IDS, "Distinct products, over events of any kind.", product_distinct),
    *_windowed(
        "category_distinct", "30m 24h", _IDS, "Distinct categories, over events of any kind.", category_distinct
    ),
    *_windowed("click_through_rate", "30m 24h", _RATE, "Clicks per page view.", per_page_view("click_count")),
    *_windowed("cart_rate", "30m 24h", _RATE, "Cart adds per page view.", per_page_view("cart_add_count")),
    *_windowed("last_products", "24h", _Kind("strings", "ids"), _LAST, last_products),
    *_windowed(
        "seconds_since_last_event",
        "24h",
        _SECONDS._replace(nullable=True),
        "From the newest event to the instant; null beyond 24 h.",
        seconds_since_last_event,
    ),
    _session("open", _FLAG, "The newest event is at most 30 min ago.", lambda span: span.start_ms is not None),
    _session("capped", _FLAG, "It is longer than 24 h, so its other values are null.", lambda span: span.capped),
    _unless_capped("start_ms", _TIME, "Its first event; null when none is open.", lambda span: span.start_ms),
    _unless_capped("duration_s", _SECONDS, "From its first to its newest event.", duration_s),
    _unless_capped("event_count", _EVENTS, "All its events.", total_of(*_EVENT_COUNTS)),
    _unless_capped("page_view_count", _EVENTS, "Page views in it.", total("page_view_count")),
    _unless_capped("click_count", _EVENTS, "Clicks in it.", total("click_count")),
    _unless_capped("search_count", _EVENTS, "Searches in it.", total("search_count")),
    _unless_capped("cart_add_count", _EVENTS, "Adds to the cart in it.", total("cart_add_count")),
    _unless_capped("cart_value_minor", _MONEY, _CART_VALUE, total("cart_value_minor")),
    _unless_capped("product_distinct", _IDS, "Distinct products of its events.", product_distinct),
)

STATUS_FIELDS: Final[tuple[StatusField, ...]] = (
    StatusField(
        "as_of_ms", "int", nullable=True, description="The instant of the values; null with neither it nor events."
    ),
    StatusField("clamped", "bool", nullable=False, description="The instant asked for was raised to the newest event."),
    StatusField("newest_event_ms", "int", nullable=True, description="Time of the newest event; null without events."),
    StatusField("partial", "bool", nullable=False, description="Born during a rebuild: events may be missing."),
    StatusField("dedupe_saturated", "bool", nullable=False, description="An event may have counted twice."),
    StatusField("product_distinct_saturated", "bool", nullable=False, description="More products than are kept."),
    StatusField("category_distinct_saturated", "bool", nullable=False, description="More categories than are kept."),
)


def as_markdown() -> str:
    """Return docs/reference/features.md; a test holds the file to it."""
    lines = [
        "# Features",
        "",
        f"Definition version {DEFINITION_VERSION}. Generated from `features/catalog.py`; do not edit.",
        "",
        "## Windows",
        "",
        "At an instant, a window of length W and hop h covers the events with",
        "`(floor(instant / h) + 1) * h - W <= event_time <= instant`:",
        "the current pane so far and the W/h - 1 before it.",
        "",
        "| window | length (ms) | hop (ms) |",
        "|---|---|---|",
        *(f"| `{name}` | {window.length_ms} | {window.hop_ms} |" for name, window in WINDOWS.items()),
        "",
        "## Values",
        "",
        "| name | type | unit | null | definition |",
        "|---|---|---|---|---|",
        *(
            f"| `{f.name}` | {f.dtype} | {f.unit or '-'} | {'yes' if f.nullable else 'no'} | {f.description} |"
            for f in FEATURES
        ),
        "",
        "A session is a run of events, over both topics, in which none comes more than 30 min after the one before.",
        "It is open while the instant is at most 30 min after its last event. When none is open, `session_start_ms`",
        "is null and the other values are 0. When it is longer than 24 h, `session_open` and `session_capped` are",
        "true and the others null.",
        "",
        "## About the answer",
        "",
        "| name | type | null | meaning |",
        "|---|---|---|---|",
        *(f"| `{s.name}` | {s.dtype} | {'yes' if s.nullable else 'no'} | {s.description} |" for s in STATUS_FIELDS),
        "",
        "The three `_saturated` flags tell of caps (docs/reference/state.md), and only while what was dropped could",
        "still be in the 24 h window or in the open session.",
    ]
    return "\n".join(lines) + "\n"
