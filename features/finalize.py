"""States into values: what the features are at an instant, over both topics.

Values decay at read: nothing needs to be written for a window to empty or for a session to close.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import add, itemgetter
from typing import Final, TypeVar

from features.catalog import FEATURES, Value
from features.errors import StateError
from features.spans import MEASURES, SESSION_GAP_MS, SESSION_MAX_MS, WINDOWS, Span
from features.state import TopicState

K = TypeVar("K")

_PLAN: Final = tuple((feature.name, feature.window, feature.define) for feature in FEATURES)
_WINDOWS: Final = tuple(WINDOWS.values())
_NEVER_MS: Final = -1
_NO_STATE: Final = {
    topic: TopicState(newest_ms=_NEVER_MS, width=len(measures), version=0) for topic, measures in MEASURES.items()
}


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
    newest_ms = max(state.newest_ms for state in topics)
    known_ms = None if newest_ms == _NEVER_MS else newest_ms
    instant_ms = newest_ms if as_of_ms is None else max(as_of_ms, newest_ms)

    newest_by_product = _newest([state.products for state in topics])
    products = sorted(zip(newest_by_product.values(), newest_by_product, strict=True))
    product_times = [time_ms for time_ms, _ in products]
    category_times = sorted(_newest([state.categories for state in topics]).values())
    starts_ms = [window.start_ms(instant_ms) for window in _WINDOWS]
    sums = zip(*(_window_sums(state, starts_ms) for state in topics), strict=True)
    spans: dict[str | None, Span] = {
        window: Span(start_ms, instant_ms, known_ms, list(chain(*totals)), products, product_times, category_times)
        for window, start_ms, totals in zip(WINDOWS, starts_ms, sums, strict=True)
    }
    session = _open_session(topics, instant_ms, product_times)
    spans[None] = session

    values = {name: define(spans[window]) for name, window, define in _PLAN}
    read_from_ms = starts_ms[-1] if session.capped else min(starts_ms[-1], session.start_ms or instant_ms)
    since_ms = max(read_from_ms, 1)  # 0 says that nothing was dropped
    values["as_of_ms"] = as_of_ms if known_ms is None else instant_ms
    values["clamped"] = as_of_ms is not None and as_of_ms < instant_ms
    values["newest_event_ms"] = known_ms
    values["partial"] = any(state.partial for state in topics)
    values["dedupe_saturated"] = max(state.ids_forgotten_ms for state in topics) >= since_ms
    values["product_distinct_saturated"] = max(state.products_dropped_ms for state in topics) >= since_ms
    values["category_distinct_saturated"] = max(state.categories_dropped_ms for state in topics) >= since_ms
    return values


def _of_topic(topic: str, state: TopicState | None) -> TopicState:
    empty = _NO_STATE[topic]
    if state is None:
        return empty
    if state.width != empty.width:
        raise StateError(f"A state with {state.width} sums per pane is none of {topic}, which has {empty.width}.")
    return state


def _newest(maps: Sequence[Mapping[K, int]]) -> dict[K, int]:
    """Return the newest time of each id over all topics."""
    newest = dict(maps[0])
    for times in maps[1:]:
        for key, time_ms in times.items():
            if time_ms > newest.get(key, _NEVER_MS):
                newest[key] = time_ms
    return newest


def _window_sums(state: TopicState, starts_ms: Sequence[int]) -> list[list[int]]:
    """Sum the panes of each window, in one pass from newest to oldest: a longer window holds the shorter."""
    panes_ms, rows = list(reversed(state.panes)), list(reversed(state.panes.values()))
    sums = []
    totals = [0] * state.width
    taken = 0
    for start_ms in starts_ms:
        first = taken
        while taken < len(rows) and panes_ms[taken] >= start_ms:
            taken += 1
        if taken > first:
            totals = list(map(sum, zip(totals, *rows[first:taken], strict=True)))
        sums.append(totals)
    return sums


def _open_session(topics: Sequence[TopicState], instant_ms: int, product_times: Sequence[int]) -> Span:
    """Join the intervals of all topics, backwards from the instant, until a gap is too long."""
    totals = [[0] * state.width for state in topics]
    newest_first = [(interval.last_ms, n, interval) for n, state in enumerate(topics) for interval in state.intervals]
    newest_first.sort(key=itemgetter(0), reverse=True)
    first_ms, last_ms = instant_ms, None
    for interval_last_ms, n, interval in newest_first:
        if interval_last_ms < first_ms - SESSION_GAP_MS:
            break
        last_ms = last_ms or interval_last_ms
        first_ms = min(first_ms, interval.first_ms)
        totals[n] = list(map(add, totals[n], interval.totals))
    if last_ms is None:
        return Span(None, instant_ms, None, list(chain(*totals)), (), (), ())
    capped = last_ms - first_ms > SESSION_MAX_MS
    return Span(first_ms, last_ms, last_ms, list(chain(*totals)), (), product_times, (), capped)
