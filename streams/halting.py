"""Halts: what a worker does while nothing may be applied to a topic, and how it learns that it may again.

A gate halts a topic by a field of its fences, and a halted fence does not move. Its records are still read, and their
raw rows go to the lake; no letter is written, no state pushed, nothing committed. When the halt ends, its partitions
are read again from where they were applied to: the lake drops the rows that it has.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from feature_repo.fence import Fence, FenceMove
from streams.decoding import DecodedBatch
from streams.errors import StatesLostError
from streams.metrics import WorkerMetrics
from streams.ports import Clock, Fences, Gatekeeper, TopicPartition
from streams.progress import PartitionProgress
from streams.retrying import SinkRetry

logger = logging.getLogger(__name__)

POLL_S: Final = 0.5


class HaltWatch:
    """Heeds halts, for all partitions of one worker.

    Args:
        partitions: the owned partitions, shared with the loop.
        gatekeeper: says when a topic must halt; without it only others do.
    """

    def __init__(
        self,
        fences: Fences,
        partitions: Mapping[TopicPartition, PartitionProgress],
        *,
        gatekeeper: Gatekeeper | None,
        retry: SinkRetry,
        metrics: WorkerMetrics,
        clock: Clock,
    ) -> None:
        self._fences = fences
        self._partitions = partitions
        self._gatekeeper = gatekeeper
        self._retry = retry
        self._metrics = metrics
        self._clock = clock
        self._polled_s = clock.monotonic_s()

    async def judge(self, topic: str, works: Sequence[DecodedBatch]) -> None:
        """Ask the gatekeeper; if it says so, halt the topic before any of these batches is applied.

        Raises:
            SinkFailedError: the fences cannot be written.
        """
        if self._gatekeeper is None:
            return
        reason = await self._gatekeeper.judge(topic, works)
        own = [progress for progress in self._partitions.values() if progress.tp.topic == topic]
        if reason is None or all(progress.is_halted for progress in own):
            return
        now_ms = self._clock.now_ms()
        await self._retry("fence", lambda: self._fences.halt(topic, now_ms))
        logger.error("%s is halted, nothing is applied to it: %s", topic, reason)
        for progress in own:
            self._begin(progress, progress.halted_since_ms or now_ms)

    def heed(self, progress: PartitionProgress, fence: Fence) -> bool:
        """Tell whether a partition is halted, by its fence."""
        if fence.is_halted:
            self._begin(progress, fence.halted_since_ms)
        return fence.is_halted

    def refused(self, progress: PartitionProgress) -> None:
        """Learn that a fence did not move because it is halted; since when, the next look at it tells."""
        self._begin(progress, self._clock.now_ms())

    async def freed(self) -> dict[TopicPartition, int]:
        """Return partitions of one topic whose halt has ended, and up to where they were applied; seldom enough.

        Raises:
            StatesLostError: the online store has lost what it held for a halted partition.
            SinkFailedError: the fences cannot be read.
            AbandonedError: the partitions are being given away.
        """
        halted = [progress for progress in self._partitions.values() if progress.is_halted]
        if not halted or self._clock.monotonic_s() - self._polled_s < POLL_S:
            return {}
        self._polled_s = self._clock.monotonic_s()
        for topic in sorted({progress.tp.topic for progress in halted}):
            own = [progress for progress in halted if progress.tp.topic == topic]
            free = self._looked_at(own, await self._read(topic))
            if free:
                return free
        return {}

    async def _read(self, topic: str) -> dict[int, Fence]:
        return await self._retry("fence", lambda: self._fences.read(topic))

    def _looked_at(self, own: Sequence[PartitionProgress], fences: Mapping[int, Fence]) -> dict[TopicPartition, int]:
        free = {}
        for progress in own:
            if self._partitions.get(progress.tp) is not progress:
                continue  # given away while the fences were read
            fence = fences.get(progress.tp.partition)
            if fence is None or FenceMove(progress.log.log_epoch, progress.applied_offset, 0).is_lost(fence):
                raise StatesLostError.of(progress.tp.topic, {progress.tp.partition})
            if not self.heed(progress, fence):
                free[progress.tp] = progress.applied_offset
        return free

    def _begin(self, progress: PartitionProgress, since_ms: int) -> None:
        if not progress.is_halted:
            tp = progress.tp
            logger.warning("%s-%d is HALTED at offset %d", tp.topic, tp.partition, progress.applied_offset)
        if progress.halted_since_ms != since_ms:
            progress.halted_since_ms = since_ms
            labels = (progress.tp.topic, str(progress.tp.partition))
            self._metrics.halted.labels(*labels).set(since_ms / 1000)
