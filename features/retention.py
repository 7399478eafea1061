"""What a state keeps: the pane ladder, the session intervals, and the caps.

Every boundary is a function of the newest event time, and every cap keeps the newest. Such pruning gives the same
result whether it is done after each event or once after many, so a state does not depend on how its log was cut.
"""

from heapq import heapify, heappop, heappush
from operator import add, lt
from typing import Final, TypeVar

from features.spans import DAY_MS, MINUTE_MS, SESSION_GAP_MS, SESSION_MAX_MS, WINDOWS
from features.state import TopicState

LATENESS_MS: Final = 10 * MINUTE_MS
DISTINCT_IDS_MAX: Final = 256
SEEN_IDS_MAX: Final = 1_024

_QUARTER_MS: Final = 15 * MINUTE_MS
_INTERVALS_BACK_MS: Final = SESSION_MAX_MS + SESSION_GAP_MS

K = TypeVar("K")


def remember(state: TopicState, key: bytes, time_ms: int) -> None:
    """Remember an event id; beyond the cap, forget the oldest by (time, key).

    This cap alone is applied per event, because what is remembered decides what counts. Forgetting an id that is still
    within the lateness horizon is recorded: its duplicate would count.
    """
    seen, queue = state.seen, state.forget_next
    seen[key] = time_ms
    if queue:
        heappush(queue, (time_ms, key))
    if len(seen) <= SEEN_IDS_MAX:
        return
    if not queue:
        queue.extend((time, key) for key, time in seen.items())
        heapify(queue)
    while len(seen) > SEEN_IDS_MAX:
        oldest_ms, oldest = heappop(queue)
        if seen.get(oldest) != oldest_ms:
            continue  # seen again since, after its first time had left the horizon
        del seen[oldest]
        if oldest_ms >= state.newest_ms - LATENESS_MS:
            state.ids_forgotten_ms = max(state.ids_forgotten_ms, oldest_ms)
            state.forgotten_count += 1


def compact(state: TopicState) -> None:
    """Roll up panes and drop what no value can need any more; puts every collection into its documented order."""
    newest_ms = state.newest_ms
    day_ago_ms = newest_ms - DAY_MS
    state.panes = _rolled_up(state.panes, newest_ms)
    while state.intervals[0].last_ms < newest_ms - _INTERVALS_BACK_MS:
        del state.intervals[0]
    state.products, dropped_ms = _newest(state.products, day_ago_ms, DISTINCT_IDS_MAX)
    state.products_dropped_ms = _if_since(day_ago_ms, max(dropped_ms, state.products_dropped_ms))
    state.categories, dropped_ms = _newest(state.categories, day_ago_ms, DISTINCT_IDS_MAX)
    state.categories_dropped_ms = _if_since(day_ago_ms, max(dropped_ms, state.categories_dropped_ms))
    state.seen, _ = _newest(state.seen, newest_ms - LATENESS_MS, SEEN_IDS_MAX)
    state.ids_forgotten_ms = _if_since(day_ago_ms, state.ids_forgotten_ms)
    state.forget_next.clear()
    state.forgotten_count = 0


def _rolled_up(panes: dict[int, list[int]], newest_ms: int) -> dict[int, list[int]]:
    """Keep 10 s panes for the 5 min window, 1 min panes for the 1 h window, 15 min panes for the 24 h window.

    A coarse pane ends before the windows of finer hop begin, at any instant from the newest event on.
    """
    minutes_before_ms = _floor(newest_ms - WINDOWS["5m"].length_ms, MINUTE_MS)
    quarters_before_ms = _floor(newest_ms - WINDOWS["1h"].length_ms, _QUARTER_MS)
    oldest_ms = WINDOWS["24h"].start_ms(newest_ms)
    kept: dict[int, list[int]] = {}
    for pane_ms in sorted(panes):
        start_ms = pane_ms
        if pane_ms < oldest_ms:
            continue
        if pane_ms < quarters_before_ms:
            start_ms = _floor(pane_ms, _QUARTER_MS)
        elif pane_ms < minutes_before_ms:
            start_ms = _floor(pane_ms, MINUTE_MS)
        known, totals = kept.get(start_ms), panes[pane_ms]
        kept[start_ms] = totals if known is None else list(map(add, known, totals))
    return kept


def _newest(times: dict[K, int], oldest_ms: int, most: int) -> tuple[dict[K, int], int]:
    """Keep the newest by (time, id), in this order; tell the time of the newest that the cap dropped, 0 for none."""
    in_order = list(times.values())
    if len(in_order) <= most and all(map(lt, in_order, in_order[1:])) and (not in_order or in_order[0] >= oldest_ms):
        return times, 0  # mostly events come in order, and nothing needs to move
    ranked = sorted(zip(in_order, times, strict=True))
    dropped_ms = ranked[-most - 1][0] if len(ranked) > most else 0
    return {key: time for time, key in ranked[-most:] if time >= oldest_ms}, dropped_ms


def _if_since(oldest_ms: int, time_ms: int) -> int:
    return time_ms if time_ms >= oldest_ms else 0


def _floor(time_ms: int, step_ms: int) -> int:
    return time_ms - time_ms % step_ms
