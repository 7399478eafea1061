"""Why a user's content differs: the events that one way holds and another does not, or that live counted otherwise."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from features.apply import fold
from features.state import TRAILER_BYTES, read_trailer
from replay.lake_folds import erasures_of
from replay.parity_look import Look
from replay.parity_ports import ParityPorts
from replay.parity_report import LIVE, EventSeen, UserDifference
from replay.parity_user import ComparedUser
from replay.sources import EventSource, LogEntry
from schemas.event import Event
from sinks.lake_reads import PartitionLog

TRIED_MAX: Final = 300
FOLDED_MAX: Final = 500_000
AROUND: Final = 3
LAST: Final = 8

_NOT_APPLIED: Final = "live did not take it for an event: the lake holds it as a dead letter"


@dataclass(frozen=True, slots=True)
class _Log:
    """The events of one user in one partition, by offset, in each replay."""

    log: PartitionLog
    by_way: Mapping[str, Mapping[int, Event]]
    letters: frozenset[int]

    @property
    def offsets(self) -> list[int]:
        """Every offset that some replay holds."""
        return sorted({offset for events in self.by_way.values() for offset in events})

    def whole(self) -> list[LogEntry]:
        """Return the longest of the logs, without what live took for dead letters."""
        longest = max(self.by_way.values(), key=len)
        return sorted((offset, event) for offset, event in longest.items() if offset not in self.letters)


def explained(ports: ParityPorts, look: Look, compared: ComparedUser, *, is_shown: bool) -> UserDifference:
    """Return the difference of a user with the events behind it.

    Args:
        is_shown: look for them; that reads the user's logs once more.

    Raises:
        LakeUnavailableError, BrokerUnavailableError: a replay cannot be read.
    """
    causes: list[str] = []
    events: list[EventSeen] = []
    topics = [difference.topic for difference in compared.differences if difference.topic is not None]
    if not topics:
        causes.append("the states agree, and the values that readers are given do not follow from them")
    if is_shown:
        for topic in topics:
            log = look.log_of(topic, compared.user_id)
            if log is not None:
                found = _read(ports, look, log, compared.user_id)
                named = dict(_causes(found, look, compared))
                causes += named.values()
                events += _around(found, {offset for offset in named if offset >= 0})
    return UserDifference(compared.user_id, compared.differences, compared.agreeing(), causes, events)


def _read(ports: ParityPorts, look: Look, log: PartitionLog, user_id: str) -> _Log:
    is_erased, end = erasures_of(look.tombstones)(log), look.applied_to(log, user_id)
    by_way: dict[str, dict[int, Event]] = {}
    letters = frozenset(ports.letters_only(log))
    for source in ports.sources:
        entries = _events(source, log, end, user_id)
        by_way[source.name] = {offset: event for offset, event in entries if not is_erased(user_id, offset)}
    return _Log(log, by_way, letters)


def _events(source: EventSource, log: PartitionLog, end: int, user_id: str) -> Iterator[LogEntry]:
    reach, former = source.reach(log), source.former(log)
    if reach is not None:
        first = reach.first_offset if former is None else max(reach.first_offset, former.first_offset)
        for piece in source.read(log, first, min(end, source.position(log)), users={user_id}):
            yield from zip(piece.offsets, piece.events, strict=True)


def _causes(found: _Log, look: Look, compared: ComparedUser) -> Iterator[tuple[int, str]]:
    """Yield (offset, sentence) of what would explain a difference; an offset of -1 for none."""
    contradictions = list(_contradictions(found, look))
    yield from contradictions
    live = compared.state_of(found.log.topic, LIVE)
    whole = found.whole()
    if live and whole and not contradictions:
        yield from _of_live(found.log, whole, live)


def _contradictions(found: _Log, look: Look) -> Iterator[tuple[int, str]]:
    """Yield the events in which the replays differ."""
    for offset in found.offsets:
        if offset in found.letters:
            continue
        held = {way: events[offset] for way, events in found.by_way.items() if offset in events}
        lacking = [way for way in found.by_way if way not in held and look.begins_at(way, found.log) <= offset]
        named = _named(found.log, offset, next(iter(held.values())))
        if lacking:
            yield offset, f"{named} is in {_and(held)}, and not in {_and(lacking)}"
        elif changed := _changed(list(held.values())):
            yield offset, f"{named} differs between {_and(held)}: {changed}"


def _of_live(log: PartitionLog, whole: Sequence[LogEntry], live: bytes) -> Iterator[tuple[int, str]]:
    """Yield what live did otherwise with the same events."""
    version = read_trailer(live).version
    if whole[-1][0] + 1 != version:
        yield -1, f"live is at version {version} of {_place(log)}, and no event of the user lies just below it"
    events = [event for _, event in whole]
    for place in reversed(range(max(0, len(events) - min(TRIED_MAX, FOLDED_MAX // len(events))), len(events))):
        offset, event = whole[place]
        before, after = events[:place], events[place + 1 :]
        if _gives([*before, *after], live):
            yield offset, f"the live state is as if {_named(log, offset, event)} had not been applied"
            return
        again = msgspec.structs.replace(event, event_id=f"{event.event_id} again")
        if _gives([*before, event, again, *after], live):
            yield offset, f"the live state is as if {_named(log, offset, event)} had been applied twice"
            return
    in_time = [event for _, event in sorted(whole, key=lambda entry: (entry[1].event_time_ms, entry[0]))]
    for order, ordered in (("log", events), ("event-time", in_time)):
        if _gives(ordered, live):
            yield -1, f"the live state is right in {order} order: a repair was noted and not stored, or not noted"


def _gives(events: Sequence[Event], live: bytes) -> bool:
    return bool(events) and fold(None, list(enumerate(events))).state[:-TRAILER_BYTES] == live[:-TRAILER_BYTES]


def _around(found: _Log, named: set[int]) -> list[EventSeen]:
    """Return the named events and some around them; the last ones when none is named."""
    offsets = found.offsets
    places = [place for place, offset in enumerate(offsets) if offset in named]
    shown = {near for place in places for near in range(place - AROUND, place + AROUND + 1)}
    if not places:
        shown = set(range(len(offsets) - LAST, len(offsets)))
    outcomes = dict(_outcomes(found))
    seen = []
    for place in sorted(shown & set(range(len(offsets)))):
        offset = offsets[place]
        ways = tuple(way for way, events in found.by_way.items() if offset in events)
        event = found.by_way[ways[0]][offset]
        seen.append(
            EventSeen(
                found.log.topic,
                found.log.partition,
                offset,
                event.event_time_ms,
                event.kind,
                event.event_id,
                event.product_id,
                outcomes.get(offset, "in one replay only"),
                ways,
                offset in named,
            )
        )
    return seen


def _outcomes(found: _Log) -> Iterator[tuple[int, str]]:
    whole = found.whole()
    if whole:
        for (offset, _), outcome in zip(whole, fold(None, whole).outcomes, strict=True):
            yield offset, outcome.value
    for offset in found.letters:
        yield offset, _NOT_APPLIED


def _changed(events: Sequence[Event]) -> str:
    first, *others = map(msgspec.structs.asdict, events)
    names = [name for name in first if any(other[name] != first[name] for other in others)]
    return ", ".join(f"{name} is {_and(repr(each[name]) for each in (first, *others))}" for name in names)


def _named(log: PartitionLog, offset: int, event: Event) -> str:
    return f"{event.kind} {event.event_id} at {_place(log)}:{offset}"


def _place(log: PartitionLog) -> str:
    return f"{log.topic}-{log.partition}"


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)
