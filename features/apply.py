"""Events into states: `state' = apply(state, event, offset)`, a fold over the log of one user in one topic.

For each event, in log order:

1. an offset below the state's version changes nothing (redelivery);
2. an event more than 10 min behind the newest earlier one is late; its version counts, nothing else does;
3. an event id seen within those 10 min is a duplicate; its version counts, nothing else does;
4. all else is added to what does not depend on order: sums per pane, newest time per product and category, session
   intervals that merge.

So within the lateness any order of the log gives the same state; duplicates and late events are decided in log order.
"""

from bisect import bisect_left
from collections.abc import Sequence
from copy import deepcopy
from enum import StrEnum
from functools import lru_cache
from operator import add
from typing import Final, NamedTuple

from features.errors import StateError
from features.retention import LATENESS_MS, compact, is_remembered, remember
from features.spans import MEASURES, SESSION_GAP_MS
from features.state import ORIGIN_REACH_MS, PANE_MS, TopicState, category_key, decode, encode, id_key, origin_of
from schemas.event import Event


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
    """What one kind of event adds to a row of sums: (column, sign, whether it is money)."""

    width: int
    adds: tuple[tuple[int, int, bool], ...]
    has_money: bool


def _plan(kind: str) -> _Plan:
    measures = next(measures for measures in MEASURES.values() if any(kind in measure.signs for measure in measures))
    adds = [(column, each.signs[kind], each.money) for column, each in enumerate(measures) if kind in each.signs]
    return _Plan(len(measures), tuple(adds), any(money for _, _, money in adds))


_PLANS: Final = {kind: _plan(kind) for measures in MEASURES.values() for measure in measures for kind in measure.signs}
_COMPACT_EVERY: Final = 512  # so that a long log costs no more per event than a short one
_category_key = lru_cache(maxsize=4_096)(category_key)  # a shop has few categories


def apply(state: TopicState | None, event: Event, offset: int) -> TopicState:
    """Return the state after one more event; its argument is not changed.

    Args:
        state: the state so far, None for none.
        event: a valid event (schemas/codec.py) of the state's user and topic.
        offset: its offset in its partition.

    Raises:
        StateError: the event belongs to another topic than the state.
    """
    return take(None if state is None else deepcopy(state), event, offset)[0]


def take(state: TopicState | None, event: Event, offset: int) -> tuple[TopicState, Outcome]:
    """Do what `apply` does to a state that nobody else holds: it is changed in place, and what became of it is told.

    Raises:
        StateError: the event belongs to another topic than the state.
    """
    after = _born(event) if state is None else state
    outcome = _take(after, event, offset)
    compact(after)
    after.forgotten_count = 0
    return after, outcome


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
    outcomes: list[Outcome] = []
    for first in range(0, len(log), _COMPACT_EVERY):
        outcomes += [_take(state, event, offset) for offset, event in log[first : first + _COMPACT_EVERY]]
        compact(state)
    if blob is not None and state.version == before:
        return Fold(blob, outcomes, 0)
    state.built_from = before
    return Fold(encode(state), outcomes, state.forgotten_count)


def _born(event: Event) -> TopicState:
    time_ms = event.event_time_ms
    return TopicState(newest_ms=time_ms, origin_ms=origin_of(time_ms), width=_PLANS[event.kind].width)


def _take(state: TopicState, event: Event, offset: int) -> Outcome:
    """Apply one event in place, leaving `compact` to the caller."""
    if offset < state.version:
        return Outcome.REDELIVERED
    state.version = offset + 1
    time_ms = event.event_time_ms
    if time_ms < state.newest_ms - LATENESS_MS:
        return Outcome.LATE
    key = id_key(event.event_id)
    if is_remembered(state, key):
        return Outcome.DUPLICATE
    if time_ms > state.newest_ms:
        state.newest_ms = time_ms
        if time_ms >= state.origin_ms + ORIGIN_REACH_MS:
            compact(state)
    time = time_ms - state.origin_ms
    remember(state, key, time)
    _add(state, event, time)
    return Outcome.APPLIED


def _add(state: TopicState, event: Event, time: int) -> None:
    plan = _PLANS[event.kind]
    if plan.width != state.width:
        raise StateError(f"An event of kind {event.kind} does not belong to the topic of this state.")
    value_minor = _value_minor(event) if plan.has_money else 0
    pane = _pane_at(state, time)
    session = _session_at(state, time)
    for column, sign, is_money in plan.adds:
        amount = sign * value_minor if is_money else sign
        state.pane_sums[pane + column] += amount
        state.session_sums[session + column] += amount
    if event.product_id is not None:
        state.products.renew(event.product_id, time)
    if event.category_id is not None:
        state.categories.renew(_category_key(event.category_id), time)


def _pane_at(state: TopicState, time: int) -> int:
    """Return where in the sums the row of a 10 s pane begins, new where needed."""
    starts, start = state.pane_starts, time // PANE_MS
    place = bisect_left(starts, start)
    row = place * state.width
    if place == len(starts) or starts[place] != start:
        starts.insert(place, start)
        state.pane_sums[row:row] = [0] * state.width
    return row


def _session_at(state: TopicState, time: int) -> int:
    """Return where in the sums the row of the interval of this time begins; new or merged where needed.

    An accepted event is never further behind the newest than the lateness, which is less than the session gap: it
    belongs to the last interval or follows it, and may bridge that to the one before.
    """
    bounds, sums, width = state.session_bounds, state.session_sums, state.width
    if not bounds or time > bounds[-1] + SESSION_GAP_MS:
        bounds += (time, time)
        sums += [0] * width
    elif time > bounds[-1]:
        bounds[-1] = time
    elif time < bounds[-2]:
        bounds[-2] = time
        if len(bounds) > 2 and time <= bounds[-3] + SESSION_GAP_MS:
            del bounds[-3:-1]
            sums[-2 * width :] = map(add, sums[-2 * width : -width], sums[-width:])
    return len(sums) - width


def _value_minor(event: Event) -> int:
    if event.quantity is None or event.unit_price_minor is None:
        raise StateError(f"A cart event of kind {event.kind} has no quantity or no price.")
    return event.quantity * event.unit_price_minor
