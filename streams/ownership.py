"""Between Faust and the batch loop: what happens when partitions come, go, flush, fail or stall."""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from uuid import uuid4

from config.errors import ShopstreamError
from config.settings import WorkerSettings
from feature_repo.fence import Fence, PartitionStatus
from sinks.log_moves import LogMoves
from streams.assignment import plan_start, tell_expired_while_halted
from streams.errors import CommitPendingError, StalledError
from streams.log_watch import LogWatch
from streams.loop import BatchLoop
from streams.metrics import WorkerMetrics
from streams.ports import Clock, Fences, Offsets, Owners, TopicPartition
from streams.progress import PartitionProgress
from streams.retrying import AbandonedError

logger = logging.getLogger(__name__)

DEATHS_UNTIL_CAREFUL = 2


class PartitionOwner:
    """Implements `streams.transport.Ownership` over a batch loop.

    Args:
        settings: when to flush, and how long a commit or a stall may last.
        owners: remembers whether the owners before this one died; without it no record is ever a suspect.
        log_watch: learns what the topics are at each assignment.
        moves: reads which logs took over from others; without it none did.
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
        owners: Owners | None = None,
        log_watch: LogWatch | None = None,
        moves: Callable[[], Awaitable[LogMoves]] | None = None,
    ) -> None:
        self._owners = owners
        self._moves = moves
        self._log_watch = log_watch
        self._life = uuid4().hex
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
        moves = LogMoves() if self._moves is None else await self._moves()
        self._planned, expired = await plan_start(partitions, self._offsets, self._fences, self._clock, moves)
        for tp, count in expired.items():
            self.metrics.expired.labels(tp.topic, str(tp.partition)).inc(count)
        # readers learn the partitions' status, and how many partitions there are, before the first batch
        for tp, progress in self._planned.items():
            # what was lost, or restored, since it was read stays so: then the first batch finds it not where it must be
            if not progress.is_fenced:
                await self._fences.place(tp.topic, tp.partition, progress.fence())
                continue
            if tp in expired:
                await self._fences.advance(tp.topic, tp.partition, progress.fence())
            if progress.status is PartitionStatus.REBUILDING:
                await self._fences.set_status(tp.topic, tp.partition, progress.status, since_ms=progress.since_ms)
        await self._suspect_deadly_records()
        await self.loop.erased.refresh()
        return {tp: progress.next_offset for tp, progress in self._planned.items()}

    async def _suspect_deadly_records(self) -> None:
        """Be careful where owners died one after the other with the fence at the same place."""
        if self._owners is None:
            return
        fences = {topic: await self._fences.read(topic) for topic in {tp.topic for tp in self._planned}}
        for topic, partitions in self._partitions_by_topic(self._planned).items():
            deaths = await self._owners.taken(topic, partitions, self._life, within=self._settings.batch_records)
            for partition, count in deaths.items():
                fence = fences[topic].get(partition)
                if count >= DEATHS_UNTIL_CAREFUL and fence is not None:
                    progress = self._planned[TopicPartition(topic, partition)]
                    # the fence of a halted partition stays, however far the owner came that died
                    behind = progress.end_offset - fence.next_offset if progress.is_halted else 0
                    progress.be_careful(fence.next_offset, max(behind, self._settings.batch_records))

    async def _give_back(self) -> None:
        """Tell whoever comes next that this owner did not die; if that fails, the next one is only more careful."""
        if self._owners is None or not (self.failure is None or isinstance(self.failure, ShopstreamError)):
            return
        try:
            for topic, partitions in self._partitions_by_topic(self.loop.partitions).items():
                await self._owners.given_back(topic, partitions, self._life)
        except ShopstreamError as error:
            logger.warning("the partitions could not be marked as given back: %s", error)

    @staticmethod
    def _partitions_by_topic(partitions: Mapping[TopicPartition, PartitionProgress]) -> dict[str, list[int]]:
        numbers: dict[str, list[int]] = defaultdict(list)
        for tp in partitions:
            numbers[tp.topic].append(tp.partition)
        return numbers

    def paused(self) -> frozenset[TopicPartition]:
        """Return the partitions that are not to be fetched."""
        return self.loop.paused()

    def opened(self, seek_epoch: int) -> None:
        """Accept batches that were fetched after that seek."""
        if self._log_watch is not None:
            self._log_watch.expect({tp.topic: progress.log for tp, progress in self._planned.items()})
        self._progress = (-1, self._clock.monotonic_s())
        self.loop.open(self._planned, seek_epoch)

    async def draining(self) -> None:
        """Finish and flush what is in flight; after a failure nothing more is flushed."""
        await self.loop.drain(flush=self.failure is None)
        await self._give_back()

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

    async def resume_freed(self) -> Mapping[TopicPartition, int]:
        """Look whether a halt has ended; the partitions of one topic then have to be read again from these offsets.

        They take no batch before `rewound`, which must follow without any pause: somebody else may own them after one.

        Raises:
            StatesLostError: the online store has lost what it held for a halted partition.
            SinkFailedError: a sink does not answer.
        """
        if self.failure is not None:
            return {}
        try:
            freed = await self.loop.halts.freed()
            return await self.loop.rewind(await self._retained(freed)) if freed else {}
        except AbandonedError:
            return {}  # they are being given away; the next owner finds the halt ended

    async def _retained(self, freed: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """Have partitions rebuilt whose topic does not retain any more what was read while they were halted."""
        positions = await self.loop.retry("broker", lambda: self._offsets.positions(list(freed)))
        for tp, applied in freed.items():
            earliest = positions[tp].earliest
            progress = self.loop.partitions.get(tp)
            if earliest <= applied or progress is None:
                continue
            tell_expired_while_halted(tp, applied, earliest)
            self.metrics.expired.labels(tp.topic, str(tp.partition)).inc(earliest - applied)
            progress.applied_offset = earliest
            fence = Fence(progress.log.log_epoch, earliest, progress.status, progress.since_ms)
            await self._fences.advance(tp.topic, tp.partition, fence)
            await self._fences.set_status(
                tp.topic, tp.partition, PartitionStatus.REBUILDING, since_ms=self._clock.now_ms()
            )
        return {tp: max(applied, positions[tp].earliest) for tp, applied in freed.items()}

    def rewound(self, partitions: Collection[TopicPartition], seek_epoch: int) -> None:
        """Accept batches of partitions that `resume_freed` named, if fetched after the seek of that number."""
        self.loop.rewound(partitions, seek_epoch)

    async def verify_logs(self) -> None:
        """Compare the topics with what they were at the assignment, when that is due.

        Raises:
            LogEpochError: one was recreated or got more partitions.
        """
        if self._log_watch is not None and self.failure is None:
            await self._log_watch.check_if_due()

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
            if progress.braked is None and not progress.is_halted:
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
