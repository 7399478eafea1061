"""A halted topic: raw rows and nothing else, until it is read again."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from feature_repo.fence import PartitionStatus
from features.state import read_trailer
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.topics import TopicInfo
from sinks.rows import FlushReport, PartitionFlush
from streams.decoding import DecodedBatch
from streams.errors import StatesLostError
from streams.halting import POLL_S
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.ownership import PartitionOwner
from streams.ports import Batch, Positions, TopicPartition
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import FixedOffsets, JsonDecoder, ManualClock, RecordedLetters, json_record

CLICKS, MORE_CLICKS, CARTS = (
    TopicPartition(CLICKS_TOPIC, 0),
    TopicPartition(CLICKS_TOPIC, 1),
    TopicPartition(CARTS_TOPIC, 0),
)
ALL = (CLICKS, MORE_CLICKS, CARTS)
LOG = TopicInfo(CLICKS_TOPIC, "id", 2, "LogAppendTime")
T0 = 1_700_000_000_000


class RecordedLake:
    def __init__(self) -> None:
        self.flushes: list[PartitionFlush] = []

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        self.flushes.extend(flushes)
        return FlushReport({})

    def raw(self, tp: TopicPartition) -> list[int]:
        return [
            row.record.offset
            for flush in self.flushes
            for row in flush.raw
            if (row.record.topic, row.record.partition) == tp
        ]


def event(tp: TopicPartition, offset: int) -> Event:
    is_cart = tp.topic == CARTS_TOPIC
    return Event(
        event_id=str(offset),
        kind="add" if is_cart else "page_view",
        user_id=f"user-{tp.partition}",
        event_time_ms=T0 + offset,
        quantity=1 if is_cart else None,
        unit_price_minor=99 if is_cart else None,
    )


class Gates:
    """Halts a topic while it is told to, and counts what it was shown."""

    def __init__(self) -> None:
        self.red: str | None = None
        self.seen = 0

    async def judge(self, topic: str, works: Sequence[DecodedBatch]) -> str | None:
        self.seen += sum(len(work.batch.records) for work in works)
        return "too many nulls" if topic == self.red else None


class World:
    def __init__(self) -> None:
        self.clock, self.states, self.fences = ManualClock(), InMemoryStates(), InMemoryFences()
        self.lake, self.letters, self.gates = RecordedLake(), RecordedLetters(), Gates()
        self.positions = dict.fromkeys(ALL, Positions(None, 0, 0))
        self.start()

    def start(self) -> None:
        self.metrics = WorkerMetrics(CollectorRegistry())
        settings = WorkerSettings(stall_timeout_s=100)
        sinks = Sinks(self.states, self.fences, self.lake, self.letters)
        self.loop = BatchLoop(settings, JsonDecoder(), sinks, self.metrics, self.clock, gatekeeper=self.gates)
        self.owner = PartitionOwner(
            self.loop, settings,
            offsets=FixedOffsets(LOG, self.positions), fences=self.fences, metrics=self.metrics, clock=self.clock,
        )  # fmt: skip

    async def take(self) -> dict[TopicPartition, int]:
        starts = await self.owner.assigned(ALL)
        self.owner.opened(seek_epoch=1)
        return dict(starts)

    async def process(self, tp: TopicPartition, first: int, end: int, *, seek_epoch: int = 1) -> None:
        await self.loop.process([self.batch(tp, first, end, seek_epoch)])

    def batch(self, tp: TopicPartition, first: int, end: int, seek_epoch: int = 1) -> Batch:
        events = [b"junk" if offset % 5 == 4 else event(tp, offset) for offset in range(first, end)]
        records = [json_record(tp, first + index, event, T0) for index, event in enumerate(events)]
        return Batch(tp, records, end, seek_epoch, end)

    async def flush_and_commit(self) -> dict[TopicPartition, int]:
        await self.loop.flusher.flush()
        offsets = self.loop.committable()
        self.loop.committed(offsets)
        return offsets

    async def resumed(self) -> dict[TopicPartition, int]:
        self.clock.pass_s(POLL_S)
        return dict(await self.owner.resume_freed())

    def fence(self, tp: TopicPartition) -> int:
        return self.fences.read_blocking(tp.topic)[tp.partition].next_offset

    def version(self, tp: TopicPartition) -> int:
        return read_trailer(self.states.rows[tp.topic, f"user-{tp.partition}"].state).version

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"shopstream_{name}", labels) or 0.0


def test_the_batch_that_trips_a_gate_and_all_after_it_leave_only_raw_rows() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(CLICKS, 0, 4)
        world.gates.red = CLICKS_TOPIC
        await world.process(CLICKS, 4, 8)
        await world.process(MORE_CLICKS, 0, 3)
        await world.process(CARTS, 0, 3)
        assert (world.fence(CLICKS), world.fence(MORE_CLICKS), world.fence(CARTS)) == (4, 0, 3)
        assert (world.version(CLICKS), world.version(CARTS)) == (4, 3)
        assert await world.flush_and_commit() == {CLICKS: 4, CARTS: 3}
        await world.process(CLICKS, 8, 10)
        assert await world.flush_and_commit() == {}
        assert world.lake.raw(CLICKS) == [0, 1, 2, 3, 5, 6, 7, 8]
        assert world.lake.raw(MORE_CLICKS) == [0, 1, 2]
        assert world.letters.letters == []
        assert world.gates.seen == 16

    asyncio.run(scenario())
    assert world.count("halted_records_total", topic=CLICKS_TOPIC) == 9
    assert world.count("records_total", topic=CLICKS_TOPIC, outcome="applied") == 4
    assert world.count("records_total", topic=CLICKS_TOPIC, outcome="dead_letter") == 0
    assert world.count("halted", topic=CLICKS_TOPIC, partition="1") == T0 / 1000


def test_after_the_halt_it_is_read_again_from_its_fence_and_nothing_is_missing() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(CLICKS, 0, 4)
        world.gates.red = CLICKS_TOPIC
        await world.process(CLICKS, 4, 10)
        assert await world.resumed() == {}
        world.gates.red = None
        await world.fences.free(CLICKS_TOPIC)
        assert await world.owner.resume_freed() == {}  # not every moment
        starts = await world.resumed()
        assert starts == {CLICKS: 4, MORE_CLICKS: 0}
        assert not world.loop.accepts(world.batch(CLICKS, 10, 11))  # before the seek is known, none
        world.owner.rewound(starts.keys(), 2)
        await world.process(CLICKS, 10, 12)  # fetched before it
        await world.process(CLICKS, 4, 12, seek_epoch=2)
        assert (world.fence(CLICKS), world.version(CLICKS)) == (12, 12)
        assert await world.flush_and_commit() == {CLICKS: 12}
        assert [letter.offset for letter in world.letters.letters] == [4, 9]

    asyncio.run(scenario())
    assert world.count("records_total", topic=CLICKS_TOPIC, outcome="applied") == 10
    assert world.count("records_total", topic=CLICKS_TOPIC, outcome="redelivered") == 0
    assert world.count("halted", topic=CLICKS_TOPIC, partition="0") == 0


@pytest.mark.parametrize("when", ["before the batch", "between its push and its fence"])
def test_a_halt_by_somebody_else_is_noticed(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    push = world.states.push

    async def push_and_halt(topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        await push(topic, rows, servable_ms)
        await world.fences.halt(topic, T0)

    async def scenario() -> None:
        await world.take()
        await world.process(CLICKS, 0, 4)
        if when == "before the batch":
            await world.fences.halt(CLICKS_TOPIC, T0)
        else:
            monkeypatch.setattr(world.states, "push", push_and_halt)
        await world.process(CLICKS, 4, 8)
        monkeypatch.setattr(world.states, "push", push)
        assert world.fence(CLICKS) == 4
        assert await world.flush_and_commit() == {CLICKS: 4}
        await world.fences.free(CLICKS_TOPIC)
        starts = await world.resumed()
        assert starts[CLICKS] == 4
        world.owner.rewound(starts.keys(), 2)
        await world.process(CLICKS, 4, 9, seek_epoch=2)
        assert (world.fence(CLICKS), world.version(CLICKS)) == (9, 9)
        assert await world.flush_and_commit() == {CLICKS: 9}
        versions = [row.version for flush in world.lake.flushes for row in flush.features]
        assert versions == ([4, 9] if when == "before the batch" else [4, 8, 9])

    asyncio.run(scenario())


def test_a_halt_outlives_the_worker_and_keeps_its_status() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(CLICKS, 0, 4)
        await world.fences.set_status(CLICKS_TOPIC, 0, PartitionStatus.REBUILDING, since_ms=1)
        await world.fences.halt(CLICKS_TOPIC, T0)
        await world.process(CLICKS, 4, 8)
        await world.owner.draining()
        world.positions |= {CLICKS: Positions(4, 0, 8)}
        world.start()
        assert (await world.take())[CLICKS] == 4
        assert world.loop.partitions[CLICKS].is_halted
        await world.process(CLICKS, 4, 8)
        fence = world.fences.read_blocking(CLICKS_TOPIC)[0]
        assert (fence.next_offset, fence.status, fence.halted_since_ms) == (4, PartitionStatus.REBUILDING, T0)
        assert await world.flush_and_commit() == {}

    asyncio.run(scenario())


def test_a_halted_worker_neither_stalls_nor_is_late_with_a_commit() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        world.gates.red = CLICKS_TOPIC
        await world.process(CLICKS, 0, 4)
        await world.flush_and_commit()
        world.loop.partitions[CLICKS].end_offset = 100
        for _ in range(3):
            world.clock.pass_s(1_000)
            world.owner.observe()

    asyncio.run(scenario())
    assert world.count("commit_age_seconds", topic=CLICKS_TOPIC, partition="0") == 0


def test_states_that_are_lost_while_halted_are_noticed() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(CLICKS, 0, 4)
        world.gates.red = CLICKS_TOPIC
        await world.process(CLICKS, 4, 8)
        world.fences.lose()
        with pytest.raises(StatesLostError, match=CLICKS_TOPIC):
            await world.resumed()

    asyncio.run(scenario())


def test_what_the_topic_does_not_retain_any_more_after_a_halt_is_left_to_a_rebuild() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        world.gates.red = CLICKS_TOPIC
        await world.process(CLICKS, 0, 8)
        await world.fences.free(CLICKS_TOPIC)
        world.positions[CLICKS] = Positions(None, 6, 8)
        starts = await world.resumed()
        assert starts == {CLICKS: 6, MORE_CLICKS: 0}
        fence = world.fences.read_blocking(CLICKS_TOPIC)[0]
        assert (fence.next_offset, fence.status) == (6, PartitionStatus.REBUILDING)

    asyncio.run(scenario())
    assert world.count("expired_records_total", topic=CLICKS_TOPIC, partition="0") == 6


def test_a_resume_waits_for_a_batch_that_is_under_way_and_gives_way_to_a_revocation() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        world.gates.red = CLICKS_TOPIC
        await world.process(CLICKS, 0, 4)
        await world.fences.free(CLICKS_TOPIC)
        turn = world.loop._turns[CLICKS_TOPIC]
        await turn.acquire()
        world.clock.pass_s(POLL_S)
        resuming = asyncio.ensure_future(world.owner.resume_freed())
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(world.owner.draining())
        await asyncio.sleep(0)
        assert not resuming.done()
        assert not draining.done()
        turn.release()
        assert await resuming == {}
        await draining

    asyncio.run(scenario())
