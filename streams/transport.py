"""Faust's transport with two changes: records arrive in batches, and commits are ours.

One message carries all that a fetch brought of a topic, a batch per partition.

Faust acks an event whose agent failed and can commit past what is in flight, so here acks are off, and every path that
commits ends in `BatchConsumer.commit`, which sends only offsets that every sink has. Faust awaits `wait_empty` before
partitions are given away and on SIGTERM, and `perform_seek` before records flow after an assignment: the two places
where ownership changes hands.

Fetches and seeks happen in the consumer's own thread. Every seek has a number, and what is fetched of a partition is
tagged with that of its last seek, so a batch that was fetched before it is recognised however late it arrives. A seek
back of some partitions, after a halt, leaves the batches of the others as they are.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from schemas.event import Record
from streams.ports import Batch, Positions, TopicPartition
from streams.room import FetchRoom

logger = logging.getLogger(__name__)

FETCH_WAIT_MAX_MS = 100  # Faust's 1,500 would be the latency of a quiet topic
SMALL_FETCH_RECORDS = 200
SUBSET_FETCH_TIMEOUT_S = 0.005  # what another partition waits for must not hold up those that have room
FULL_FETCH_TIMEOUT_S = 0.1

Fetched = tuple[dict[TP, int], dict[TP, list[Any]], dict[TP, int]]


class Ownership(Protocol):
    """What the transport tells, and asks, the owner of the loop (all in the main event loop)."""

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return the first offset to read of each partition."""
        ...

    def paused(self) -> frozenset[TopicPartition]:
        """Return the partitions that are not to be fetched until they are assigned anew."""
        ...

    def opened(self, seek_epoch: int) -> None:
        """Learn the number of the seek to those offsets: batches with that number may be processed."""
        ...

    def rewound(self, partitions: Collection[TopicPartition], seek_epoch: int) -> None:
        """Learn the number of a seek of some partitions: of them, batches with that number may be processed."""
        ...

    async def draining(self) -> None:
        """Finish and flush what is in flight; no batch may be accepted afterwards until the next `opened`."""
        ...

    def released(self) -> None:
        """Forget the partitions."""
        ...

    def committable(self) -> Mapping[TopicPartition, int]:
        """Return the offsets to commit."""
        ...

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Learn that Kafka has answered, and which offsets it took: none when the partitions are somebody else's."""
        ...


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to Kafka."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seek_epoch = 0
        self._seek_epochs: dict[TP, int] = {}

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MAX_MS  # noqa: SLF001 - Faust has no setting for it
        consumer._partition_assignment_strategy = (RangePartitionAssignor,)  # noqa: SLF001 - nor for this
        return consumer

    def _stopped_set(self) -> None:
        if not self.thread_loop.is_closed():  # after a crash the thread has ended by itself
            super()._stopped_set()

    async def fetch(self, partitions: set[TP] | None, timeout_s: float, records_max: int) -> Fetched:
        """Fetch records, with the number of the seek before them and the end of each partition's log."""
        return await self.call_thread(self._fetch, partitions, timeout_s, records_max)  # type: ignore[no-any-return]

    async def _fetch(self, partitions: set[TP] | None, timeout_s: float, records_max: int) -> Fetched:
        consumer = self._ensure_consumer()
        if partitions is None:
            partitions = self.assignment()
        records = await self._fetch_records(consumer, partitions, timeout=timeout_s, max_records=records_max)
        ends = {tp: consumer.highwater(tp) or 0 for tp in records}
        # no await since the records were taken: the numbers are theirs
        return {tp: self._seek_epochs.get(tp, self._seek_epoch) for tp in records}, records, ends

    async def seek_all(self, offsets: Mapping[TopicPartition, int], seek_epoch: int) -> None:
        """Seek all partitions; the seek has that number, which is greater than those before."""
        await self.call_thread(self._seek_all, offsets, seek_epoch)

    async def _seek_all(self, offsets: Mapping[TopicPartition, int], seek_epoch: int) -> None:
        self._seek(offsets)
        self._seek_epoch = seek_epoch
        self._seek_epochs.clear()

    async def seek_some(self, offsets: Mapping[TopicPartition, int], seek_epoch: int) -> None:
        """Seek some partitions, unless all were sought meanwhile; the others go on where they are."""
        await self.call_thread(self._seek_some, offsets, seek_epoch)

    async def _seek_some(self, offsets: Mapping[TopicPartition, int], seek_epoch: int) -> None:
        if seek_epoch > self._seek_epoch:
            self._seek(offsets)
            self._seek_epochs |= dict.fromkeys((TP(*tp) for tp in offsets), seek_epoch)

    def _seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        consumer = self._ensure_consumer()
        assigned = self.assignment()
        for tp, offset in offsets.items():
            if TP(*tp) in assigned:
                consumer.seek(driver.ensure_aiokafka_TP(TP(*tp)), offset)

    async def positions(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Positions]:
        """Return what the broker knows of each partition."""
        return await self.call_thread(self._positions, partitions)  # type: ignore[no-any-return]

    async def _positions(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Positions]:
        consumer = self._ensure_consumer()
        native = {tp: driver.ensure_aiokafka_TP(TP(*tp)) for tp in partitions}
        earliest = await consumer.beginning_offsets(list(native.values()))
        ends = await consumer.end_offsets(list(native.values()))
        return {tp: Positions(await consumer.committed(key), earliest[key], ends[key]) for tp, key in native.items()}


class BatchConsumer(driver.Consumer):
    """Faust's consumer, delivering batches and committing what the loop says."""

    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fetch_room = FetchRoom()
        self._room = asyncio.Event()
        self._committing = asyncio.Lock()
        self._seek_count = 0
        self._seek_epochs: dict[TopicPartition, int] = {}

    @property
    def ownership(self) -> Ownership:
        """Return whom to tell about partitions."""
        return self.app.ownership  # type: ignore[no-any-return]

    @property
    def thread(self) -> BatchConsumerThread:
        """Return the thread that talks to Kafka."""
        return self._thread

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust's livelock detector counts acks, which are off; the worker has a watchdog of its own."""

    # -- records in ------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):  # noqa: SLF001 - mode's own flag
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                    continue
                await self._deliver_once()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _deliver_once(self) -> None:
        assigned = frozenset(TopicPartition(*tp) for tp in self._get_active_partitions())
        fetch = self._fetch_room.next_fetch(assigned, self.ownership.paused())
        if fetch is None:
            self._room.clear()
            await self.wait_first(self._room.wait(), self.suspend_flow.wait(), timeout=1.0)
            return
        subset = None if fetch.partitions is None else {TP(*tp) for tp in fetch.partitions}
        timeout_s = FULL_FETCH_TIMEOUT_S if fetch.is_patient else SUBSET_FETCH_TIMEOUT_S
        epochs, fetched, ends = await self._thread.fetch(subset, timeout_s, self.app.conf.broker_max_poll_records)
        generation_id = self.app.consumer_generation_id
        for fetched_batches in _by_topic(epochs, fetched, ends):
            if not self.flow_active:
                return  # a rebalance has begun: its seek brings these records back
            batches = [batch for batch in fetched_batches if self._is_current(batch)]
            if not batches:
                continue
            self._fetch_room.taken(batch.tp for batch in batches)
            await self.wait_first(self.callback(_message(batches, generation_id)), self.suspend_flow.wait())
        if sum(map(len, fetched.values())) < SMALL_FETCH_RECORDS:
            await asyncio.sleep(self.app.linger_s)

    def batches_done(self, batches: Sequence[Batch]) -> None:
        """Make room for another batch of each of these partitions."""
        for batch in batches:
            if self._is_current(batch):
                self._fetch_room.done(batch.tp)
        self._room.set()

    def _is_current(self, batch: Batch) -> bool:
        """Tell whether a batch was fetched after the last seek of its partition, and counts as outstanding."""
        return batch.seek_epoch == self._seek_epochs.get(batch.tp)

    # -- ownership changes hands -----------------------------------------------------------------------------------

    async def perform_seek(self) -> None:
        """Decide where to start, seek there, and let the loop accept batches; awaited before records flow."""
        partitions = sorted(TopicPartition(*tp) for tp in self.assignment())
        starts = await self.ownership.assigned(partitions)
        epoch = self._next_seek(starts)
        await self._thread.seek_all(starts, epoch)
        self._fetch_room.clear()
        self._room.set()
        self.ownership.opened(epoch)
        logger.info("started at %s", {f"{tp.topic}-{tp.partition}": offset for tp, offset in starts.items()})

    async def rewind(self, starts: Mapping[TopicPartition, int]) -> None:
        """Have some partitions read again from these offsets, while the others go on.

        The loop and the room learn of the seek before it happens: what was fetched before it is dropped from now on.
        """
        epoch = self._next_seek(starts)
        for tp in starts:
            self._fetch_room.forget(tp)
        self.ownership.rewound(starts.keys(), epoch)
        self._room.set()
        await self._thread.seek_some(starts, epoch)

    def _next_seek(self, partitions: Iterable[TopicPartition]) -> int:
        self._seek_count += 1
        self._seek_epochs |= dict.fromkeys(partitions, self._seek_count)
        return self._seek_count

    async def wait_empty(self) -> None:
        """Finish, flush, commit and forget; awaited before the partitions are given away, and on SIGTERM."""
        await self.ownership.draining()
        await self.commit()
        self.ownership.released()

    # -- commits ---------------------------------------------------------------------------------------------------

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002
        """Commit what every sink has; one commit at a time, never cancelled half-way.

        Returns:
            Whether Kafka took new offsets.
        """
        async with self._committing:
            offsets = dict(self.ownership.committable())
            if not offsets:
                return False
            sent = asyncio.run_coroutine_threadsafe(
                self._thread._commit({TP(*tp): offset for tp, offset in offsets.items()}),  # noqa: SLF001
                self._thread.thread_loop,
            )
            done: bool = await asyncio.shield(asyncio.wrap_future(sent))
            self.ownership.committed(offsets if done else {})
            return done

    async def on_task_error(self, exc: BaseException) -> None:
        """Commit nothing: Faust would commit here, past the batch that failed."""


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = BatchConsumer


def _by_topic(epochs: Mapping[TP, int], fetched: Mapping[TP, list[Any]], ends: Mapping[TP, int]) -> list[list[Batch]]:
    topics: dict[str, list[Batch]] = {}
    for tp, records in fetched.items():
        if records:
            batch = Batch(
                tp=TopicPartition(tp.topic, tp.partition),
                records=[Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value) for r in records],
                next_offset=records[-1].offset + 1,
                seek_epoch=epochs[tp],
                end_offset=ends[tp],
            )
            topics.setdefault(tp.topic, []).append(batch)
    return list(topics.values())


def _message(batches: Sequence[Batch], generation_id: int) -> ConsumerMessage:
    first = batches[0]  # Faust needs a partition to find the topic's agent
    last = first.records[-1]
    return ConsumerMessage(
        first.tp.topic,
        first.tp.partition,
        last.offset,
        last.append_time_ms / 1000,
        1,  # LogAppendTime
        [],
        None,
        batches,
        None,
        0,
        0,
        TP(*first.tp),
        generation_id=generation_id,  # Faust drops what was fetched in another generation of the group
    )
