"""A source of events in memory: what a replay reads, without Kafka and without a lake."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from replay.sources import Former, LakeReach, LogEntry, Piece
from schemas.event import Event
from sinks.lake_reads import PartitionLog
from streams.ports import TopicPartition

Entries = Mapping[TopicPartition, Mapping[int, Event]]


class MemorySource:
    """Implements `replay.sources.EventSource`.

    Args:
        ends: where each partition ends.
        begins: from where on it is held, by partition; from its beginning where nothing is said.
        corrected: users that were repaired in event-time order, and up to which version.

    Attributes:
        asked: the users of each read, None for all.
    """

    def __init__(
        self,
        name: str,
        entries: Entries,
        ends: Mapping[TopicPartition, int],
        *,
        begins: Mapping[TopicPartition, LakeReach] | None = None,
        corrected: Mapping[str, int] | None = None,
    ) -> None:
        self.name: Final = name
        self.entries = entries
        self.ends = ends
        self.asked: list[Collection[str] | None] = []
        self._begins = begins or {}
        self._corrected = corrected or {}

    def position(self, log: PartitionLog) -> int:
        """Return where the log ends."""
        return self.ends[_tp(log)]

    def reach(self, log: PartitionLog) -> LakeReach | None:
        """Tell where it begins."""
        return self._begins.get(_tp(log), LakeReach(0, 0)) if self.position(log) else None

    def offset_at(self, log: PartitionLog, append_ms: int) -> int:
        """Find nothing by append time: the events in memory have none."""
        raise NotImplementedError(f"{log} by {append_ms}")

    def counts(self, log: PartitionLog, *, users: Collection[str] | None = None) -> Counter[str]:
        """Count the events of each user."""
        found = Counter(event.user_id for event in self.entries.get(_tp(log), {}).values())
        return Counter({user: count for user, count in found.items() if users is None or user in users})

    def corrected(self, log: PartitionLog) -> Mapping[str, int]:
        """Return who was repaired in event-time order."""
        del log
        return self._corrected

    def former(self, log: PartitionLog) -> Former | None:
        """No log follows another."""
        assert log.log_epoch
        return None

    def in_log_order(self, log: PartitionLog, first_offset: int, end_offset: int) -> Iterator[list[LogEntry]]:
        """Yield the events of a stretch, at once."""
        entries = self.entries.get(_tp(log), {})
        yield [(at, entries[at]) for at in sorted(entries) if first_offset <= at < end_offset]

    def in_time_order(self, log: PartitionLog, end_offset: int, *, users: Collection[str]) -> Iterator[list[LogEntry]]:
        """Yield the events of some users by (event time, offset), at once."""
        (entries,) = self.in_log_order(log, 0, end_offset)
        mine = [entry for entry in entries if entry[1].user_id in users]
        yield sorted(mine, key=lambda entry: (entry[1].event_time_ms, entry[0]))

    def read(
        self,
        log: PartitionLog,
        first_offset: int,
        end_offset: int,
        *,
        users: Collection[str] | None = None,
        originals: bool = False,
    ) -> Iterator[Piece]:
        """Yield the events of a stretch, at once."""
        del originals
        self.asked.append(users)
        (entries,) = self.in_log_order(log, first_offset, end_offset)
        mine = [entry for entry in entries if users is None or entry[1].user_id in users]
        offsets, events = [at for at, _ in mine], [event for _, event in mine]
        yield Piece(end_offset, offsets, [0] * len(mine), events, [], 0)


def _tp(log: PartitionLog) -> TopicPartition:
    return TopicPartition(log.topic, log.partition)
