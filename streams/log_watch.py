"""Notices that a topic became another log under a running worker: recreated, or with more partitions.

Offsets of the old log mean nothing in the new one, and its keys lie in other partitions, so nothing of it may be
applied to states of the old. Kafka tells a consumer neither.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from feature_repo.errors import OnlineStoreError
from schemas.errors import BrokerUnavailableError, SchemasError, TopicError, TopicMissingError, TopicNotSeenError
from schemas.event import EVENT_TOPICS
from schemas.topics import TopicInfo
from streams.errors import LogEpochError
from streams.ports import Batch, Clock, Fences, Offsets, TopicPartition
from streams.progress import PartitionProgress

logger = logging.getLogger(__name__)

URGENT_INTERVAL_S = 1.0
MISSED_CHECKS_MAX = 2  # a broker that has just started may not know a topic for a moment


class LogWatch:
    """Compares the topics with what they were when their partitions were assigned.

    A worker that is given no partition compares them with the fences: the group's last assignment may be from when a
    topic was gone, and a static member that is started again gets just that one, for ever.

    Args:
        interval_s: time between two comparisons.
        fences: what the states were folded from; without them a worker that has no partition compares nothing.
    """

    def __init__(self, offsets: Offsets, *, interval_s: float, clock: Clock, fences: Fences | None = None) -> None:
        self._offsets = offsets
        self._fences = fences
        self._interval_s = interval_s
        self._clock = clock
        self._expected: Mapping[str, TopicInfo] = {}
        self._checked_s = clock.monotonic_s()
        self._missed = 0
        self._one_at_a_time = asyncio.Lock()

    def expect(self, logs: Mapping[str, TopicInfo]) -> None:
        """Learn what the topics are now."""
        self._expected = dict(logs)
        self._missed = 0
        self._checked_s = self._clock.monotonic_s()

    async def check_if_due(self) -> None:
        """Compare when the interval has passed.

        Raises:
            LogEpochError: a topic is another log.
        """
        await self._check_after(self._interval_s)

    async def check_soon(self) -> None:
        """Compare because something looks as if a topic had changed; at most once a second.

        Raises:
            LogEpochError: a topic is another log.
        """
        await self._check_after(min(self._interval_s, URGENT_INTERVAL_S))

    async def check_now(self) -> None:
        """Compare.

        Raises:
            LogEpochError: a topic is another log.
        """
        await self._check_after(0.0, misses_max=1)

    async def _check_after(self, interval_s: float, misses_max: int = MISSED_CHECKS_MAX) -> None:
        async with self._one_at_a_time:
            if self._clock.monotonic_s() - self._checked_s < interval_s:
                return
            self._checked_s = self._clock.monotonic_s()
            if self._expected:
                await self._check(self._expected, misses_max)
            elif self._fences is not None:
                await self._check_fences(self._fences)

    async def _check_fences(self, stored: Fences) -> None:
        try:
            logs = await self._offsets.logs(EVENT_TOPICS)
            fences = {topic: await stored.read(topic) for topic in logs}
        except (SchemasError, OnlineStoreError) as error:
            logger.warning("the topics could not be compared with the fences: %s", error)
            return
        for topic, found in fences.items():
            for fence in found.values():
                if fence.epoch != logs[topic].log_epoch:
                    raise LogEpochError.of(topic, was=fence.epoch, now=logs[topic].log_epoch)

    async def _check(self, expected: Mapping[str, TopicInfo], misses_max: int) -> None:
        try:
            logs = await self._offsets.logs(sorted(expected))
        except (TopicMissingError, TopicNotSeenError) as error:
            self._missed += 1
            if self._missed < misses_max or self._expected is not expected:
                return
            raise LogEpochError(
                f"A topic is gone that this worker was reading: {error.message}",
                hint="If it was deleted to be created anew: move the states to the new log, see "
                "docs/how-to/move-to-more-partitions.md.",
            ) from error
        except (BrokerUnavailableError, TopicError) as error:
            logger.warning("the topics could not be looked at: %s", error)
            return
        self._missed = 0
        if self._expected is not expected:
            return  # assigned anew in the meantime, and compared there
        for topic, info in expected.items():
            if logs[topic].log_epoch != info.log_epoch:
                raise LogEpochError.of(topic, was=info.log_epoch, now=logs[topic].log_epoch)


async def verify_positions(
    batches: Sequence[Batch], partitions: Mapping[TopicPartition, PartitionProgress], watch: LogWatch | None
) -> None:
    """Learn where the logs end, and notice when one is shorter than it was or goes back: then it is another log.

    The lag is known before a batch is done, so that it shows while a sink is waited for.

    Raises:
        LogEpochError: it is another log, or it has lost records that were processed.
    """
    shrunk = False
    for batch in batches:
        progress = partitions[batch.tp]
        shrunk |= batch.next_offset <= batch.end_offset < progress.end_offset
        progress.end_offset = max(progress.end_offset, batch.end_offset, batch.next_offset)
    # a consumer whose position is outside of the log begins at its start, and tells nobody
    gone_back = [batch for batch in batches if batch.records[0].offset < partitions[batch.tp].next_offset]
    if watch is not None and (shrunk or gone_back):
        await (watch.check_now() if gone_back else watch.check_soon())
    for batch in gone_back:
        raise LogEpochError(
            f"{batch.tp.topic}-{batch.tp.partition} went back from offset {partitions[batch.tp].next_offset} to "
            f"{batch.records[0].offset}, though its topic looks the same: the broker has lost records.",
            hint="They were applied. Give the broker its data back, or start over from the log.",
        )
