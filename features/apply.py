"""Events into states: `state' = apply(state, event, offset)`, a fold over the log of one user in one topic.

For each event, in log order:

1. an offset below the state's version changes nothing (redelivery);
2. an event more than 10 min behind the newest earlier one is late; its version counts, nothing else does;
3. an event id seen within those 10 min is a duplicate; its version counts, nothing else does;
4. all else is added to what does not depend on order: sums per pane, newest time per product and category, session
   intervals that merge.

So within the lateness any order of the log gives the same state; duplicates and late events are decided in log order.
"""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from msgspec.structs import replace

from features.errors import StateError
from features.retention import LATENESS_MS, compact, remember
from features.spans import MEASURES, SESSION_GAP_MS
from features.state import PANE_MS, Interval, TopicState, decode, encode, id_key
from schemas.event import Event

K = TypeVar("K")


class Outcome(StrEnum):
    """What became of one event; each event has exactly one."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    LATE = "late"
    REDELIVERED = "redelivered"


class Fold(NamedTuple):
    """The result of folding a part of a log.

    Attributes:
        state: bytes of the new state; the same bytes as before when all was redelivered.
        outcomes: one per event, in the order of the log.
        forgotten_count: event ids that the cap dropped while a duplicate could still come.
    """

    state: bytes
    outcomes: list[Outcome]
    forgotten_count: int


class _Plan(NamedTuple):
    """What one kind of event adds: (column, sign), to columns of counts and of money."""

    width: int
    counts: tuple[tuple[int, int], ...]
    money: tuple[tuple[int, int], ...]


def _plan(kind: str) -> _Plan:
    measures = next(measures for measures in MEASURES.values() if any(kind in measure.signs for measure in measures))
    adds = [
        (measure.money, column, measure.signs[kind]) for column, measure in enumerate(measures) if kind in measure.signs
    ]
    return _Plan(
        len(measures),
        tuple((column, sign) for money, column, sign in adds if not money),
        tuple((column, sign) for money, column, sign in adds if money),
    )


_PLANS: Final = {kind: _plan(kind) for measures in MEASURES.values() for measure in measures for kind in measure.signs}
_category_key = lru_cache(maxsize=4_096)(id_key)  # a shop has few categories


def apply(state: TopicState | None, event: Event, offset: int) -> TopicState:
    """Return the state after one more event; its argument is not changed.

    Args:
        state: the state so far, None for none.
        event: a valid event (schemas/codec.py) of the state's user and topic.
        offset: its offset in its partition.

    Raises:
        StateError: the event belongs to another topic than the state.
    """
    if state is None:
        after = _born(event)
    else:
        after = replace(
            state,
            panes={start_ms: totals.copy() for start_ms, totals in state.panes.items()},
            intervals=[replace(interval, totals=interval.totals.copy()) for interval in state.intervals],
            products=state.products.copy(),
            categories=state.categories.copy(),
            seen=state.seen.copy(),
            forget_next=[],
        )
    _take(after, event, offset)
    compact(after)
    return after


def fold(blob: bytes | None, log: Sequence[tuple[int, Event]], *, partial: bool = False) -> Fold:
    """Apply a part of a log to a stored state: one decode, one encode.

    The new state is built from the version of `blob` and keeps its generation. However a log is cut into parts, and
    whatever is delivered again, the bytes before the trailer and the version come out the same.

    Args:
        blob: bytes of the state so far, None for none.
        log: (offset, event) of one user in one topic, in log order; not empty when there is no blob.
        partial: the log is being rebuilt: mark a state that is born here.

    Raises:
        StateError: `blob` is no state, or an event belongs to another topic.
    """
    if blob is not None:
        state = decode(blob)
        before = state.version
    elif log:
        state = _born(log[0][1])
        state.partial = partial
        before = 0
    else:
        raise StateError("There is neither a state nor an event to fold.")
    outcomes = [_take(state, event, offset) for offset, event in log]
    if blob is not None and state.version == before:
        return Fold(blob, outcomes, 0)
    state.built_from = before
    forgotten_count = state.forgotten_count
    compact(state)
    return Fold(encode(state), outcomes, forgotten_count)


def _born(event: Event) -> TopicState:
    return TopicState(newest_ms=event.event_time_ms, width=_PLANS[event.kind].width, version=0)


def _take(state: TopicState, event: Event, offset: int) -> Outcome:
    """Apply one event in place, leaving `compact` to the caller."""
    if offset < state.version:
        return Outcome.REDELIVERED
    state.version = offset + 1
    time_ms = event.event_time_ms
    horizon_ms = state.newest_ms - LATENESS_MS
    if time_ms < horizon_ms:
        return Outcome.LATE
    key = id_key(event.event_id)
    seen_ms = state.seen.get(key)
    if seen_ms is not None and seen_ms >= horizon_ms:
        return Outcome.DUPLICATE
    if time_ms > state.newest_ms:
        state.newest_ms = time_ms
    remember(state, key, time_ms)
    _add(state, event)
    return Outcome.APPLIED


def _add(state: TopicState, event: Event) -> None:
    plan = _PLANS[event.kind]
    if plan.width != state.width:
        raise StateError(f"An event of kind {event.kind} does not belong to the topic of this state.")
    time_ms = event.event_time_ms
    pane_ms = time_ms - time_ms % PANE_MS
    pane = state.panes.get(pane_ms)
    if pane is None:
        pane = state.panes[pane_ms] = [0] * plan.width
    session = _interval_at(state.intervals, time_ms, plan.width).totals
    for column, amount in plan.counts:
        pane[column] += amount
        session[column] += amount
    if plan.money:
        value_minor = _value_minor(event)
        for column, sign in plan.money:
            pane[column] += sign * value_minor
            session[column] += sign * value_minor
    product, category = event.product_id, event.category_id
    if product is not None:
        _renew(state.products, product, time_ms)
    if category is not None:
        _renew(state.categories, _category_key(category), time_ms)


def _renew(newest_ms: dict[K, int], key: K, time_ms: int) -> None:
    """Move the id to the end, where it belongs if events come in order."""
    known_ms = newest_ms.pop(key, time_ms)
    newest_ms[key] = max(known_ms, time_ms)


def _interval_at(intervals: list[Interval], time_ms: int, width: int) -> Interval:
    """Return the interval that an event at this time belongs to, new or merged where needed.

    An accepted event is never further behind the newest than the lateness, which is less than the session gap: it
    belongs to the last interval or follows it, and may bridge that to the one before.
    """
    last = intervals[-1] if intervals else None
    if last is None or time_ms > last.last_ms + SESSION_GAP_MS:
        last = Interval(time_ms, time_ms, [0] * width)
        intervals.append(last)
    elif time_ms > last.last_ms:
        last.last_ms = time_ms
    elif time_ms < last.first_ms:
        last.first_ms = time_ms
        if len(intervals) > 1 and time_ms <= intervals[-2].last_ms + SESSION_GAP_MS:
            del intervals[-1]
            earlier = intervals[-1]
            earlier.last_ms = last.last_ms
            earlier.totals = [a + b for a, b in zip(earlier.totals, last.totals, strict=True)]
            last = earlier
    return last


def _value_minor(event: Event) -> int:
    if event.quantity is None or event.unit_price_minor is None:
        raise StateError(f"A cart event of kind {event.kind} has no quantity or no price.")
    return event.quantity * event.unit_price_minor
