"""The batch loop of one worker, independent of how records arrive and of where results go.

For what one fetch brought of a topic, a batch per partition, in this order:

1. decode; what cannot be decoded or breaks a rule becomes a dead letter; the gates may halt the topic here;
2. load the states that the cache lacks, in one round trip;
3. apply the events to them, in log order;
4. push the changed states (absolute values, one row per user), then move the fence;
5. buffer the raw rows, the pushed states and the dead letters for the next flush;
6. and only after a flush may the offsets be committed (`committable`).

A step that fails stops the loop: no commit, no skip. While a partition is halted (streams/halting.py) only its raw rows
are buffered, and it is read again afterwards.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from config.settings import WorkerSettings
from feature_repo.fence import FenceMove
from feature_repo.states import StoredState
from features.versioning import VersionConflictError
from streams.brake import Braked
from streams.counting import PartitionCounts
from streams.decoding import BatchDecoding, DecodedBatch
from streams.erasures import ErasedUsers
from streams.errors import SinkFailedError, StatesLostError
from streams.flushing import Flusher
from streams.folding import UserFold, feature_log_rows, fold_all, is_older
from streams.halting import HaltWatch
from streams.log_watch import LogWatch, verify_positions
from streams.metrics import WorkerMetrics
from streams.ports import (
    Batch,
    Clock,
    Decoder,
    ErasureSource,
    Fences,
    Gatekeeper,
    Lake,
    Letters,
    OnlineStates,
    Quarantine,
    TopicPartition,
)
from streams.progress import PartitionProgress, StateCache
from streams.repair_watch import RepairWatch
from streams.retrying import AbandonedError, SinkRetry

logger = logging.getLogger(__name__)

CONFLICT_ATTEMPTS_MAX = 20


@dataclass(frozen=True, slots=True)
class Sinks:
    """Where results go."""

    online: OnlineStates
    fences: Fences
    lake: Lake
    letters: Letters


class BatchLoop:
    """Processes batches of all owned partitions; those of a topic one after the other, topics side by side.

    Args:
        settings: batch, buffer and cache bounds.
        decoder: records to events.
        sinks: where results go.
        metrics: counts every record as exactly one outcome.
        clock: injected time.
        log_watch: is asked whether a topic changed when its records look so.
        quarantine: finds records that end the process which decodes them.
        erasures: who was erased; without it nobody was.
        gatekeeper: says when a topic must halt; without it only others halt it.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        decoder: Decoder,
        sinks: Sinks,
        metrics: WorkerMetrics,
        clock: Clock,
        *,
        log_watch: LogWatch | None = None,
        quarantine: Quarantine | None = None,
        erasures: ErasureSource | None = None,
        gatekeeper: Gatekeeper | None = None,
    ) -> None:
        self._settings = settings
        self._log_watch = log_watch
        self._sinks = sinks
        self._metrics = metrics
        self._counts = PartitionCounts(metrics)
        self._clock = clock
        self.partitions: dict[TopicPartition, PartitionProgress] = {}
        self._caches: dict[str, StateCache] = {}
        # one fetch or rewind of a topic at a time
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._is_open = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.retry = SinkRetry(settings.sink_attempts, metrics=metrics, abandoned=lambda: not self._is_open)
        self.erased = ErasedUsers(erasures, self.partitions)
        self._decoding = BatchDecoding(
            settings, decoder, retry=self.retry, clock=clock, erased=self.erased, quarantine=quarantine
        )
        # a flush is finished even while the partitions are being given away
        flush_retry = SinkRetry(settings.sink_attempts, metrics=metrics, abandoned=lambda: False)
        self.flusher = Flusher(
            self.partitions, lake=sinks.lake, letters=sinks.letters, retry=flush_retry, metrics=metrics, clock=clock
        )
        self._repairs = RepairWatch(
            sinks.fences,
            retry=self.retry,
            flush=self.flusher.flush,
            abandoned=lambda: not self._is_open,
            metrics=metrics,
            clock=clock,
        )
        self.halts = HaltWatch(
            sinks.fences, self.partitions, gatekeeper=gatekeeper, retry=self.retry, metrics=metrics, clock=clock
        )

    def open(self, partitions: Mapping[TopicPartition, PartitionProgress], seek_epoch: int) -> None:
        """Start to process batches that were fetched after the seek of that number; no brake is on."""
        self.partitions.clear()
        self.partitions.update(partitions)
        self._caches = {tp.topic: StateCache(self._settings.cache_users) for tp in partitions}
        for progress in partitions.values():
            progress.seek_epoch = seek_epoch
        self._decoding.open(partitions)
        self._is_open = True
        self._counts.opened(partitions)

    def close(self) -> None:
        """Take no more batches; a sink that is being retried is given up."""
        self._is_open = False
        self._decoding.close()

    async def drain(self, *, flush: bool) -> None:
        """Take no more batches, finish what is being processed, and flush it."""
        self.close()
        await self._idle.wait()
        if flush:
            await self.flusher.flush()

    def release(self) -> None:
        """Forget the partitions and every cached state: another worker may change them from now on."""
        self._counts.released(self.partitions)
        self.partitions.clear()
        self._caches.clear()

    def committable(self) -> dict[TopicPartition, int]:
        """Return the offsets that every sink has and Kafka does not know yet."""
        return {
            tp: progress.flushed_offset
            for tp, progress in self.partitions.items()
            if progress.flushed_offset > (progress.committed_offset or 0)
        }

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note what Kafka has acknowledged."""
        for tp, offset in offsets.items():
            progress = self.partitions.get(tp)
            if progress is None:
                continue
            progress.committed_offset = offset
            if offset >= progress.flushed_offset:
                progress.flushed_since_s = None
            self._metrics.committed_offset.labels(tp.topic, str(tp.partition)).set(offset)

    def paused(self) -> frozenset[TopicPartition]:
        """Return the partitions that are not to be read: their brake is on."""
        return frozenset(tp for tp, progress in self.partitions.items() if progress.braked is not None)

    def accepts(self, batch: Batch) -> bool:
        """Tell whether a batch continues a partition that this worker owns now, and that is not braked."""
        return self._is_current(batch) and batch.records[0].offset >= self.partitions[batch.tp].next_offset

    def _is_current(self, batch: Batch) -> bool:
        progress = self.partitions.get(batch.tp)
        return (
            self._is_open
            and progress is not None
            and batch.seek_epoch == progress.seek_epoch
            and progress.braked is None  # what follows the refused batch looks like a continuation after a gap
        )

    async def process(self, batches: Sequence[Batch]) -> None:
        """Process batches of one topic, of a partition each; one fetched before the last seek is left alone.

        Raises:
            SinkFailedError: a sink did not take them after all tries.
            LogEpochError: a topic became another log; nothing of these was pushed.
        """
        with self._busy():
            topic = batches[0].tp.topic
            try:
                async with self._turns[topic]:
                    current = [batch for batch in batches if self._is_current(batch)]
                    if current:
                        await verify_positions(current, self.partitions, self._log_watch)
                        await self._process(topic, current)
            except AbandonedError:
                return  # not counted, not buffered, not committable: its next owner reads it again

    async def rewind(self, starts: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Go back to where partitions of one topic were applied to, now that their halt has ended.

        What was read meanwhile is flushed first. From the return on they take no batch until `rewound` is called.

        Args:
            starts: from `HaltWatch.freed`; only where it is as it was then is anything done.

        Returns:
            The partitions, and the offsets that are to be read next.

        Raises:
            SinkFailedError: a sink did not take what was buffered.
        """
        with self._busy():
            topic = next(iter(starts)).topic
            async with self._turns[topic]:
                await self.flusher.flush()
                back = {tp: start for tp, start in starts.items() if self._is_halted_at(tp, start)}
                for tp, start in back.items():
                    progress = self.partitions[tp]
                    braked = progress.braked
                    progress.rewind()
                    self._counts.freed(progress, braked)
                    logger.warning("%s-%d is not halted any more; it is read from offset %d on", *tp, start)
                if back:
                    self._decoding.rewound(back)
                    self._caches[topic].clear()
        return back

    def rewound(self, partitions: Collection[TopicPartition], seek_epoch: int) -> None:
        """Accept batches of these partitions again that were fetched after the seek of that number."""
        for tp in partitions:
            self.partitions[tp].seek_epoch = seek_epoch

    def _is_halted_at(self, tp: TopicPartition, offset: int) -> bool:
        progress = self.partitions.get(tp)
        return self._is_open and progress is not None and progress.is_halted and progress.applied_offset == offset

    async def _process(self, topic: str, batches: Sequence[Batch]) -> None:
        with self._step(topic, "decode"):
            works = await self._decode(batches)
        if not works:
            return
        with self._step(topic, "judge"):
            await self.halts.judge(topic, works)
        servable_ms = self._clock.now_ms()
        applied: Collection[int] = ()
        free = [work for work in works if not self.partitions[work.batch.tp].is_halted]
        if free:
            applied = await self._apply(topic, free)
            servable_ms = self._clock.now_ms()
        for work in works:
            self._buffer(work, servable_ms if work.batch.tp.partition in applied else None)
        self._metrics.cached_states.labels(topic).set(len(self._caches[topic]))
        self._metrics.buffered_rows.set(self.flusher.buffered_rows)
        await self.flusher.wait_for_space(self._settings.buffer_rows_max, self._settings.buffer_bytes_max)

    async def _apply(self, topic: str, works: Sequence[DecodedBatch]) -> Collection[int]:
        """Bring batches into the online store; return the partitions of those that are: all unless they are halted."""
        # a user's events are in one partition: what was routed elsewhere is a dead letter
        folds = {user_id: item for work in works for user_id, item in work.folds.items()}
        moves = {work.batch.tp.partition: self._fence_move(work.batch) for work in works}
        with self._step(topic, "load"):
            await self._load(topic, folds)
            # after the load: states that were lost before it are seen here, those lost later by the compare-and-set
            fences = await self._repairs.fences(topic, moves)
            self._refuse_lost(topic, {number for number, move in moves.items() if move.is_lost(fences.get(number))})
            halted = {number for number in moves if self.halts.heed(self._progress(topic, number), fences[number])}
            if halted:
                works = [work for work in works if work.batch.tp.partition not in halted]
                folds = {user_id: item for user_id, item in folds.items() if item.partition not in halted}
                moves = {number: move for number, move in moves.items() if number not in halted}
            for work in works:
                self._repairs.take_status(self.partitions[work.batch.tp], fences[work.batch.tp.partition], work.folds)
        if not works:
            return ()
        with self._step(topic, "apply"):
            fold_all(folds)
        with self._step(topic, "push"):
            await self._push(topic, folds)
        with self._step(topic, "fence"):
            moved = await self.retry("fence", lambda: self._sinks.fences.move(topic, moves))
            self._refuse_lost(topic, moved.lost)
            await self._repairs.born_partial(
                [work.batch.tp for work in works if any(item.is_born_partial for item in work.folds.values())]
            )
        for number in moved.halted:  # since the read: what was pushed is redelivered after the halt
            self.halts.refused(self._progress(topic, number))
        return moves.keys() - moved.halted

    def _progress(self, topic: str, partition: int) -> PartitionProgress:
        return self.partitions[TopicPartition(topic, partition)]

    def _fence_move(self, batch: Batch) -> FenceMove:
        progress = self.partitions[batch.tp]
        return FenceMove(progress.log.log_epoch, progress.applied_offset, batch.next_offset)

    def _refuse_lost(self, topic: str, partitions: Collection[int]) -> None:
        if partitions:
            raise StatesLostError.of(topic, partitions)

    async def _decode(self, batches: Sequence[Batch]) -> list[DecodedBatch]:
        """Decode; a batch that its partition's brake refuses is left out, and nothing of that partition follows."""
        decoded = [await self._decoding.decode(batch, self.partitions[batch.tp]) for batch in batches]
        if self._log_watch is not None and any(work.is_misrouted for work in decoded):
            await self._log_watch.check_soon()  # before any of it is pushed: so it looks when partitions were added
        for batch, work in zip(batches, decoded, strict=True):
            if isinstance(work, Braked):
                self._brake(batch.tp, work)
        return [work for work in decoded if isinstance(work, DecodedBatch)]

    def _brake(self, tp: TopicPartition, braked: Braked) -> None:
        self.partitions[tp].braked = braked
        self._counts.braked(tp, braked)
        logger.error(
            "%s-%d is %s. It is not read any further; other partitions are. Mend the cause and restart the worker, "
            "which then tries again; to pass these records to the dead letters, restart it with a higher "
            "worker.brake_share (1 switches the brake off).",
            tp.topic, tp.partition, braked.sentence(),
        )  # fmt: skip

    async def _load(self, topic: str, folds: Mapping[str, UserFold]) -> None:
        cache = self._caches[topic]
        cache.trim()
        missing = [user_id for user_id in folds if user_id not in cache]
        if missing:
            await self._reload(topic, missing)
        for user_id, item in folds.items():
            item.stored = cache.get(user_id)
        self.erased.begin_anew(topic, {user_id: folds[user_id] for user_id in missing})

    async def _reload(self, topic: str, user_ids: Sequence[str]) -> None:
        loaded = await self.retry("online", lambda: self._sinks.online.load(topic, user_ids))
        for user_id in user_ids:
            self._caches[topic].put(user_id, loaded.get(user_id))

    async def _push(self, topic: str, folds: Mapping[str, UserFold]) -> None:
        """Push what changed; after a conflict reload those users, apply their events again, and push those."""
        pending = folds
        for _ in range(CONFLICT_ATTEMPTS_MAX):
            try:
                await self._push_once(topic, pending)
            except VersionConflictError as conflict:
                self._metrics.conflicts.labels(topic).inc(len(conflict.users))
                pending = {user_id: folds[user_id] for user_id in conflict.users}
                await self._reload(topic, list(pending))
                for user_id, item in pending.items():
                    reloaded = self._caches[topic].get(user_id)
                    if is_older(reloaded, item.stored) and not await self._is_erased(topic, user_id, item):
                        self._refuse_lost(topic, {item.partition})
                    item.stored = reloaded
                self.erased.begin_anew(topic, pending)
                fold_all(pending)
            else:
                return
        raise SinkFailedError(
            f"{topic}: {len(pending)} states were changed by somebody else {CONFLICT_ATTEMPTS_MAX} times in a row.",
            hint="Does another consumer group write the same Feast project? Give it a project of its own.",
        )

    async def _is_erased(self, topic: str, user_id: str, item: UserFold) -> bool:
        return await self.retry("erasures", lambda: self.erased.explain_loss(topic, user_id, item))

    async def _push_once(self, topic: str, folds: Mapping[str, UserFold]) -> None:
        rows = [(user_id, item.state) for user_id, item in folds.items() if item.is_changed]
        if rows:
            await self.retry("online", lambda: self._sinks.online.push(topic, rows, self._clock.now_ms()))
            self._metrics.states_pushed.labels(topic).inc(len(rows))

    def _buffer(self, work: DecodedBatch, servable_ms: int | None) -> None:
        """Buffer a batch, and count it; without the time when it was applied, it was not."""
        # no await in here: a flush sees a batch whole or not at all
        batch, progress = work.batch, self.partitions[work.batch.tp]
        absent = batch.next_offset - progress.next_offset - len(batch.records)
        progress.read(batch, work.rows, self._clock.monotonic_s())
        if servable_ms is None:
            self._counts.halted(work, progress)
            return
        self._metrics.absent.labels(batch.tp.topic, str(batch.tp.partition)).inc(absent)
        progress.applied(feature_log_rows(work.folds, servable_ms), work.letters)
        self._counts.done(work, progress, servable_ms)
        cache = self._caches[batch.tp.topic]
        for user_id, item in work.folds.items():
            if item.is_changed:
                cache.put(user_id, StoredState(item.state, servable_ms))

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    @contextmanager
    def _step(self, topic: str, step: str) -> Iterator[None]:
        started_s = self._clock.monotonic_s()
        yield
        self._metrics.batch_seconds.labels(topic, step).observe(self._clock.monotonic_s() - started_s)
