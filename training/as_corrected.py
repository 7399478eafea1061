"""Features as they should have been: a fold of all that had happened by the label's instant, late or not.

`as_corrected` folds the raw events with event_time <= instant in the order of event times, so nothing is late and
duplicates are dropped, and finalizes at the instant: the same two functions as live. It is one pass over the events
of the labels' users; memory grows with users and labels, not with events.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.apply import fold
from features.catalog import VIEWS, Value
from features.finalize import finalize
from features.spans import DAY_MS, HOUR_MS
from features.state import decode, read_trailer
from schemas.event import Event
from sinks.erasures import Tombstones
from training.columns import VALUES, value_table
from training.labels import Labels
from training.recorded_events import RecordedEvents, Stretch

WARM_UP_MS: Final = 25 * HOUR_MS  # 24 h windows, the gap of sessions, rounding: what lies before changes no value

_TOPICS: Final = tuple(VIEWS)


def corrected_values(
    labels: Labels, recorded: RecordedEvents, users: Any, tombstones: Tombstones, progress: Callable[[int], None]
) -> pa.Table:
    """Return the values at each label, in their order.

    Args:
        labels: all of them within the range of `recorded`, and `WARM_UP_MS` after its beginning.
        users: Arrow strings, as `recorded` numbers them.
        tombstones: what was erased is left out, wherever it still lies.
        progress: told how many events were looked at.

    Raises:
        LakeUnavailableError: the table cannot be read.
        StateError: an event is not one of its topic.
    """
    if not len(labels):
        return VALUES.empty_table()
    numbers = pc.index_in(labels.user_ids, users).to_numpy()
    order = np.lexsort((labels.instants_ms, numbers))
    pass_ = _Pass(numbers[order], labels.instants_ms[order])
    parts: list[pa.Table] = []
    places: list[Any] = []
    for stretch in recorded.stretches():
        rows, values = pass_.through(stretch, tombstones)
        if values:
            parts.append(value_table(values))
            places.append(order[rows])
        progress(len(stretch.users))
    back = np.argsort(np.concatenate(places))
    return pa.concat_tables(parts).take(pa.array(back))


class _Pass:
    """The states of users on the way through time, and the labels that are met there.

    Args:
        users: number of each label's user; labels are in the order of user and instant.
        instants_ms: of each label.
    """

    def __init__(self, users: Any, instants_ms: Any) -> None:
        self._users = users
        self._instants_ms = instants_ms
        self._first_ms = int(instants_ms.min()) - WARM_UP_MS
        self._span_ms = int(instants_ms.max()) - self._first_ms + 1
        self._keys = self._key(users, instants_ms)
        self._last_label = dict(zip(users.tolist(), instants_ms.tolist(), strict=True))  # the last one stays
        self._states: dict[tuple[int, int], bytes] = {}

    def through(self, stretch: Stretch, tombstones: Tombstones) -> tuple[list[int], list[dict[str, Value]]]:
        """Return the labels of a stretch of time, by number, and the values at each."""
        stretch = stretch.kept(self._matters(stretch))
        if tombstones:
            stretch = stretch.kept(np.array([not tombstones.covers(*place) for place in stretch.places()], bool))
        here = np.flatnonzero((self._instants_ms >= stretch.first_ms) & (self._instants_ms < stretch.end_ms))
        walk = _Walk(stretch, self._users[here], here, self._instants_ms[here])
        rows: list[int] = []
        values: list[dict[str, Value]] = []
        for user, labels, events in walk.users():
            for row, instant_ms in labels:
                self._fold(user, events, instant_ms)
                rows.append(row)
                values.append(self._values(user, instant_ms))
            if self._last_label[user] >= stretch.end_ms:
                self._fold(user, events, stretch.end_ms)
            else:
                for topic in range(len(_TOPICS)):
                    self._states.pop((user, topic), None)
        return rows, values

    def _matters(self, stretch: Stretch) -> Any:
        """Tell of each event whether a label of its user follows within the warm-up."""
        keys = self._key(stretch.users, stretch.times_ms)
        following = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        waits_ms = self._keys[following] - keys
        return (self._users[following] == stretch.users) & (waits_ms >= 0) & (waits_ms <= WARM_UP_MS)

    def _key(self, users: Any, times_ms: Any) -> Any:
        """Put users and times into one order; within a user, differences are milliseconds."""
        return users.astype(np.int64) * (2 * self._span_ms) + (times_ms - self._first_ms)

    def _fold(self, user: int, events: "list[_TopicEvents]", until_ms: int) -> None:
        for topic, of_topic in enumerate(events):
            due = of_topic.due(until_ms)
            if due:
                state = self._states.get((user, topic))
                # their places in this order stand for offsets, so that none is taken for one delivered again
                first = 0 if state is None else read_trailer(state).version
                self._states[user, topic] = fold(state, list(enumerate(due, first))).state

    def _values(self, user: int, instant_ms: int) -> dict[str, Value]:
        blobs = {name: self._states.get((user, topic)) for topic, name in enumerate(_TOPICS)}
        values = finalize({name: None if blob is None else decode(blob) for name, blob in blobs.items()}, instant_ms)
        newest_ms = values["newest_event_ms"]
        if isinstance(newest_ms, int) and newest_ms < instant_ms - DAY_MS:
            values["newest_event_ms"] = None  # whether it is known would depend on the user's other labels
        return values


class _TopicEvents:
    """Events of one user and topic in the order of time, taken from the front."""

    def __init__(self, events: list[Event], times_ms: list[int]) -> None:
        self._events = events
        self._times_ms = times_ms
        self._next = 0

    def due(self, until_ms: int) -> list[Event]:
        """Take those that happened up to an instant."""
        first, self._next = self._next, bisect_right(self._times_ms, until_ms)
        return self._events[first : self._next]


class _Walk:
    """Goes through the users of a stretch that have events or labels there."""

    def __init__(self, stretch: Stretch, label_users: Any, rows: Any, instants_ms: Any) -> None:
        self._stretch = stretch
        self._label_users = label_users
        self._labels = list(zip(rows.tolist(), instants_ms.tolist(), strict=True))

    def users(self) -> Iterator[tuple[int, list[tuple[int, int]], list[_TopicEvents]]]:
        """Yield each user with the labels, (number, instant), and the events by topic."""
        stretch, events, times = self._stretch, self._stretch.events(), self._stretch.times_ms.tolist()
        found = np.union1d(stretch.users, self._label_users)
        count = len(_TOPICS)
        cuts = np.searchsorted(stretch.users * count + stretch.topics, np.arange(count + 1) + found[:, None] * count)
        of_labels = np.searchsorted(self._label_users, np.stack([found, found + 1], axis=1))
        for user, bounds, (first, end) in zip(found.tolist(), cuts.tolist(), of_labels.tolist(), strict=True):
            by_topic = [_TopicEvents(events[start:stop], times[start:stop]) for start, stop in pairwise(bounds)]
            yield user, self._labels[first:end], by_topic
