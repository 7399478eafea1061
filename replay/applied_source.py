"""A source as far as live has applied it: what lies behind the fence is left to the worker.

Kafka holds records that no worker has read yet. A state that held them would be right, but the worker would count them
as delivered before.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping

from feature_repo.fence import Fence
from replay.sources import EventSource, Former, LakeReach, LogEntry, Piece
from sinks.lake_reads import PartitionLog

ReadFences = Callable[[str], Mapping[int, Fence]]


class AppliedSource:
    """Implements `replay.sources.EventSource`; blocking.

    Args:
        fences: reads the fences of a topic. Where there is none, or one of another log, the source is not bounded.
    """

    def __init__(self, source: EventSource, fences: ReadFences) -> None:
        self._source = source
        self._fences = fences

    @property
    def name(self) -> str:
        """That of the source."""
        return self._source.name

    def position(self, log: PartitionLog) -> int:
        """Return the offset below which the source holds every record and live has applied it."""
        fence = self._fences(log.topic).get(log.partition)
        held = self._source.position(log)
        return held if fence is None or fence.epoch != log.log_epoch else min(held, fence.next_offset)

    def reach(self, log: PartitionLog) -> LakeReach | None:
        """Return the first record that the source holds."""
        return self._source.reach(log)

    def offset_at(self, log: PartitionLog, append_ms: int) -> int:
        """Return the first offset that was appended at this instant or later; `position` if there is none."""
        return min(self._source.offset_at(log, append_ms), self.position(log))

    def counts(self, log: PartitionLog, *, users: Collection[str] | None = None) -> Counter[str]:
        """Count the events of each user, those that live has not applied included."""
        return self._source.counts(log, users=users)

    def corrected(self, log: PartitionLog) -> Mapping[str, int]:
        """Return the users that were repaired in event-time order, and up to which version."""
        return self._source.corrected(log)

    def former(self, log: PartitionLog) -> Former | None:
        """Return what the log follows, if it took over from another."""
        return self._source.former(log)

    def in_log_order(self, log: PartitionLog, first_offset: int, end_offset: int) -> Iterator[list[LogEntry]]:
        """Yield what it holds of a stretch."""
        return self._source.in_log_order(log, first_offset, end_offset)

    def in_time_order(self, log: PartitionLog, end_offset: int, *, users: Collection[str]) -> Iterator[list[LogEntry]]:
        """Yield the events of some users by (event time, offset)."""
        return self._source.in_time_order(log, end_offset, users=users)

    def read(
        self,
        log: PartitionLog,
        first_offset: int,
        end_offset: int,
        *,
        users: Collection[str] | None = None,
        originals: bool = False,
    ) -> Iterator[Piece]:
        """Yield the events of a stretch with their append times."""
        return self._source.read(log, first_offset, end_offset, users=users, originals=originals)
