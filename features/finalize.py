"""States into values: what the features are at an instant, over both topics.

Values decay at read: nothing needs to be written for a window to empty or for a session to close.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Final

from features.catalog import FEATURES, STATUS_FIELDS, Value
from features.errors import StateError
from features.spans import MEASURES, SESSION_GAP_MS, SESSION_MAX_MS, TOTALS_COUNT, WINDOWS, Span, Total
from features.state import PANE_MS, TopicState

_NEVER_MS: Final = -1
_NO_STATE: Final = {
    topic: TopicState(newest_ms=_NEVER_MS, origin_ms=0, width=len(measures)) for topic, measures in MEASURES.items()
}

# The plan: of each feature, the number of its span (windows, then the session) and what it takes from it.
_WINDOWS: Final = tuple(WINDOWS.values())
_SPANS: Final = {window: n for n, window in enumerate((*WINDOWS, None))}
_NAMES: Final = dict.fromkeys((*(feature.name for feature in FEATURES), *(field.name for field in STATUS_FIELDS)))
_TOTALS: Final = {
    feature.name: _SPANS[feature.window] * TOTALS_COUNT + feature.define.column
    for feature in FEATURES
    if isinstance(feature.define, Total)
}
_SATURATED: Final = ("dedupe_saturated", "product_distinct_saturated", "category_distinct_saturated")
_NO_TOTALS: Final = (0,) * TOTALS_COUNT
_totals_of: Final = itemgetter(*_TOTALS.values())
_OTHERS: Final = tuple((f.name, _SPANS[f.window], f.define) for f in FEATURES if f.name not in _TOTALS)
_OF_CAPPED: Final = dict.fromkeys(feature.name for feature in FEATURES if feature.window is None and feature.nullable)


def finalize(states: Mapping[str, TopicState | None], as_of_ms: int | None) -> dict[str, Value]:
    """Return every feature and status field of the catalog, by name.

    Args:
        states: topic -> compacted state; None or absent where the user has none.
        as_of_ms: the instant; one before the newest event is raised to it and the answer says `clamped`; None means the
            newest event. Without states the values are those of a user without events; `as_of_ms` stays as given.

    Raises:
        StateError: a state is not one of its topic.
    """
    topics = [_of_topic(topic, states.get(topic)) for topic in MEASURES]
    newest_ms = max([state.newest_ms for state in topics])
    known_ms = None if newest_ms == _NEVER_MS else newest_ms
    instant_ms = newest_ms if as_of_ms is None else max(as_of_ms, newest_ms)

    starts_ms = [window.start_ms(instant_ms) for window in _WINDOWS]
    spans = [
        Span(start_ms, instant_ms, known_ms, totals, topics)
        for start_ms, totals in zip(starts_ms, _window_totals(topics, starts_ms), strict=True)
    ]
    session = _open_session(topics, newest_ms, instant_ms)
    spans.append(session)

    values: dict[str, Value] = {**_NAMES}
    values.update(zip(_TOTALS, _totals_of([total for span in spans for total in span.totals]), strict=True))
    for name, n, define in _OTHERS:
        values[name] = define(spans[n])
    if session.capped:
        values.update(_OF_CAPPED)

    read_from_ms = starts_ms[-1] if session.capped else min(starts_ms[-1], session.start_ms or instant_ms)
    since_ms = max(read_from_ms, 1)  # 0 says that nothing was dropped
    values["as_of_ms"] = as_of_ms if known_ms is None else instant_ms
    values["clamped"] = as_of_ms is not None and as_of_ms < instant_ms
    values["newest_event_ms"] = known_ms
    values["partial"] = any(state.partial for state in topics)
    forgotten = [(state.ids_forgotten_ms, state.products_dropped_ms, state.categories_dropped_ms) for state in topics]
    for name, lost_ms in zip(_SATURATED, map(max, *forgotten), strict=True):
        values[name] = lost_ms >= since_ms
    return values


def _of_topic(topic: str, state: TopicState | None) -> TopicState:
    empty = _NO_STATE[topic]
    if state is None:
        return empty
    if state.width != empty.width:
        raise StateError(f"A state with {state.width} sums per pane is none of {topic}, which has {empty.width}.")
    return state


def _window_totals(topics: Sequence[TopicState], starts_ms: Sequence[int]) -> list[list[int]]:
    """Sum the panes of each window: one pass from newest to oldest, in which a longer window holds the shorter."""
    totals: list[list[int]] = [[] for _ in starts_ms]
    for state in topics:
        sums, width, starts = state.pane_sums, state.width, state.pane_starts
        running = [[0, *accumulate(sums[column - width :: -width])] for column in range(width)]
        for n, start_ms in enumerate(starts_ms):
            inside = len(starts) - bisect_left(starts, (start_ms - state.origin_ms) // PANE_MS)
            totals[n] += [column[inside] for column in running]
    return totals


def _open_session(topics: Sequence[TopicState], newest_ms: int, instant_ms: int) -> Span:
    """Join the intervals of all topics, backwards from the newest event, until a gap is too long."""
    if newest_ms == _NEVER_MS or newest_ms < instant_ms - SESSION_GAP_MS:
        return Span(None, instant_ms, None, _NO_TOTALS, topics)
    first_ms, joined_ms = newest_ms, None
    while joined_ms != first_ms:
        joined_ms = first_ms
        for state in topics:
            bounds = state.session_bounds
            first = _interval_since(bounds, first_ms - SESSION_GAP_MS - state.origin_ms)
            if 2 * first < len(bounds):
                first_ms = min(first_ms, state.origin_ms + bounds[2 * first])
    totals: list[int] = []
    for state in topics:
        first = _interval_since(state.session_bounds, first_ms - state.origin_ms)
        rows, width = state.session_sums[first * state.width :], state.width
        totals += rows if len(rows) == width else [sum(rows[column::width]) for column in range(width)]
    capped = newest_ms - first_ms > SESSION_MAX_MS
    return Span(first_ms, newest_ms, newest_ms, totals, topics, capped)


def _interval_since(bounds: Sequence[int], time: int) -> int:
    """Return the number of the first interval that does not end before this time."""
    return bisect_left(bounds, time) // 2
