"""Between Faust and the batch loop: what happens when partitions come, go, flush, fail or stall."""

import logging
from collections.abc import Mapping, Sequence

from config.settings import WorkerSettings
from streams.assignment import plan_start
from streams.errors import CommitPendingError, StalledError
from streams.loop import BatchLoop
from streams.metrics import WorkerMetrics
from streams.ports import Clock, Fences, Offsets, TopicPartition
from streams.progress import PartitionProgress

logger = logging.getLogger(__name__)


class PartitionOwner:
    """Implements `streams.transport.Ownership` over a batch loop.

    Args:
        settings: when to flush, and how long a commit or a stall may last.
    """

    def __init__(
        self,
        loop: BatchLoop,
        settings: WorkerSettings,
        *,
        offsets: Offsets,
        fences: Fences,
        metrics: WorkerMetrics,
        clock: Clock,
    ) -> None:
        self.loop = loop
        self._settings = settings
        self._offsets = offsets
        self._fences = fences
        self.metrics = metrics
        self._clock = clock
        self._planned: dict[TopicPartition, PartitionProgress] = {}
        self._last_flush_s = clock.monotonic_s()
        self._commit_started_s: float | None = None
        self._progress: tuple[int, float] = (-1, clock.monotonic_s())
        self.failure: BaseException | None = None

    # -- what the transport calls ----------------------------------------------------------------------------------

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return the first offset of each partition; raises LogEpochError when a log is not the one we know."""
        try:
            return await self._assigned(partitions)
        except Exception as error:
            self.failed(error)
            raise

    async def _assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._planned, expired = await plan_start(partitions, self._offsets, self._fences, self._clock)
        for tp, count in expired.items():
            self.metrics.expired.labels(tp.topic, str(tp.partition)).inc(count)
        # readers learn the partitions' status, and how many partitions there are, before the first batch
        for tp, progress in self._planned.items():
            await self._fences.advance(tp.topic, tp.partition, progress.fence())
        return {tp: progress.next_offset for tp, progress in self._planned.items()}

    def opened(self, seek_epoch: int) -> None:
        """Accept batches that were fetched after that seek."""
        self._progress = (-1, self._clock.monotonic_s())
        self.loop.open(self._planned, seek_epoch)

    async def draining(self) -> None:
        """Finish and flush what is in flight; after a failure nothing more is flushed."""
        await self.loop.drain(flush=self.failure is None)

    def released(self) -> None:
        """Forget the partitions and every cached state."""
        self.loop.release()

    def committable(self) -> Mapping[TopicPartition, int]:
        """Return the offsets that every sink has."""
        offsets = self.loop.committable()
        if offsets and self._commit_started_s is None:
            self._commit_started_s = self._clock.monotonic_s()
        return offsets

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note that Kafka has answered a commit, and what it took."""
        self._commit_started_s = None
        self.loop.committed(offsets)

    # -- what the worker's background task calls -------------------------------------------------------------------

    def failed(self, error: BaseException) -> None:
        """Stop accepting batches for good: what failed must be read again by the next start."""
        if self.failure is None:
            self.failure = error
            self.loop.close()

    async def flush_if_due(self) -> bool:
        """Flush when it is time, or when enough rows wait; tell whether it did."""
        now_s = self._clock.monotonic_s()
        due = (now_s - self._last_flush_s) * 1000 >= self._settings.flush_interval_ms
        if self.failure is not None or not (due or self.loop.flusher.buffered_rows >= self._settings.flush_rows):
            return False
        self._last_flush_s = now_s
        await self.loop.flusher.flush()
        return True

    def observe(self) -> None:
        """Publish ages and lag, and stop the worker when it can make no progress.

        Raises:
            CommitPendingError: Kafka has not answered a commit for too long.
            StalledError: there is lag, and nothing was processed for too long.
        """
        now_s = self._clock.monotonic_s()
        lag, done = 0, 0
        for tp, progress in self.loop.partitions.items():
            labels = (tp.topic, str(tp.partition))
            self.metrics.commit_age.labels(*labels).set(progress.commit_age_s(now_s))
            self.metrics.lag.labels(*labels).set(progress.lag_records)
            lag += progress.lag_records
            done += progress.next_offset
        if self._commit_started_s is not None and now_s - self._commit_started_s > self._settings.commit_timeout_s:
            raise CommitPendingError(
                f"Kafka has not answered a commit for {self._settings.commit_timeout_s:g} s.",
                hint="Restart the worker: it reads again from the last committed offset, and counts nothing twice.",
            )
        if done != self._progress[0] or not lag:
            self._progress = (done, now_s)
        elif now_s - self._progress[1] > self._settings.stall_timeout_s:
            raise StalledError(
                f"{lag} records wait, and none was processed for {self._settings.stall_timeout_s:g} s.",
                hint="See the log for the sink that does not answer; the worker exits so that it is restarted.",
            )
