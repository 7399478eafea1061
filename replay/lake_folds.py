"""Folds of a partition's users over what the lake or Kafka holds, read on as it grows.

All states here were built from nothing: generation 0, built from 0, and as version the user's last offset + 1. Users
that were once repaired in event-time order are folded in that order up to that repair's version, and in log order from
there on, as live does.

The users of a log that took over from another (`log_moves`) begin with the states of the former one, at the version
where the log begins.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import StrEnum
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple

from features.apply import fold
from features.state import Trailer, read_trailer, with_trailer
from replay.sources import EventSource, Former, LogEntry
from schemas.event import Event
from sinks.erasures import Tombstones, log_of
from sinks.lake_reads import PartitionLog
from sinks.log_moves import is_of

IsErased = Callable[[str, int], bool]
ErasedIn = Callable[[PartitionLog], IsErased]

EVENTS_AT_ONCE: Final = 250_000
EVENTS_TOGETHER: Final = 65_536
NO_LIMIT: Final = 2**63 - 1


class FoldOrder(StrEnum):
    """In which order a user's events are folded."""

    LOG = "log"
    EVENT_TIME = "event_time"


def never(_user_id: str, _offset: int) -> bool:
    """Tell that nothing was erased."""
    return False


def never_in(_log: PartitionLog) -> IsErased:
    """Tell that nothing was erased from any log."""
    return never


def erasures_of(tombstones: Tombstones) -> ErasedIn:
    """Return what tells of each log which events tombstones cover."""

    def of(log: PartitionLog) -> IsErased:
        erased = log_of(log.topic, log.log_epoch, log.partition)
        reach = tombstones.reach(erased)
        return lambda user_id, offset: offset < reach and offset < tombstones.end_of(user_id, erased)

    return of


class LakeFold:
    """The states of users of one partition, as of `position`; blocking.

    Memory grows with the users, not with their events.

    Args:
        source: what is folded.
        users: whom; None for all that the source holds.
        is_erased: tells of (user id, offset) whether the event was erased and must not come back.
        erased_in: gives the same for a log that this one follows.

    Attributes:
        states: by user, without those of `forget`; who has no event is absent.
        position: every record below this offset was looked at.
        event_count: how many events were folded, those that were folded again included.
    """

    def __init__(
        self,
        source: EventSource,
        log: PartitionLog,
        order: FoldOrder,
        *,
        users: Collection[str] | None = None,
        is_erased: IsErased = never,
        erased_in: ErasedIn = never_in,
    ) -> None:
        self._source = source
        self._log = log
        self._order = order
        self._users = None if users is None else frozenset(users)
        self._is_erased = is_erased
        self._erased_in = erased_in
        self._former: Former | None = None
        self._has_begun = False
        self._forgotten: set[str] = set()
        self._corrected: Mapping[str, int] = {}
        self.states: dict[str, bytes] = {}
        self.position = 0
        self.event_count = 0

    @property
    def source_name(self) -> str:
        """Tell what is folded: `lake` or `kafka`."""
        return self._source.name

    def read_on(self) -> bool:
        """Take in what the source has got since the last time; tell whether there was anything.

        Raises:
            LakeUnavailableError, BrokerUnavailableError: the source cannot be read.
        """
        has_begun, self._has_begun = self._has_begun, True
        if not has_begun:
            self._former = self._source.former(self._log)
        position = self._source.position(self._log)
        if position <= self.position and has_begun:
            return False
        first, self.position = self.position, max(position, self.position)
        if self._former is not None and not has_begun:
            first = self._former.first_offset
            if self._order is FoldOrder.LOG:
                self._begin(self._former)
        if self._order is FoldOrder.EVENT_TIME:
            self._corrected = dict.fromkeys(self._everybody(), NO_LIMIT)
        else:
            self._corrected = self._source.corrected(self._log)
            self._fold_on(first)
        self._fold_corrected(user_id for user_id in self._corrected if self._is_wanted(user_id))
        return not has_begun or position > first

    def heed_corrections(self) -> None:
        """Fold those users again that somebody else has begun to repair in event-time order since they were folded.

        Raises:
            LakeUnavailableError: the lake cannot be read.
        """
        if self._order is FoldOrder.EVENT_TIME:
            return
        before, self._corrected = self._corrected, self._source.corrected(self._log)
        changed = [user_id for user_id, version in self._corrected.items() if before.get(user_id) != version]
        self._fold_corrected(user_id for user_id in changed if user_id in self.states)

    def ends_in_log_order(self, user_id: str) -> bool:
        """Tell whether what follows in the log is folded in log order, and not by event times."""
        return self._corrected.get(user_id, 0) <= self.position

    def folded_further(self, states: Mapping[str, bytes], entries: Collection[LogEntry]) -> dict[str, bytes]:
        """Return states with events that follow them in the log, which this fold has not seen; it stays as it is."""
        logs: dict[str, list[LogEntry]] = {}
        for offset, event in entries:
            user_id = event.user_id
            if user_id in states and not self._is_erased(user_id, offset):
                logs.setdefault(user_id, []).append((offset, event))
        return {user_id: _from_nothing(fold(states[user_id], log).state) for user_id, log in logs.items()}

    def start_over(self, is_erased: IsErased, erased_in: ErasedIn = never_in) -> None:
        """Fold from the beginning, with other erasures; who was forgotten stays so."""
        self._is_erased, self._erased_in = is_erased, erased_in
        self.states.clear()
        self.position = 0
        self._has_begun = False

    def forget(self, user_id: str) -> None:
        """Drop a user's state, now and for good."""
        self._forgotten.add(user_id)
        del self.states[user_id]

    def _is_wanted(self, user_id: str) -> bool:
        return (self._users is None or user_id in self._users) and user_id not in self._forgotten

    def _everybody(self) -> Collection[str]:
        return event_counts_of(self._parts()) if self._users is None else self._users

    def _begin(self, former: Former) -> None:
        """Take over the states of the former log."""
        for log in former.logs:
            fold_before = LakeFold(
                former.source, log, FoldOrder.LOG,
                users=self._users, is_erased=self._erased_in(log), erased_in=self._erased_in,
            )  # fmt: skip
            fold_before.read_on()
            self.event_count += fold_before.event_count
            for user_id, state in fold_before.states.items():
                if is_of(self._log, user_id) and self._is_wanted(user_id):
                    self.states[user_id] = with_trailer(state, Trailer(0, 0, former.first_offset))

    def _parts(self) -> list["LogPart"]:
        """Return this log and all that it follows, the earliest first."""
        first_offset = 0 if self._former is None else self._former.first_offset
        own = LogPart(self._source, self._log, first_offset, self.position, self._is_erased)
        return [*earlier_parts(self._former, self._erased_in), own]

    def _fold_on(self, first_offset: int) -> None:
        for piece in self._source.in_log_order(self._log, first_offset, self.position):
            self.event_count += len(piece)
            logs: dict[str, list[tuple[int, Event]]] = {}
            for offset, event in piece:
                user_id = event.user_id
                if self._is_wanted(user_id) and user_id not in self._corrected and not self._is_erased(user_id, offset):
                    logs.setdefault(user_id, []).append((offset, event))
            for user_id, log in logs.items():
                self.states[user_id] = _from_nothing(fold(self.states.get(user_id), log).state)

    def _fold_corrected(self, user_ids: Iterator[str]) -> None:
        limits = {user_id: self._corrected[user_id] for user_id in user_ids}
        if limits:
            self.states.update(fold_corrected(self._parts(), limits))


class LogPart(NamedTuple):
    """A part of a user's history: what lies in one log.

    Attributes:
        first_offset, end_offset: only what lies between is meant; the end is not in it.
    """

    source: EventSource
    log: PartitionLog
    first_offset: int
    end_offset: int
    is_erased: IsErased


def fold_corrected(parts: Collection[LogPart], limits: Mapping[str, int]) -> dict[str, bytes]:
    """Fold users from the beginning: up to a version in event-time order, then in log order.

    Args:
        parts: the logs that they were in, the earliest first.
        limits: users, and the version in the last log up to which the order of event times holds.

    Raises:
        LakeUnavailableError, BrokerUnavailableError: the source cannot be read.
    """
    *_, last = parts
    states: dict[str, bytes] = {}
    for users in _chunks(event_counts_of(parts, limits)):
        later: dict[str, list[tuple[int, Event]]] = {}
        counts: dict[str, int] = {}
        versions: dict[str, int] = {}
        for piece in _in_time_order(parts, users):
            logs: dict[str, list[tuple[int, Event]]] = {}
            for log, offset, event in piece:
                user_id = event.user_id
                if log is last.log and offset >= limits[user_id]:
                    later.setdefault(user_id, []).append((offset, event))
                    continue
                # their place in this order stands for their offset, so that none is taken for a redelivered one
                place = counts[user_id] = counts.get(user_id, 0) + 1
                version = offset + 1 if log is last.log else last.first_offset
                versions[user_id] = max(version, versions.get(user_id, 0))
                logs.setdefault(user_id, []).append((place, event))
            for user_id, entries in logs.items():
                states[user_id] = fold(states.get(user_id), entries).state
        for user_id, version in versions.items():
            states[user_id] = with_trailer(states[user_id], Trailer(0, 0, version))
        for user_id, entries in later.items():
            entries.sort(key=itemgetter(0))
            states[user_id] = _from_nothing(fold(states.get(user_id), entries).state)
    return states


def earlier_parts(former: Former | None, erased_in: ErasedIn = never_in) -> list[LogPart]:
    """Return what a log follows, the earliest first; nothing if it took over from none.

    Raises:
        LakeUnavailableError, BrokerUnavailableError: the source cannot be read.
    """
    if former is None:
        return []
    found: dict[PartitionLog, LogPart] = {}
    for log in former.logs:
        before = former.source.former(log)
        for part in earlier_parts(before, erased_in):
            found.setdefault(part.log, part)
        first_offset = 0 if before is None else before.first_offset
        found[log] = LogPart(former.source, log, first_offset, former.source.position(log), erased_in(log))
    return list(found.values())


def event_counts_of(parts: Collection[LogPart], users: Collection[str] | None = None) -> Counter[str]:
    """Count the events of users; None for all whose events belong to the last log."""
    *_, last = parts
    counts: Counter[str] = Counter()
    for part in parts:
        found = part.source.counts(part.log, users=users)
        if users is None and part is not last:
            found = Counter({user: count for user, count in found.items() if is_of(last.log, user)})
        counts += found
    return counts


def _in_time_order(
    parts: Collection[LogPart], users: Collection[str]
) -> Iterator[list[tuple[PartitionLog, int, Event]]]:
    """Yield the events of all parts by (event time, part, offset), some at a time, without those that were erased."""
    ordered = heapq.merge(
        *(_ranked(rank, part, users) for rank, part in enumerate(parts)),
        key=lambda entry: (entry[2].event_time_ms, entry[3], entry[1]),
    )
    while piece := [(log, offset, event) for log, offset, event, _ in islice(ordered, EVENTS_TOGETHER)]:
        yield piece


def _ranked(rank: int, part: LogPart, users: Collection[str]) -> Iterator[tuple[PartitionLog, int, Event, int]]:
    for piece in part.source.in_time_order(part.log, part.end_offset, users=users):
        for offset, event in piece:
            if offset >= part.first_offset and not part.is_erased(event.user_id, offset):
                yield part.log, offset, event, rank


def _from_nothing(state: bytes) -> bytes:
    return with_trailer(state, Trailer(0, 0, read_trailer(state).version))


def _chunks(counts: Mapping[str, int]) -> Iterator[list[str]]:
    """Divide users so that those of a chunk have some `EVENTS_AT_ONCE` events together."""
    chunk: list[str] = []
    size = 0
    for user_id, count in counts.items():
        if chunk and size + count > EVENTS_AT_ONCE:
            yield chunk
            chunk, size = [], 0
        chunk.append(user_id)
        size += count
    if chunk:
        yield chunk
