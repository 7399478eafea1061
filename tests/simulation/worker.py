"""One life of one simulated worker: the real loop and owner, driven as `streams.transport` and Faust drive them."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from config.errors import ShopstreamError
from config.settings import EventSettings
from feature_repo.fence import Fence, PartitionStatus
from schemas.codec import Codec
from schemas.event import EVENT_TOPICS
from streams.log_watch import LogWatch
from streams.loop import BatchLoop, Sinks
from streams.ownership import PartitionOwner
from streams.ports import Batch, TopicPartition
from streams.progress import StateCache
from streams.room import FetchRoom
from tests.crash_points import COMMIT_POINTS, watched
from tests.simulation import ports
from tests.simulation.broker import HEARTBEAT_S, SESSION_TIMEOUT_S, Member
from tests.simulation.counting import CountingMetrics
from tests.simulation.load import BASE_MS
from tests.simulation.promises import Promise

if TYPE_CHECKING:
    from tests.simulation.world import World

STOP_TIMEOUT_S = 30.0


class DiedError(BaseException):
    """This worker is dead; nothing of it has an effect any more."""


class LifeClock:
    """Implements `streams.ports.Clock`; no two machines agree on the time of day."""

    def __init__(self, world: "World", skew_ms: int) -> None:
        self._world = world
        self._skew_ms = skew_ms

    def now_ms(self) -> int:
        """Return wall-clock milliseconds."""
        return BASE_MS + self._skew_ms + round(self._world.now_s * 1000)

    def monotonic_s(self) -> float:
        """Return seconds."""
        return self._world.now_s


class Life:
    """A worker process from its start to its end.

    Attributes:
        is_alive: false once it was killed or has ended.
        is_started: it was given partitions, and has learnt where to begin in each.
        wake: set when there may be something to fetch.
        unfenced: topics in which it has stored states whose fence it has not moved yet.
        loaded: (topic, user) of the states that it has loaded since its last assignment.
        keeps_cache: it does not forget the states of partitions that it has given away: compare-and-set must do.
        was_cut_short: it was killed, so what it counted last may not have been noted here.
        read_count: records of the batches that it has applied.
        halted_count: records that it has read without applying them.
        tripped: topics whose batches at work were refused by its gatekeeper.
    """

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.name = name = f"worker-{number}"
        self.is_alive = True
        self.is_ending = False
        self.is_started = False
        self.unfenced: set[str] = set()
        self.loaded: set[tuple[str, str]] = set()
        self.keeps_cache = world.caches_are_kept
        self._kept: dict[str, StateCache] = {}
        self.was_cut_short = False
        self.read_count = self.halted_count = 0
        self.tripped: set[str] = set()
        self._known_halted: set[TopicPartition] = set()
        self._halted_at_batch: dict[str, frozenset[TopicPartition]] = {}
        self.member = Member(name)
        self._resumed: asyncio.Event | None = None
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flow = asyncio.Event()
        self.wake = asyncio.Event()
        self._committing = asyncio.Lock()
        self._room = FetchRoom()
        self._positions: dict[TopicPartition, int] = {}
        self._seek_count = 0
        self._seek_epochs: dict[TopicPartition, int] = {}  # as the consumer's thread has them
        self._expected_epochs: dict[TopicPartition, int] = {}
        self._queues: dict[str, asyncio.Queue[list[Batch]]] = {topic: asyncio.Queue() for topic in EVENT_TOPICS}
        self._build()
        self.spawn(self._membership())
        self.spawn(self._fetch())
        for topic in EVENT_TOPICS:
            self.spawn(self._agent(topic))
        self.spawn(self._flush_and_commit())
        self.spawn(self._watch())
        self.spawn(self._read_again())

    def _build(self) -> None:
        world = self.world
        self.metrics = CountingMetrics()
        clock = LifeClock(world, world.rng.randint(-2_000, 2_000))
        link = ports.Link(self, world)
        codec = Codec(world.registry, limits=EventSettings(), unknown_id_ttl_s=5.0, clock_ms=clock.now_ms)
        sinks = watched(
            Sinks(ports.OnlinePort(link), ports.FencePort(link), ports.LakePort(link), ports.LetterPort(link)),
            self.reached,
        )
        offsets = ports.OffsetPort(link)
        log_watch = LogWatch(offsets, interval_s=10.0, clock=clock)
        decoder = ports.DecoderPort(link, codec)
        gates = ports.Gates(link)
        self.loop = BatchLoop(
            world.settings, decoder, sinks, self.metrics, clock, log_watch=log_watch, gatekeeper=gates
        )
        self.owner = PartitionOwner(
            self.loop,
            world.settings,
            offsets=offsets,
            fences=sinks.fences,
            metrics=self.metrics,
            clock=clock,
            log_watch=log_watch,
        )

    # -- life and death --------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start a task that dies with this worker."""
        task = self.world.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, DiedError) or not self.is_alive:
            return
        if not isinstance(error, ShopstreamError):
            self.world.violate(Promise.EXPECTED, f"{self.name}: {error!r}", error)
        self.owner.failed(error)
        if not self.is_ending:
            self.is_ending = True
            self.tell(f"fails: {error}")
            self.spawn(self._end_in_failure())

    async def gate(self) -> None:
        """Let nothing pass that a dead or a stopped process would do."""
        while self._resumed is not None and self.is_alive:
            await self._resumed.wait()
        if not self.is_alive:
            raise DiedError

    def reached(self, point: str) -> None:
        """Note that a named point is passed; die or be stopped there if it is so decided."""
        if not self.is_alive:
            raise DiedError
        fault = self.world.at_point(point)
        if fault is None:
            return
        if fault.pause_s:
            self.tell(f"is stopped for {fault.pause_s:g} s {point}")
            self.pause(fault.pause_s)
        else:
            self.tell(f"dies {point}")
            self.die()
            raise DiedError

    def die(self) -> None:
        """End at once; the group learns of it when the session times out."""
        self.is_alive = False
        self.was_cut_short = True
        for task in [*self._tasks]:
            task.cancel()
        if self._resumed is not None:
            self._resumed.set()
        self.world.loop.call_later(SESSION_TIMEOUT_S, self.world.group.leave, self.member)
        self.world.ended(self)

    def pause(self, for_s: float) -> None:
        """Stop, as SIGSTOP does; longer than the session timeout makes it a zombie."""
        if self._resumed is not None or not self.is_alive:
            return
        self._resumed = asyncio.Event()
        timer = self.world.loop
        if for_s > SESSION_TIMEOUT_S:
            timer.call_later(SESSION_TIMEOUT_S, self.world.group.leave, self.member)
        timer.call_later(for_s, self._resume)

    def _resume(self) -> None:
        if self._resumed is not None and self.is_alive:
            self.tell("goes on")
            self._resumed.set()
            self._resumed = None

    @property
    def is_paused(self) -> bool:
        """Tell whether it is stopped."""
        return self._resumed is not None and self.is_alive

    def stop(self) -> None:
        """Ask for an orderly end, as SIGTERM does."""
        self._stop.set()
        self.member.must_rejoin.set()

    def tell(self, what: str) -> None:
        """Add a line to the trace."""
        self.world.tell(f"{self.name} {what}")

    # -- partitions come and go ------------------------------------------------------------------------------------

    async def _membership(self) -> None:
        rng = self.world.rng
        while not self._stop.is_set():
            await self.gate()
            if not await self.world.group.join(self.member):
                continue
            await self.gate()
            await self._perform_seek()
            self._flow.set()
            await self.member.must_rejoin.wait()
            await self.world.sleep(rng.uniform(0, HEARTBEAT_S))
            await self.gate()
            if self.is_ending:
                return
            self._flow.clear()
            await self._wait_empty()
        if not self.is_ending:
            self.is_ending = True
            self._leave("ends in order")

    async def _perform_seek(self) -> None:
        generation = self.member.generation
        starts = await self.owner.assigned(sorted(self.member.partitions))
        if generation != self.member.generation:
            self.tell("was given other partitions while it started")
        self._positions = dict(starts)
        self._seek_count += 1
        self._seek_epochs = dict.fromkeys(starts, self._seek_count)
        self._expected_epochs = dict(self._seek_epochs)
        self._room.clear()
        self.wake.set()
        self.loaded.clear()
        self._known_halted.clear()
        self.owner.opened(self._seek_count)
        if self.keeps_cache:
            self.loop._caches.update({topic: self._kept[topic] for topic in self.loop._caches if topic in self._kept})
        self.is_started = True
        self.tell(f"starts at {_named(starts)}")

    async def _wait_empty(self) -> None:
        await self.owner.draining()
        await self._commit()
        self._kept.update(self.loop._caches)
        self.owner.released()
        self._positions = {}
        if self.world.rng.random() < 0.5:
            for queue in self._queues.values():
                while not queue.empty():
                    queue.get_nowait()

    async def _end_in_failure(self) -> None:
        self._flow.clear()
        if self.world.rng.random() < 0.3:
            self.die()
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._wait_empty()
                await self.gate()
        except (TimeoutError, ShopstreamError):
            self.die()
            return
        self._leave("ends with code 1")

    def _leave(self, how: str) -> None:
        self.tell(how)
        self.world.group.leave(self.member)
        self.is_alive = False
        for task in [*self._tasks]:
            task.cancel()
        self.world.ended(self)

    # -- records in ------------------------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        while True:
            await self._flow.wait()
            await self.gate()
            await self._deliver_once()

    async def _deliver_once(self) -> None:
        world = self.world
        self.wake.clear()
        fetch = self._room.next_fetch(frozenset(self._positions), self.owner.paused())
        wanted = () if fetch is None else self._positions if fetch.partitions is None else fetch.partitions
        found = [tp for tp in sorted(wanted) if world.logs.end(tp) > self._positions[tp]]
        if not found:
            await self.wake.wait()
            return
        await world.sleep(world.rng.choice((0.01, 0.1, 0.4)))
        topics = self._taken(found)
        # a seek may come in between
        await world.sleep(world.delay_s("fetch") if world.rng.random() < 0.7 else world.rng.uniform(0.0, 3.0))
        await self.gate()
        for topic, fetched in topics.items():
            if not self._flow.is_set():
                return
            # what is old does not count, as in the transport; here the loop gets it, too, and must leave it alone
            self._room.taken(batch.tp for batch in fetched if self._is_current(batch))
            self._queues[topic].put_nowait(fetched)

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """Return where its consumer stands."""
        return self._positions

    def _is_current(self, batch: Batch) -> bool:
        return batch.seek_epoch == self._expected_epochs.get(batch.tp)

    def _taken(self, partitions: Sequence[TopicPartition]) -> dict[str, list[Batch]]:
        """Take records from where the consumer stands, and move it on."""
        topics: dict[str, list[Batch]] = {}
        for tp in partitions:
            if tp not in self._positions:
                continue
            count = self.world.rng.randint(1, self.world.settings.batch_records)
            records = self.world.logs.read(tp, self._positions[tp], count)
            if not records:
                continue
            next_offset = records[-1].offset + 1
            self._positions[tp] = next_offset
            batch = Batch(tp, records, next_offset, self._seek_epochs[tp], self.world.logs.end(tp))
            topics.setdefault(tp.topic, []).append(batch)
        return topics

    async def _agent(self, topic: str) -> None:
        while True:
            batches = await self._queues[topic].get()
            await self.gate()
            accepted = [batch for batch in batches if self.loop.accepts(batch)]
            self._halted_at_batch[topic] = frozenset(self._known_halted)
            if any(progress.status is PartitionStatus.REBUILDING for progress in self.loop.partitions.values()):
                # a partial state under way while Redis gets a whole copy back is not told: nobody promises that
                self.unfenced.add(topic)
            try:
                await self.loop.process(batches)
            finally:
                self.unfenced.discard(topic)
                self.tripped.discard(topic)
                self._count(accepted)
                for batch in batches:
                    if self._is_current(batch):
                        self._room.done(batch.tp)
                self.wake.set()

    def _count(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            progress = self.loop.partitions.get(batch.tp)
            if progress is None or progress.next_offset < batch.next_offset:
                continue
            is_applied = progress.applied_offset >= batch.next_offset
            self.read_count += len(batch.records) if is_applied else 0
            self.halted_count += 0 if is_applied else len(batch.records)
            self.tell(
                f"has {'processed' if is_applied else 'read'} {batch.tp.topic}-{batch.tp.partition} "
                f"{batch.records[0].offset}..{batch.next_offset - 1}"
            )

    # -- halts -----------------------------------------------------------------------------------------------------

    def learns(self, topic: str, fences: Mapping[int, Fence]) -> None:
        """Learn from fences which partitions are halted."""
        for partition, fence in fences.items():
            change = self._known_halted.add if fence.is_halted else self._known_halted.discard
            change(TopicPartition(topic, partition))

    def looks_free(self, tp: TopicPartition, what: str) -> None:
        """See that nothing is applied to a partition of which this worker knew, or should know, that it is halted."""
        progress = self.loop.partitions.get(tp)
        knew = tp in self._known_halted and tp in self._halted_at_batch.get(tp.topic, ())
        if knew or tp.topic in self.tripped or (progress is not None and progress.is_halted):
            self.world.violate(Promise.HALTS, f"{self.name} {what} in {tp}, and must know that it is halted")

    async def _read_again(self) -> None:
        """Do what the app's housekeeping and the transport do when a halt has ended."""
        while True:
            await self.world.sleep(0.25)
            await self.gate()
            starts = await self.owner.resume_freed()
            if not starts:
                continue
            self._seek_count += 1
            seek_epoch = self._seek_count
            for tp in starts:
                self._expected_epochs[tp] = seek_epoch
                self._room.forget(tp)
            self.owner.rewound(starts.keys(), seek_epoch)
            self.tell(f"goes back to {_named(starts)}")
            self.spawn(self._seek_back(starts, seek_epoch))

    async def _seek_back(self, starts: Mapping[TopicPartition, int], seek_epoch: int) -> None:
        await self.world.sleep(self.world.rng.choice((0.0, 0.0, 0.05, 0.5)))
        await self.gate()
        for tp, offset in starts.items():
            if self._seek_epochs.get(tp, seek_epoch) < seek_epoch:
                self._positions[tp], self._seek_epochs[tp] = offset, seek_epoch
        self.wake.set()

    # -- flushes and commits ---------------------------------------------------------------------------------------

    async def _flush_and_commit(self) -> None:
        tick_s = max(0.25, self.world.settings.flush_interval_ms / 2000)
        while True:
            await self.world.sleep(tick_s)
            await self.gate()
            if await self.owner.flush_if_due():
                await self._commit()

    async def _watch(self) -> None:
        while True:
            await self.world.sleep(2.0)
            await self.gate()
            await self.owner.verify_logs()
            self.owner.observe()

    async def _commit(self) -> None:
        async with self._committing:
            offsets = dict(self.owner.committable())
            if not offsets:
                return
            before, after = COMMIT_POINTS
            self.reached(before)
            done = await asyncio.shield(self.spawn(self.world.commit(self, self.member.generation, offsets)))
            self.reached(after)
            self.owner.committed(offsets if done else {})


def _named(offsets: Any) -> str:
    return ", ".join(f"{tp.topic}-{tp.partition}: {offset}" for tp, offset in offsets.items()) or "nothing"
