"""The events of one user in one topic, as an audit needs them: what a state held, and what it should have held."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from features.apply import Outcome, fold
from features.state import TopicState, decode, read_trailer
from schemas.event import Event
from sinks.served import ServedView


class Entry(NamedTuple):
    """One event in the log of its user and topic.

    Attributes:
        append_ms: the broker's LogAppendTime, integer milliseconds UTC.
    """

    epoch: str
    offset: int
    append_ms: int
    event: Event

    @property
    def time_ms(self) -> int:
        """When it happened."""
        return self.event.event_time_ms


class Folded(NamedTuple):
    """A state, None for nothing, and which events it counted."""

    state: TopicState | None
    counted: list[Entry]


class TopicHistory:
    """The log of one user in one topic; epochs follow one another as they came into use.

    Args:
        entries: in any order.
        corrected_until: offset in the newest epoch up to which a repair folded the user in event-time order; 0 if none.

    Attributes:
        entries: in log order.
    """

    def __init__(self, entries: Iterable[Entry], corrected_until: int = 0) -> None:
        found = list(entries)
        begins: dict[str, int] = {}
        for entry in found:
            begins[entry.epoch] = min(entry.append_ms, begins.get(entry.epoch, entry.append_ms))
        self._rank = {epoch: rank for rank, epoch in enumerate(sorted(begins, key=begins.__getitem__))}
        self.entries = sorted(found, key=self._place)
        self._corrected_until = corrected_until
        self._in_time = sorted(self.entries, key=lambda entry: (entry.time_ms, self._place(entry)))
        self._counted: set[str] = set()
        self._state: bytes | None = None
        self._next = 0

    def held_by(self, view: ServedView, read_ms: int) -> list[Entry]:
        """Return, in log order, what a state of that version holds; without a version it holds nothing."""
        return [entry for entry in self.entries if self.is_in(entry, view, read_ms)]

    def is_in(self, entry: Entry, view: ServedView, read_ms: int) -> bool:
        """Tell whether an event lies below the version of a view."""
        if view.version is None:
            return False
        at, of_view = self._rank[entry.epoch], self._rank.get(view.epoch or self._newest_epoch(read_ms))
        if of_view is None:  # nothing of that log is known: it was new, and what came before is of the former one
            return entry.append_ms <= (view.servable_ms or 0)
        return at < of_view or (at == of_view and entry.offset < view.version)

    def should_be(self, settled_ms: int, until_ms: int, counts: Callable[[Entry], bool]) -> TopicState | None:
        """Return the state of what counts, in event-time order, each id once; from one call to the next never back.

        Args:
            settled_ms: all that happened by then counts; it may not lie before that of an earlier call.
            until_ms: the newest that may count.
            counts: tells of what happened in between.
        """
        fresh: list[Entry] = []
        while self._next < len(self._in_time) and self._in_time[self._next].time_ms <= settled_ms:
            fresh.append(self._in_time[self._next])
            self._next += 1
        self._state = _with(self._state, once(fresh, self._counted))
        seen: set[str] = set()
        recent: list[Entry] = []
        for entry in self._in_time[self._next :]:
            if entry.time_ms > until_ms:
                break
            if entry.event.event_id not in self._counted and counts(entry):
                recent.append(entry)
        blob = _with(self._state, once(recent, seen))
        return None if blob is None else decode(blob)

    def due(self, until_ms: int, counts: Callable[[Entry], bool]) -> list[Entry]:
        """Return what `should_be` folds when everything is asked for anew."""
        return once((entry for entry in self._in_time if entry.time_ms <= until_ms and counts(entry)), set())

    def folded(self, entries: Sequence[Entry], *, in_log_order: bool = False) -> "Folded":
        """Fold entries as live does: those below a repair in event-time order, the others in log order.

        Args:
            in_log_order: as it was before the repair.
        """
        ordered = list(entries)
        if self._corrected_until and not in_log_order:
            newest = max(self._rank.values())
            repaired = [
                entry for entry in entries if self._rank[entry.epoch] < newest or entry.offset < self._corrected_until
            ]
            ordered = [*in_time_order(repaired), *entries[len(repaired) :]]
        if not ordered:
            return Folded(None, [])
        made = fold(None, _numbered(ordered))
        outcomes = zip(ordered, made.outcomes, strict=True)
        return Folded(decode(made.state), [entry for entry, outcome in outcomes if outcome is Outcome.APPLIED])

    @property
    def was_repaired(self) -> bool:
        """Whether the user was folded in event-time order."""
        return self._corrected_until > 0

    def _place(self, entry: Entry) -> tuple[int, int]:
        return self._rank[entry.epoch], entry.offset

    def _newest_epoch(self, read_ms: int) -> str:
        known = [entry.epoch for entry in self.entries if entry.append_ms <= read_ms]
        return known[-1] if known else ""


def once(entries: Iterable[Entry], seen: set[str]) -> list[Entry]:
    """Return the first entry of each id that is not among those seen, and add it to them."""
    first: list[Entry] = []
    for entry in entries:
        if entry.event.event_id not in seen:
            seen.add(entry.event.event_id)
            first.append(entry)
    return first


def in_time_order(entries: Sequence[Entry]) -> list[Entry]:
    """Order entries by event time; of equal times, as they were."""
    return sorted(entries, key=lambda entry: entry.time_ms)


def state_of(entries: Sequence[Entry]) -> TopicState | None:
    """Fold entries in the order given."""
    blob = _with(None, entries)
    return None if blob is None else decode(blob)


def _with(state: bytes | None, entries: Sequence[Entry]) -> bytes | None:
    if not entries:
        return state
    first = 0 if state is None else read_trailer(state).version
    return fold(state, _numbered(entries, first)).state


def _numbered(entries: Sequence[Entry], first: int = 0) -> list[tuple[int, Event]]:
    # their place stands for the offset, so that none is taken for one that was delivered again
    return [(first + place, entry.event) for place, entry in enumerate(entries)]
