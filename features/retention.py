"""What a state keeps: the pane ladder, the session intervals, and the caps.

Every boundary is a function of the newest event time, and every cap keeps the newest. Such pruning gives the same
result whether it is done after each event or once after many, so a state does not depend on how its log was cut.
"""

from array import array
from bisect import bisect_left
from itertools import chain, repeat
from operator import add, mod
from typing import Any, Final

from features.newest import Newest
from features.spans import DAY_MS, MINUTE_MS, SESSION_GAP_MS, SESSION_MAX_MS, WINDOWS
from features.state import KEY_BYTES, PANE_MS, TopicState, move_origin, origin_of

LATENESS_MS: Final = 10 * MINUTE_MS
DISTINCT_IDS_MAX: Final = 256
SEEN_IDS_MAX: Final = 1_024

_MINUTE_PANES: Final = MINUTE_MS // PANE_MS
_QUARTER_PANES: Final = 15 * _MINUTE_PANES
_FIVE_MINUTES_MS: Final = WINDOWS["5m"].length_ms
_HOUR_MS: Final = WINDOWS["1h"].length_ms
_DAY: Final = WINDOWS["24h"]
_INTERVALS_BACK_MS: Final = SESSION_MAX_MS + SESSION_GAP_MS


def is_remembered(state: TopicState, key: bytes) -> bool:
    """Tell whether an event id was seen within the lateness horizon."""
    found = state.seen.find(key)
    while found > 0 and found % KEY_BYTES:  # across two keys
        found = state.seen.find(key, found + 1)
    return found >= 0


def remember(state: TopicState, key: bytes, time: int) -> None:
    """Remember an event id, and forget those that left the horizon; beyond the cap, the oldest by (time, key).

    This alone is done per event, because what is remembered decides what counts. Forgetting an id that is still within
    the lateness horizon is recorded: its duplicate would count.
    """
    _forget_beyond_horizon(state)
    keys, times = state.seen, state.seen_times
    place = len(times)
    if times and times[-1] >= time:
        place = bisect_left(times, time)
        while place < len(times) and times[place] == time and keys[KEY_BYTES * place : KEY_BYTES * (place + 1)] < key:
            place += 1
    times.insert(place, time)
    keys[KEY_BYTES * place : KEY_BYTES * place] = key
    if len(times) > SEEN_IDS_MAX:
        state.ids_forgotten_ms = max(state.ids_forgotten_ms, state.origin_ms + times[0])
        state.forgotten_count += 1
        del times[0], keys[:KEY_BYTES]


def compact(state: TopicState) -> None:
    """Roll up panes, and drop what no value can need any more."""
    newest = state.newest_ms - state.origin_ms
    _roll_up(state, newest)
    while state.session_bounds and state.session_bounds[1] < newest - _INTERVALS_BACK_MS:
        del state.session_bounds[:2], state.session_sums[: state.width]
    state.products_dropped_ms = _prune(state, state.products, state.products_dropped_ms)
    state.categories_dropped_ms = _prune(state, state.categories, state.categories_dropped_ms)
    _forget_beyond_horizon(state)
    if state.ids_forgotten_ms < state.newest_ms - DAY_MS:
        state.ids_forgotten_ms = 0
    if state.origin_ms != origin_of(state.newest_ms):
        move_origin(state)


def _roll_up(state: TopicState, newest: int) -> None:
    """Keep 10 s panes for the 5 min window, 1 min panes for the 1 h window, 15 min panes for the 24 h window.

    A coarse pane ends before the windows of finer hop begin, at any instant from the newest event on.
    """
    starts = state.pane_starts
    oldest = _DAY.start_ms(newest) // PANE_MS
    if starts and starts[0] < oldest:
        old = bisect_left(starts, oldest)
        del starts[:old], state.pane_sums[: old * state.width]
    quarters_end = bisect_left(starts, _floor((newest - _HOUR_MS) // PANE_MS, _QUARTER_PANES))
    minutes_end = bisect_left(starts, _floor((newest - _FIVE_MINUTES_MS) // PANE_MS, _MINUTE_PANES))
    _coarsen(state, quarters_end, minutes_end, _MINUTE_PANES)
    _coarsen(state, 0, quarters_end, _QUARTER_PANES)


def _coarsen(state: TopicState, first: int, end: int, step: int) -> None:
    """Add up the panes from `first` to before `end` into panes that start at multiples of `step`."""
    starts, sums, width = state.pane_starts, state.pane_sums, state.width
    off_grid = list(map(mod, starts[first:end], repeat(step)))
    if not any(off_grid):
        return
    coarse: dict[int, list[int]] = {}
    for i in range(first, end):
        start = _floor(starts[i], step)
        row = sums[i * width : (i + 1) * width]
        known = coarse.get(start)
        coarse[start] = row if known is None else list(map(add, known, row))
    starts[first:end] = array(starts.typecode, coarse)
    sums[first * width : end * width] = chain.from_iterable(coarse.values())


def _prune(state: TopicState, newest: Newest[Any], dropped_ms: int) -> int:
    """Keep the newest of the last 24 h; return the time of the newest that the cap dropped within them, 0 for none."""
    day_ago_ms = state.newest_ms - DAY_MS
    dropped = newest.prune(day_ago_ms - state.origin_ms, DISTINCT_IDS_MAX)
    if dropped is not None:
        dropped_ms = max(dropped_ms, state.origin_ms + dropped)
    return dropped_ms if dropped_ms >= day_ago_ms else 0


def _forget_beyond_horizon(state: TopicState) -> None:
    times = state.seen_times
    horizon = state.newest_ms - state.origin_ms - LATENESS_MS
    if times and times[0] < horizon:
        old = bisect_left(times, horizon)
        del times[:old], state.seen[: KEY_BYTES * old]


def _floor(number: int, step: int) -> int:
    return number - number % step
