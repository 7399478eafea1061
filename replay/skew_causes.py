"""Whether an answer is what should have been served, and if not, why: by computing it again, one step at a time.

| step                                                             | differs from the step before: the cause is   |
|------------------------------------------------------------------|----------------------------------------------|
| what was served                                                  |                                              |
| the state that was served, finalized at that instant             | a definition change, or unknown: a bug       |
| the log up to that state's version, folded again                 | a lost push where events are lacking, or a   |
|                                                                  | definition change, or unknown                |
| ... up to what had been appended early enough to be served       | a lost or stale push                         |
| ... each event id once                                           | a duplicate                                  |
| all that had happened by then, in the order in which it happened | an event that was late                       |

The last is what should have been served. An answer that equals it is right, however it came about.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from features.catalog import DEFINITION_VERSION, FEATURES
from features.finalize import finalize
from features.state import TopicState, decode
from replay.skew_history import Entry, Folded, TopicHistory, in_time_order, once, state_of
from sinks.served import ServedRow, catalog_fingerprint

EVENTS_SHOWN: Final = 3
STRETCH_MAX: Final = 40

_NAMES: Final = [feature.name for feature in FEATURES]
_decoded = msgspec.json.Decoder(dict[str, Any]).decode

Values = Mapping[str, Any]
States = dict[str, TopicState | None]


class Cause(StrEnum):
    """Why a value is not what should have been served."""

    LATE_EVENT = "late event"
    DUPLICATE = "duplicate"
    DEFINITION_CHANGE = "definition change"
    PUSH = "lost or stale push"
    UNKNOWN = "unknown"


class Mismatch(NamedTuple):
    """One value that is not what should have been served.

    Attributes:
        right: what should have been.
        why: the cause, in a sentence.
        events: those behind it, (topic, entry); some of them.
    """

    feature: str
    cause: Cause
    served: Any
    right: Any
    why: str
    events: Sequence[tuple[str, Entry]]


class Suspect(NamedTuple):
    """An answer that is not what should have been served.

    Attributes:
        differing: right value by feature; features that the catalog does not know are not compared.
    """

    row: ServedRow
    differing: Mapping[str, Any]


class Judge:
    """Judges the answers of one user, in the order of `settled_ms`.

    Args:
        histories: the user's events, by topic.
        allowance_ms: what was appended so shortly before a read need not be in its answer, and what came to the broker
            within that time of happening is not late.
    """

    def __init__(self, histories: Mapping[str, TopicHistory], allowance_ms: int) -> None:
        self._histories = histories
        self._allowance_ms = allowance_ms

    def suspect(self, row: ServedRow) -> Suspect | None:
        """Compare an answer with what should have been served; None where it is right."""
        states: States = {
            topic: history.should_be(
                settled_ms(row, self._allowance_ms),
                row.as_of_ms,
                partial(counts, row, history, topic, self._allowance_ms),
            )
            for topic, history in self._histories.items()
        }
        right, served = finalize(states, row.as_of_ms), _decoded(row.values)
        differing = {name: right[name] for name in _NAMES if name in served and served[name] != right[name]}
        return Suspect(row, differing) if differing else None

    def mismatches(self, suspect: Suspect, stored: Mapping[str, bytes]) -> list[Mismatch]:
        """Name the cause of each value that differs.

        Args:
            stored: the states that were served, by topic, as far as the lake has kept them.
        """
        return _Explanation(suspect, self._histories, self._allowance_ms, stored).mismatches()


def settled_ms(row: ServedRow, allowance_ms: int) -> int:
    """Return the instant up to which all that happened counts, however it came."""
    return min(row.as_of_ms, row.served_ms - 2 * allowance_ms)


def counts(row: ServedRow, history: TopicHistory, topic: str, allowance_ms: int, entry: Entry) -> bool:
    """Tell whether an event should be in an answer, or is there though it need not be.

    It need not if it had not happened yet at the read, or was on its way: just appended, and soon after it happened.
    """
    was_late = entry.append_ms - entry.time_ms > allowance_ms
    was_early = entry.append_ms <= row.served_ms - allowance_ms
    if entry.time_ms <= row.served_ms and (was_late or was_early):
        return True
    return history.is_in(entry, row.views[topic], row.served_ms)


class _Explanation:
    """One answer, computed again step by step."""

    def __init__(
        self,
        suspect: Suspect,
        histories: Mapping[str, TopicHistory],
        allowance_ms: int,
        stored: Mapping[str, bytes],
    ) -> None:
        row = self._row = suspect.row
        self._right = suspect.differing
        self._served = _decoded(row.values)
        self._histories = histories
        self._is_of_other_definition = (row.definition_version, row.catalog) != (
            DEFINITION_VERSION,
            catalog_fingerprint(),
        )
        self._held = {topic: history.held_by(row.views[topic], row.served_ms) for topic, history in histories.items()}
        self._by_then = {
            topic: [
                entry
                for entry in history.entries
                if history.is_in(entry, row.views[topic], row.served_ms)
                or (entry.append_ms <= row.served_ms - allowance_ms and entry.time_ms <= row.as_of_ms)
            ]
            for topic, history in histories.items()
        }
        self._due = {
            topic: history.due(row.as_of_ms, partial(counts, row, history, topic, allowance_ms))
            for topic, history in histories.items()
        }
        known = {} if self._is_of_other_definition else stored
        self._stored = {topic: decode(blob) for topic, blob in known.items()}
        self._refold()

    def _refold(self) -> None:
        """Compute the steps; a user who was repaired may have been served before or after that."""
        orders = [False, True] if any(history.was_repaired for history in self._histories.values()) else [False]
        tried = [self._steps(in_log_order=order) for order in orders]
        self._steps_found, self._by_then_folded, self._known = min(tried, key=lambda steps: self._distance(steps[0]))

    def _distance(self, steps: Sequence[Values]) -> int:
        served, again = (steps[1], steps[2]) if self._stored else (self._served, steps[2])
        return sum(served.get(name) != again[name] for name in _NAMES)

    def _steps(self, *, in_log_order: bool) -> tuple[list[Values], dict[str, Folded], States]:
        held: States = {
            topic: history.folded(self._held[topic], in_log_order=in_log_order).state
            for topic, history in self._histories.items()
        }
        by_then = {
            topic: history.folded(self._by_then[topic], in_log_order=in_log_order)
            for topic, history in self._histories.items()
        }
        counted_once: States = {}
        for topic, folded in by_then.items():
            ids = {entry.event.event_id for entry in folded.counted}
            copies = [
                entry
                for entry in self._by_then[topic]
                if entry.event.event_id in ids and entry.time_ms <= self._row.as_of_ms
            ]
            counted_once[topic] = state_of(once(in_time_order(copies), set()))
        known: States = {**held, **self._stored}
        states = [
            known,
            held,
            {topic: folded.state for topic, folded in by_then.items()},
            counted_once,
            {topic: state_of(due) for topic, due in self._due.items()},
        ]
        return [self._served, *(finalize(each, self._row.as_of_ms) for each in states)], by_then, known

    def mismatches(self) -> list[Mismatch]:
        """Name the cause of each value that differs: the first step at which it changes."""
        found = []
        for name, right in self._right.items():
            step = next(
                place
                for place, (before, after) in enumerate(pairwise(self._steps_found))
                if before[name] != after[name]
            )
            cause, why, events = self._cause(step)
            found.append(Mismatch(name, cause, self._served[name], right, why, events))
        return found

    def _cause(self, step: int) -> tuple[Cause, str, list[tuple[str, Entry]]]:
        if step == 0:
            return self._cause_of_values()
        if step == 1:
            return self._cause_of_state()
        if step == 2:
            return Cause.PUSH, "the state that was served lacks events that had been appended", self._not_held()
        if step == 3:
            return Cause.DUPLICATE, "an event id was counted twice, or at another time", self._copies()
        return Cause.LATE_EVENT, "events had happened, and came too late to be counted", self._uncounted()

    def _cause_of_values(self) -> tuple[Cause, str, list[tuple[str, Entry]]]:
        if self._is_of_other_definition:
            row = self._row
            why = f"it was computed with definition version {row.definition_version}, catalog {row.catalog}"
            return Cause.DEFINITION_CHANGE, why, self._newest()
        for topic, held in self._held.items():
            if held and topic not in self._stored:
                lost = self._lost_stretch(topic, self._served)
                if lost:
                    return self._lost(topic, lost)
        return Cause.UNKNOWN, "it does not follow from the state that was served", self._newest()

    def _cause_of_state(self) -> tuple[Cause, str, list[tuple[str, Entry]]]:
        for topic, state in self._stored.items():
            if state.partial:
                return Cause.PUSH, f"the state of {topic} was born during a rebuild and lacks its past", self._newest()
            lost = self._lost_stretch(topic, self._steps_found[1])
            if lost:
                return self._lost(topic, lost)
        return Cause.UNKNOWN, "the state that was served is not what its log folds to", self._newest()

    def _lost(self, topic: str, lost: Sequence[Entry]) -> tuple[Cause, str, list[tuple[str, Entry]]]:
        why = f"the state of {topic} lacks events below its version"
        return Cause.PUSH, why, [(topic, entry) for entry in lost[:EVENTS_SHOWN]]

    def _lost_stretch(self, topic: str, served: Values) -> list[Entry]:
        """Return a run of events without which the log folds to what was served; empty if there is none."""
        held = self._held[topic]
        names = [name for name in _NAMES if name in served]
        for length in range(1, min(len(held), STRETCH_MAX) + 1):
            for first in range(max(0, len(held) - STRETCH_MAX), len(held) - length + 1):
                without = self._histories[topic].folded([*held[:first], *held[first + length :]])
                values = finalize({**self._known, topic: without.state}, self._row.as_of_ms)
                if all(values[name] == served[name] for name in names):
                    return held[first : first + length]
        return []

    def _newest(self) -> list[tuple[str, Entry]]:
        held = [(topic, entry) for topic, entries in self._held.items() for entry in entries]
        return sorted(held, key=lambda each: each[1].time_ms)[-EVENTS_SHOWN:]

    def _not_held(self) -> list[tuple[str, Entry]]:
        return [
            (topic, entry) for topic, entries in self._by_then.items() for entry in entries[len(self._held[topic]) :]
        ][:EVENTS_SHOWN]

    def _copies(self) -> list[tuple[str, Entry]]:
        found = []
        for topic, entries in self._by_then.items():
            ids = [entry.event.event_id for entry in entries]
            found += [(topic, entry) for entry in entries if ids.count(entry.event.event_id) > 1]
        return found[:EVENTS_SHOWN]

    def _uncounted(self) -> list[tuple[str, Entry]]:
        found = []
        for topic, due in self._due.items():
            counted = {entry.event.event_id for entry in self._by_then_folded[topic].counted}
            found += [(topic, entry) for entry in due if entry.event.event_id not in counted]
        return found[:EVENTS_SHOWN]
