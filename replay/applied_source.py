"""A source as far as live has applied it: what lies behind the fence is left to the worker.

Kafka holds records that no worker has read yet. A state that held them would be right, but the worker would count them
as delivered before.
"""

from collections.abc import Callable, Mapping
from typing import Final

from feature_repo.fence import Fence
from replay.sources import EventSource
from sinks.lake_reads import PartitionLog

ReadFences = Callable[[str], Mapping[int, Fence]]


class AppliedSource:
    """Implements `replay.sources.EventSource`; blocking.

    Args:
        fences: reads the fences of a topic. Where there is none, or one of another log, the source is not bounded.
    """

    def __init__(self, source: EventSource, fences: ReadFences) -> None:
        self.name: Final = source.name
        self._source = source
        self._fences = fences
        self.reach = source.reach
        self.counts = source.counts
        self.corrected = source.corrected
        self.former = source.former
        self.in_log_order = source.in_log_order
        self.in_time_order = source.in_time_order
        self.read = source.read

    def position(self, log: PartitionLog) -> int:
        """Return the offset below which the source holds every record and live has applied it."""
        fence = self._fences(log.topic).get(log.partition)
        held = self._source.position(log)
        return held if fence is None or fence.epoch != log.log_epoch else min(held, fence.next_offset)

    def offset_at(self, log: PartitionLog, append_ms: int) -> int:
        """Return the first offset that was appended at this instant or later; `position` if there is none."""
        return min(self._source.offset_at(log, append_ms), self.position(log))
