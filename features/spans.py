"""What a feature may depend on: sums over the events of a window or a session, and the newest time of each id."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from features.newest import Newest
from features.state import TopicState
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

SESSION_GAP_MS: Final = 30 * MINUTE_MS
SESSION_MAX_MS: Final = DAY_MS
LAST_PRODUCTS: Final = 10


@dataclass(frozen=True, slots=True)
class Measure:
    """A sum over the events of one topic; panes and session intervals hold one integer per measure.

    Attributes:
        signs: what an event of each kind adds: +1 or -1 times 1, or times quantity * unit price for `money`.
    """

    name: str
    signs: Mapping[str, int]
    money: bool = False


MEASURES: Final[Mapping[str, tuple[Measure, ...]]] = {
    CLICKS_TOPIC: (
        Measure("page_view_count", {"page_view": 1}),
        Measure("click_count", {"click": 1}),
        Measure("search_count", {"search": 1}),
    ),
    CARTS_TOPIC: (
        Measure("cart_add_count", {"add": 1}),
        Measure("cart_remove_count", {"remove": 1}),
        Measure("purchase_count", {"purchase": 1}),
        Measure("cart_value_minor", {"add": 1, "remove": -1}, money=True),
        Measure("purchase_value_minor", {"purchase": 1}, money=True),
    ),
}
TOTALS_COUNT: Final = sum(map(len, MEASURES.values()))
_COLUMNS: Final = {name: i for i, name in enumerate(m.name for measures in MEASURES.values() for m in measures)}


@dataclass(frozen=True, slots=True)
class Window:
    """A hopping window: the current pane of `hop_ms` so far, and those before it that make up `length_ms`."""

    length_ms: int
    hop_ms: int

    def start_ms(self, as_of_ms: int) -> int:
        """Return the first instant that the window holds at `as_of_ms`."""
        return (as_of_ms // self.hop_ms + 1) * self.hop_ms - self.length_ms


WINDOWS: Final[Mapping[str, Window]] = {  # shortest first
    "5m": Window(5 * MINUTE_MS, 10 * SECOND_MS),
    "30m": Window(30 * MINUTE_MS, MINUTE_MS),
    "1h": Window(HOUR_MS, MINUTE_MS),
    "24h": Window(DAY_MS, 15 * MINUTE_MS),
}


class Span(NamedTuple):
    """A window at an instant, or the session that is open then, over both topics.

    Attributes:
        start_ms: first instant of the window, or first event of the session; None when no session is open.
        end_ms: the instant, or the last event of the session.
        newest_ms: newest event time of the user, None without events.
        totals: sums in the order of `MEASURES`.
        topics: the states of the user, for the newest time of each id.
        capped: the session is longer than `SESSION_MAX_MS`; its other values say nothing.
    """

    start_ms: int | None
    end_ms: int
    newest_ms: int | None
    totals: Sequence[int]
    topics: Sequence[TopicState]
    capped: bool = False


Value = int | float | bool | list[str] | None
Definition = Callable[[Span], Value]


@dataclass(frozen=True, slots=True)
class Total:
    """Defines a feature as the total of one measure: a plain number of the span, which is read without a call."""

    column: int

    def __call__(self, span: Span) -> int:
        """Return the value for a span."""
        return span.totals[self.column]


def total(measure: str) -> Total:
    """Define a feature as the sum of this measure."""
    return Total(_COLUMNS[measure])


def total_of(*measures: str) -> Definition:
    """Define a feature as the sum of all these measures."""
    pick = itemgetter(*(_COLUMNS[name] for name in measures))
    return lambda span: sum(pick(span.totals))


def per_page_view(measure: str) -> Definition:
    """Define a feature as this measure per page view, null without page views."""
    column, views = _COLUMNS[measure], _COLUMNS["page_view_count"]
    return lambda span: span.totals[column] / span.totals[views] if span.totals[views] else None


def product_distinct(span: Span) -> int:
    """Count the products whose newest event lies in the span."""
    return _distinct(span, _products_of)


def category_distinct(span: Span) -> int:
    """Count the categories whose newest event lies in the span."""
    return _distinct(span, _categories_of)


def last_products(span: Span) -> list[str]:
    """List the products of the newest events in the span, newest first; of equal times, the greater id first."""
    origin_ms = span.topics[0].origin_ms
    recent: list[tuple[int, str]] = []
    for topic in span.topics:
        products, shift_ms = topic.products, topic.origin_ms - origin_ms
        last = zip(products.times[-LAST_PRODUCTS:], products.ids[-LAST_PRODUCTS:], strict=True)
        recent += [(time + shift_ms, product) for time, product in last] if shift_ms else last
    recent.sort(reverse=True)
    start = (span.start_ms or 0) - origin_ms
    return list({product: None for time, product in recent if time >= start})[:LAST_PRODUCTS]


def seconds_since_last_event(span: Span) -> float | None:
    """Tell the time from the newest event to the instant; null beyond 24 h."""
    if span.newest_ms is None or span.end_ms - span.newest_ms > DAY_MS:
        return None
    return (span.end_ms - span.newest_ms) / SECOND_MS


def duration_s(span: Span) -> float:
    """Tell the time from the first to the newest event of the session; 0 when none is open."""
    return 0.0 if span.start_ms is None else (span.end_ms - span.start_ms) / SECOND_MS


_products_of: Final[Callable[[TopicState], Newest[Any]]] = attrgetter("products")
_categories_of: Final[Callable[[TopicState], Newest[Any]]] = attrgetter("categories")


def _distinct(span: Span, newest_of: Callable[[TopicState], Newest[Any]]) -> int:
    if span.start_ms is None:
        return 0
    found: set[Any] = set()
    for topic in span.topics:
        newest = newest_of(topic)
        found.update(newest.ids[bisect_left(newest.times, span.start_ms - topic.origin_ms) :])
    return len(found)
