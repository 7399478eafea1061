"""Where owners died one after the other, records are tried elsewhere first."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.topics import TopicInfo
from sinks.rows import FlushReport
from streams.errors import StalledError
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.ownership import PartitionOwner
from streams.ports import Batch, Positions, TopicPartition
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.owners import InMemoryOwners
from tests.fakes.streams import FixedOffsets, JsonDecoder, ManualClock, RecordedLetters, json_record

TP = TopicPartition(CLICKS_TOPIC, 0)
LOG = TopicInfo(CLICKS_TOPIC, "id", 1, "LogAppendTime")
BATCH_RECORDS = 10


class QuietLake:
    async def write(self, flushes: object) -> FlushReport:
        return FlushReport({})


class Elsewhere:
    """A quarantine that knows the culprits, and remembers what it was asked."""

    def __init__(self, *deadly: int) -> None:
        self.deadly = deadly
        self.asked: list[int] = []
        self.most = 1_000
        self.answers = asyncio.Event()
        self.answers.set()

    async def culprits(self, records: Sequence[Record], partition_count: int) -> tuple[Mapping[int, str], int]:
        await self.answers.wait()
        self.asked += [record.offset for record in records]
        found = {record.offset: "It dies." for record in records if record.offset in self.deadly}
        tried = len(records) if len(found) < self.most else self.most
        return dict(list(found.items())[: self.most]), tried


class DeadlyDecoder(JsonDecoder):
    """Ends its process, here by an error that nothing catches."""

    def __init__(self, *deadly: int) -> None:
        super().__init__()
        self._deadly = deadly

    def decode(self, record: Record, partition_count: int):  # type: ignore[no-untyped-def]
        assert record.offset not in self._deadly, "the process is gone"
        return super().decode(record, partition_count)


class World:
    """What outlives workers, and workers one after the other."""

    def __init__(self, *deadly: int) -> None:
        self.deadly = deadly
        self.clock = ManualClock()
        self.states, self.fences, self.letters = InMemoryStates(), InMemoryFences(), RecordedLetters()
        self.owners = InMemoryOwners(self.fences)
        self.elsewhere = Elsewhere(*deadly)
        self.committed: int | None = 0

    async def start(self) -> PartitionOwner:
        metrics, settings = WorkerMetrics(CollectorRegistry()), WorkerSettings(batch_records=BATCH_RECORDS)
        loop = BatchLoop(
            settings,
            DeadlyDecoder(*self.deadly),
            Sinks(self.states, self.fences, QuietLake(), self.letters),
            metrics,
            self.clock,
            quarantine=self.elsewhere,
        )
        owner = PartitionOwner(
            loop,
            settings,
            offsets=FixedOffsets(LOG, {TP: Positions(self.committed, 0, 1_000)}),
            fences=self.fences,
            metrics=metrics,
            clock=self.clock,
            owners=self.owners,
        )
        await owner.assigned([TP])
        owner.opened(1)
        return owner

    async def die_at(self, first: int, count: int = BATCH_RECORDS) -> None:
        """Let a worker start, read from there, and die."""
        owner = await self.start()
        with pytest.raises(AssertionError, match="gone"):
            await owner.loop.process([batch(first, count)])


def batch(first: int, count: int = BATCH_RECORDS) -> Batch:
    made = [
        json_record(TP, at, Event(event_id=str(at), kind="click", user_id=f"u{at}", event_time_ms=1_700_000_000_000))
        for at in range(first, first + count)
    ]
    return Batch(TP, made, first + count, 1, 1_000)


def test_the_third_start_quarantines_the_record_and_applies_all_others() -> None:
    world = World(15)

    async def scenario() -> None:
        first = await world.start()
        await first.loop.process([batch(0)])
        with pytest.raises(AssertionError, match="gone"):
            await first.loop.process([batch(10)])
        await world.die_at(10)
        assert world.elsewhere.asked == []
        third = await world.start()
        await third.loop.process([batch(0)])  # before the fence, and read again
        await third.loop.process([batch(10)])
        await third.loop.process([batch(20)])
        assert world.elsewhere.asked == list(range(20))
        await third.loop.flusher.flush()
        assert third.loop.committable() == {TP: 30}

    asyncio.run(scenario())
    assert [(letter.offset, letter.detail) for letter in world.letters.letters] == [(15, "It dies.")]
    assert {user for _, user in world.states.rows} == {f"u{at}" for at in range(30) if at != 15}


def test_an_owner_that_leaves_in_order_is_no_death() -> None:
    world = World()

    async def scenario() -> None:
        for _ in range(5):
            owner = await world.start()
            await owner.draining()
            owner.released()
        owner = await world.start()
        await owner.loop.process([batch(0)])

    asyncio.run(scenario())
    assert world.elsewhere.asked == []


def test_an_expected_failure_is_no_death_and_an_unexpected_error_is_one() -> None:
    world = World()

    async def scenario() -> None:
        for error in (StalledError("Redis hangs."), StalledError("Redis hangs."), KeyError("a bug"), KeyError("a bug")):
            owner = await world.start()
            assert not owner._planned[TP].is_careful
            owner.failed(error)
            await owner.draining()
            owner.released()
        owner = await world.start()
        assert owner._planned[TP].is_careful

    asyncio.run(scenario())


def test_a_partition_of_only_deadly_records_is_braked() -> None:
    world = World(*range(10))
    world.elsewhere.most = 3

    async def scenario() -> None:
        await world.die_at(0)
        await world.die_at(0)
        third = await world.start()
        await third.loop.process([batch(0)])
        assert third.paused() == {TP}
        assert third.loop.partitions[TP].next_offset == 0

    asyncio.run(scenario())


def test_partitions_that_go_while_records_are_tried_are_not_waited_for() -> None:
    world = World(5)

    async def scenario() -> None:
        await world.die_at(0)
        await world.die_at(0)
        third = await world.start()
        world.elsewhere.answers.clear()
        processing = asyncio.ensure_future(third.loop.process([batch(0)]))
        await asyncio.sleep(0)
        await third.draining()
        await processing
        assert third.loop.partitions[TP].next_offset == 0

    asyncio.run(scenario())
