"""The replays that parity compares with live: folds of one partition, each user up to what live had applied."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from features.state import TopicState, decode
from replay.lake_folds import FoldOrder, LakeFold, erasures_of
from replay.rebuild import COMPLETE_AFTER_MS
from replay.sources import EventSource, LakeReach, LogEntry, Piece, entries_of
from sinks.erasures import Tombstones, log_of
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake
from sinks.letter_reads import LetterFilter, held_positions, letter_heads
from sinks.tables import RAW_EVENTS

__all__ = ["LAKE", "Folded", "LivePosition", "UpToLive", "fold_to_live", "letters_only"]


LAKE: Final = "lake"


@dataclass(frozen=True, slots=True)
class LivePosition:
    """Up to where live had applied the log of each user of one partition.

    Attributes:
        versions: of the users whose stored state was read.
        fenced: every offset below it was in the states, of everybody, before they were read.
    """

    versions: Mapping[str, int]
    fenced: int

    def of(self, user_id: str) -> int:
        """Return the offset before which the events of a user must be in the state, or were found to be."""
        return max(self.fenced, self.versions.get(user_id, 0))


@dataclass(frozen=True, slots=True)
class Folded:
    """What a way gives for one partition.

    Attributes:
        begins: the first record that it holds; None when it holds none.
        is_whole: it reaches back to the beginning of the log, and of those that it follows.
        end_offset: every record below it was looked at.
        states: by user.
        first_offsets: of each user's first event that was folded.
    """

    way: str
    log: PartitionLog
    begins: LakeReach | None
    is_whole: bool
    end_offset: int
    states: Mapping[str, bytes]
    first_offsets: Mapping[str, int]

    def covers(self, state: bytes, tolerance_ms: int) -> bool:
        """Tell whether it reaches back far enough for a state, though not to the beginning of the log.

        Args:
            tolerance_ms: by how much an event time may pass the append time.
        """
        if self.begins is None:
            return False
        begins_ms = self.begins.first_append_ms + tolerance_ms
        found = decode(state)
        return found.newest_ms - COMPLETE_AFTER_MS >= begins_ms and _oldest_ms(found) >= begins_ms


def fold_to_live(
    source: EventSource,
    log: PartitionLog,
    live: LivePosition,
    *,
    users: Collection[str] | None,
    tombstones: Tombstones,
    left_out: Collection[int] = (),
) -> Folded:
    """Fold what a source holds of a partition, each user's events up to what live had applied of them.

    Args:
        users: whom; None for all.
        tombstones: tell whose events must not come back.
        left_out: offsets of records that live did not take for events.

    Raises:
        LakeUnavailableError, BrokerUnavailableError: the source cannot be read.
    """
    bounded = UpToLive(source, live, users, left_out)
    erased_in = erasures_of(tombstones)
    fold = LakeFold(bounded, log, FoldOrder.LOG, users=users, is_erased=erased_in(log), erased_in=erased_in)
    fold.read_on()
    is_whole = _is_whole(bounded, log, tombstones)
    return Folded(source.name, log, bounded.reach(log), is_whole, fold.position, fold.states, bounded.first_offsets)


def _is_whole(source: EventSource, log: PartitionLog, tombstones: Tombstones) -> bool:
    begins, former = source.reach(log), source.former(log)
    floor = 0 if former is None else former.first_offset
    if source.name == LAKE:  # Kafka keeps the records of erased users until retention
        floor = max(floor, tombstones.reach(log_of(log.topic, log.log_epoch, log.partition)))
    if begins is not None and begins.first_offset > floor:
        return False
    return former is None or all(_is_whole(former.source, earlier, tombstones) for earlier in former.logs)


class UpToLive:
    """A source without what live had not applied yet; implements `replay.sources.EventSource`.

    Where the source begins is asked once.

    Attributes:
        first_offsets: of each user's first event that was read.
    """

    def __init__(
        self,
        source: EventSource,
        live: LivePosition,
        users: Collection[str] | None = None,
        left_out: Collection[int] = (),
    ) -> None:
        self.name: Final = source.name
        self.first_offsets: dict[str, int] = {}
        self._source = source
        self._live = live
        self._users = users
        self._left_out = frozenset(left_out)
        self.offset_at = source.offset_at
        self.corrected = source.corrected
        self.former = source.former
        self.position = source.position
        self._reach: dict[PartitionLog, LakeReach | None] = {}

    def reach(self, log: PartitionLog) -> LakeReach | None:
        """Return the first record that the source holds."""
        if log not in self._reach:
            self._reach[log] = self._source.reach(log)
        return self._reach[log]

    def counts(self, log: PartitionLog, *, users: Collection[str] | None = None) -> Counter[str]:
        """Count the events of each user, those that live has not applied included."""
        return self._source.counts(log, users=users)

    def in_log_order(self, log: PartitionLog, first_offset: int, end_offset: int) -> Iterator[list[LogEntry]]:
        """Yield what it holds of a stretch."""
        reach = self.reach(log)
        if reach is not None:
            first = max(first_offset, reach.first_offset)
            for piece in self.read(log, first, end_offset, users=self._users):
                yield entries_of(piece)

    def in_time_order(self, log: PartitionLog, end_offset: int, *, users: Collection[str]) -> Iterator[list[LogEntry]]:
        """Yield events of some users by (event time, offset)."""
        for entries in self._source.in_time_order(log, end_offset, users=users):
            yield self._kept(entries)

    def read(
        self,
        log: PartitionLog,
        first_offset: int,
        end_offset: int,
        *,
        users: Collection[str] | None = None,
        originals: bool = False,
    ) -> Iterator[Piece]:
        """Yield events of a stretch, in log order."""
        for piece in self._source.read(log, first_offset, end_offset, users=users, originals=originals):
            kept = {offset for offset, _ in self._kept(entries_of(piece))}
            places = [place for place, offset in enumerate(piece.offsets) if offset in kept]
            yield piece if len(kept) == len(piece.offsets) else piece.only(places)

    def _kept(self, entries: list[LogEntry]) -> list[LogEntry]:
        of, left_out, firsts = self._live.of, self._left_out, self.first_offsets
        kept = [entry for entry in entries if entry[0] < of(entry[1].user_id) and entry[0] not in left_out]
        for offset, event in kept:
            if offset < firsts.get(event.user_id, offset + 1):
                firsts[event.user_id] = offset
        return kept


def letters_only(lake: Lake, log: PartitionLog) -> frozenset[int]:
    """Return the offsets that the lake holds as dead letters alone: live did not take them for events.

    Kafka still has them, and one whose schema was registered since would be an event today.

    Raises:
        LakeUnavailableError: a table cannot be read.
    """
    heads = letter_heads(lake, LetterFilter(topic=log.topic, partition=log.partition))
    positions = {head.position for head in heads if head.position.topic_id == log.topic_id}
    taken_anew = held_positions(lake, RAW_EVENTS, positions)
    return frozenset(position.offset for position in positions - taken_anew)


def _oldest_ms(state: TopicState) -> int:
    """Return the oldest time that a state still tells of."""
    times = [state.newest_ms, *(start for start in state.panes), *(interval.first_ms for interval in state.intervals)]
    return min(times)
