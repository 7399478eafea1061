"""Logs of one user to test with: events, their numbering, and their states."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.apply import fold
from features.finalize import finalize
from features.state import TopicState, decode
from schemas.event import CART_KINDS, CARTS_TOPIC, CLICKS_TOPIC, Event

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOON = 1_700_049_600_000  # 2023-11-15T12:00:00Z, on the edge of every pane

Log = list[tuple[int, Event]]


def event(at_ms: int, kind: str = "page_view", event_id: str | None = None, **fields: Any) -> Event:
    """Make an event `at_ms` after NOON; without an id of its own it is unique by time, kind and product."""
    if kind in CART_KINDS:
        fields = {"product_id": "p1", "quantity": 1, "unit_price_minor": 100, "currency": "EUR"} | fields
    made_id = f"{kind}@{at_ms}:{fields.get('product_id')}" if event_id is None else event_id
    return Event(event_id=made_id, kind=kind, user_id="u1", event_time_ms=NOON + at_ms, **fields)


def numbered(events: Iterable[Event], first_offset: int = 0) -> Log:
    """Number events in the order given: that is their log."""
    return list(enumerate(events, first_offset))


def topic_of(made: Event) -> str:
    return CARTS_TOPIC if made.kind in CART_KINDS else CLICKS_TOPIC


def logs_of(events: Iterable[Event]) -> dict[str, Log]:
    """Number events per topic, in the order given."""
    by_topic: dict[str, list[Event]] = {CLICKS_TOPIC: [], CARTS_TOPIC: []}
    for made in events:
        by_topic[topic_of(made)].append(made)
    return {topic: numbered(made) for topic, made in by_topic.items()}


def folded(log: Sequence[tuple[int, Event]]) -> TopicState:
    return decode(fold(None, log).state)


def states_of(logs: Mapping[str, Log]) -> dict[str, TopicState | None]:
    return {topic: folded(log) if log else None for topic, log in logs.items()}


def values_of(events: Iterable[Event], as_of_ms: int | None = None) -> dict[str, Any]:
    """Finalize events `as_of_ms` after NOON, None for the newest event."""
    return finalize(states_of(logs_of(events)), None if as_of_ms is None else NOON + as_of_ms)
