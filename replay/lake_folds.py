"""Folds of a partition's users over what the lake or Kafka holds, read on as it grows.

All states here were built from nothing: generation 0, built from 0, and as version the user's last offset + 1. Users
that were once repaired in event-time order are folded in that order up to that repair's version, and in log order from
there on, as live does.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from enum import StrEnum
from operator import itemgetter
from typing import Final

from features.apply import fold
from features.state import Trailer, read_trailer, with_trailer
from replay.sources import EventSource
from schemas.event import Event
from sinks.lake_reads import PartitionLog

IsErased = Callable[[str, int], bool]

EVENTS_AT_ONCE: Final = 250_000
NO_LIMIT: Final = 2**63 - 1


class FoldOrder(StrEnum):
    """In which order a user's events are folded."""

    LOG = "log"
    EVENT_TIME = "event_time"


def never(_user_id: str, _offset: int) -> bool:
    """Tell that nothing was erased."""
    return False


class LakeFold:
    """The states of users of one partition, as of `position`; blocking.

    Memory grows with the users, not with their events.

    Args:
        source: what is folded.
        users: whom; None for all that the source holds.
        is_erased: tells of (user id, offset) whether the event was erased and must not come back.

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
    ) -> None:
        self._source = source
        self._log = log
        self._order = order
        self._users = None if users is None else frozenset(users)
        self._is_erased = is_erased
        self._forgotten: set[str] = set()
        self._corrected: Mapping[str, int] = {}
        self.states: dict[str, bytes] = {}
        self.position = 0
        self.event_count = 0

    def read_on(self) -> bool:
        """Take in what the source has got since the last time; tell whether there was anything.

        Raises:
            LakeUnavailableError, BrokerUnavailableError: the source cannot be read.
        """
        position = self._source.position(self._log)
        if position <= self.position:
            return False
        first, self.position = self.position, position
        if self._order is FoldOrder.EVENT_TIME:
            self._corrected = dict.fromkeys(self._everybody(), NO_LIMIT)
        else:
            self._corrected = self._source.corrected(self._log)
            self._fold_on(first)
        self._fold_corrected(user_id for user_id in self._corrected if self._is_wanted(user_id))
        return True

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

    def start_over(self, is_erased: IsErased) -> None:
        """Fold from the beginning, with other erasures; who was forgotten stays so."""
        self._is_erased = is_erased
        self.states.clear()
        self.position = 0

    def forget(self, user_id: str) -> None:
        """Drop a user's state, now and for good."""
        self._forgotten.add(user_id)
        del self.states[user_id]

    def _is_wanted(self, user_id: str) -> bool:
        return (self._users is None or user_id in self._users) and user_id not in self._forgotten

    def _everybody(self) -> Collection[str]:
        return self._source.counts(self._log) if self._users is None else self._users

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
        self.states.update(
            fold_corrected(self._source, self._log, limits, self.position, is_erased=self._is_erased) if limits else {}
        )


def fold_corrected(
    source: EventSource, log: PartitionLog, limits: Mapping[str, int], end_offset: int, *, is_erased: IsErased = never
) -> dict[str, bytes]:
    """Fold users from the beginning to before `end_offset`: up to a version in event-time order, then in log order.

    Args:
        limits: users, and the version up to which the order of event times holds.

    Raises:
        LakeUnavailableError, BrokerUnavailableError: the source cannot be read.
    """
    states: dict[str, bytes] = {}
    for users in _chunks(source.counts(log, users=limits)):
        later: dict[str, list[tuple[int, Event]]] = {}
        counts: dict[str, int] = {}
        last_offsets: dict[str, int] = {}
        for piece in source.in_time_order(log, end_offset, users=users):
            logs: dict[str, list[tuple[int, Event]]] = {}
            for offset, event in piece:
                user_id = event.user_id
                if is_erased(user_id, offset):
                    continue
                if offset >= limits[user_id]:
                    later.setdefault(user_id, []).append((offset, event))
                    continue
                # their place in this order stands for their offset, so that none is taken for a redelivered one
                place = counts[user_id] = counts.get(user_id, 0) + 1
                last_offsets[user_id] = max(offset, last_offsets.get(user_id, 0))
                logs.setdefault(user_id, []).append((place, event))
            for user_id, entries in logs.items():
                states[user_id] = fold(states.get(user_id), entries).state
        for user_id, offset in last_offsets.items():
            states[user_id] = with_trailer(states[user_id], Trailer(0, 0, offset + 1))
        for user_id, entries in later.items():
            entries.sort(key=itemgetter(0))
            states[user_id] = _from_nothing(fold(states.get(user_id), entries).state)
    return states


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
