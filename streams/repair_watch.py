"""What a worker does while states of its partitions are being repaired by another process (replay/repair.py).

It takes the status of a partition from its fence with every batch, holds a partition when the repair asks for it, and
sees to it that no partial state stays unnoticed in a partition that was told to be whole again meanwhile.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from feature_repo.fence import Fence, PartitionStatus
from streams.folding import UserFold
from streams.metrics import WorkerMetrics
from streams.ports import Clock, Fences, TopicPartition
from streams.progress import PartitionProgress
from streams.retrying import AbandonedError, SinkRetry

logger = logging.getLogger(__name__)

POLL_S: Final = 0.05
HOLD_MAX_S: Final = 10.0


class RepairWatch:
    """Heeds repairs, for all partitions of one worker.

    Args:
        flush: writes all that is buffered to the lake, which a repair waits for.
        abandoned: tells whether the partitions are being given away.
    """

    def __init__(
        self,
        fences: Fences,
        *,
        retry: SinkRetry,
        flush: Callable[[], Awaitable[None]],
        abandoned: Callable[[], bool],
        metrics: WorkerMetrics,
        clock: Clock,
    ) -> None:
        self._fences = fences
        self._retry = retry
        self._flush = flush
        self._abandoned = abandoned
        self._metrics = metrics
        self._clock = clock

    async def fences(self, topic: str, partitions: Collection[int]) -> dict[int, Fence]:
        """Read the fences of a topic; while one of these partitions is held, flush and wait.

        A hold that nobody renews ends by itself, and after `HOLD_MAX_S` whatever the clocks of two machines say.

        Raises:
            AbandonedError: the partitions are being given away.
            SinkFailedError: the fences cannot be read, or the lake not be written.
        """
        fences = await self._read(topic)
        if not self._held(fences, partitions):
            return fences
        logger.info("%s: a repair holds the partition(s) for a moment", topic)
        await self._flush()
        ends_s = self._clock.monotonic_s() + HOLD_MAX_S
        while self._held(fences, partitions) and self._clock.monotonic_s() < ends_s:
            await asyncio.sleep(POLL_S)
            if self._abandoned():
                raise AbandonedError
            fences = await self._read(topic)
        return fences

    def take_status(self, progress: PartitionProgress, fence: Fence, folds: Mapping[str, UserFold]) -> None:
        """Let states that are born in this batch be partial only if the partition is still being rebuilt."""
        if fence.status is progress.status:
            return
        tp = progress.tp
        logger.info("%s-%d is %s now", tp.topic, tp.partition, fence.status.value.upper())
        progress.status, progress.since_ms = fence.status, fence.since_ms
        is_rebuilding = fence.status is PartitionStatus.REBUILDING
        self._metrics.rebuilding.labels(tp.topic, str(tp.partition)).set(is_rebuilding)
        for item in folds.values():
            item.is_rebuilding = is_rebuilding

    async def born_partial(self, partitions: Collection[TopicPartition]) -> None:
        """Mark partitions in which partial states were just stored again, if they were told to be whole meanwhile.

        Raises:
            SinkFailedError: the fences cannot be read or written.
        """
        for topic in {tp.topic for tp in partitions}:
            fences = await self._read(topic)
            for partition in [tp.partition for tp in partitions if tp.topic == topic]:
                fence = fences.get(partition)
                if fence is not None and fence.status is PartitionStatus.LIVE:
                    await self._mark(topic, partition)

    async def _mark(self, topic: str, partition: int) -> None:
        logger.warning(
            "%s-%d: partial states were stored as its rebuild ended; it is REBUILDING again", topic, partition
        )
        status, now_ms = PartitionStatus.REBUILDING, self._clock.now_ms()
        await self._retry("fence", lambda: self._fences.set_status(topic, partition, status, since_ms=now_ms))

    async def _read(self, topic: str) -> dict[int, Fence]:
        return await self._retry("fence", lambda: self._fences.read(topic))

    def _held(self, fences: Mapping[int, Fence], partitions: Collection[int]) -> bool:
        now_ms = self._clock.now_ms()
        return any(number in partitions and fence.hold_until_ms > now_ms for number, fence in fences.items())
