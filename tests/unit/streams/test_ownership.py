"""What happens between Faust and the loop: commits, flushes when due, failures, stalls."""

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from feature_repo.fence import Fence, PartitionStatus
from schemas.event import CLICKS_TOPIC, Event
from schemas.topics import TopicInfo
from sinks.rows import FlushReport
from streams.errors import CommitPendingError, LogEpochError, StalledError
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.ownership import PartitionOwner
from streams.ports import Batch, Positions, TopicPartition
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import FixedOffsets, JsonDecoder, ManualClock, RecordedLetters, json_record

TP = TopicPartition(CLICKS_TOPIC, 0)
LOG = TopicInfo(CLICKS_TOPIC, "id", 1, "LogAppendTime")


class QuietLake:
    async def write(self, flushes: object) -> FlushReport:
        return FlushReport({})


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fences = InMemoryFences()
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.settings = WorkerSettings(commit_timeout_s=60, stall_timeout_s=100, flush_interval_ms=2_000, flush_rows=3)
        sinks = Sinks(InMemoryStates(), self.fences, QuietLake(), RecordedLetters())
        self.loop = BatchLoop(self.settings, JsonDecoder(), sinks, self.metrics, self.clock)
        offsets = FixedOffsets(LOG, {TP: Positions(None, 0, 0)})
        self.owner = PartitionOwner(
            self.loop, self.settings, offsets=offsets, fences=self.fences, metrics=self.metrics, clock=self.clock
        )

    async def take(self) -> None:
        assert await self.owner.assigned([TP]) == {TP: 0}
        self.owner.opened(seek_epoch=1)

    async def process(self, offset: int, end_offset: int = 0) -> None:
        event = Event(event_id=str(offset), kind="page_view", user_id="u", event_time_ms=1_700_000_000_000)
        record = json_record(TP, offset, event)
        await self.loop.process([Batch(TP, [record], offset + 1, 1, max(end_offset, offset + 1))])

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"topic": CLICKS_TOPIC, "partition": "0"})


def test_an_assignment_places_fences_that_readers_see() -> None:
    world = World()
    asyncio.run(world.take())
    fence = world.fences.read_blocking(CLICKS_TOPIC)[0]
    assert (fence.epoch, fence.next_offset, fence.status) == ("id:1", 0, PartitionStatus.LIVE)


class EmptiedAfterTheFirstRead(InMemoryFences):
    """Redis is emptied between the look at the fences and what follows it."""

    async def read(self, topic: str) -> dict[int, Fence]:
        found = await super().read(topic)
        self.lose()
        return found


def test_a_fence_that_is_lost_during_the_assignment_is_not_put_back() -> None:
    world = World()
    fences = EmptiedAfterTheFirstRead()

    async def scenario() -> None:
        await fences.replace(CLICKS_TOPIC, 0, Fence("id:1", 4, PartitionStatus.LIVE, 0))
        world.owner._fences = fences
        world.owner._offsets = FixedOffsets(LOG, {TP: Positions(4, 0, 4)})
        assert await world.owner.assigned([TP]) == {TP: 4}
        assert fences.read_blocking(CLICKS_TOPIC) == {}

    asyncio.run(scenario())


class RestoredAfterTheFirstRead(InMemoryFences):
    """Redis gets an older copy between the look at the fences and what follows it."""

    async def read(self, topic: str) -> dict[int, Fence]:
        found = await super().read(topic)
        await self.replace(topic, 0, Fence("id:1", 1, PartitionStatus.LIVE, 0))
        return found


def test_a_fence_that_is_restored_during_the_assignment_is_neither_moved_nor_marked() -> None:
    world = World()
    fences = RestoredAfterTheFirstRead()

    async def scenario() -> None:
        world.owner._fences = fences
        world.owner._offsets = FixedOffsets(LOG, {TP: Positions(4, 0, 4)})
        assert await world.owner.assigned([TP]) == {TP: 4}
        assert fences.read_blocking(CLICKS_TOPIC)[0] == Fence("id:1", 1, PartitionStatus.LIVE, 0)

    asyncio.run(scenario())


def test_an_assignment_of_another_log_is_a_failure_with_its_reason() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        world.owner._offsets = FixedOffsets(replace(LOG, topic_id="other"), {TP: Positions(None, 0, 0)})
        with pytest.raises(LogEpochError):
            await world.owner.assigned([TP])

    asyncio.run(scenario())
    assert isinstance(world.owner.failure, LogEpochError)


def test_a_flush_is_due_by_time_or_by_rows() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0)
        assert not await world.owner.flush_if_due()
        world.clock.pass_s(2.1)
        assert await world.owner.flush_if_due()
        assert world.owner.committable() == {TP: 1}
        await world.process(1)
        await world.process(2)
        assert await world.owner.flush_if_due()  # raw rows and pushed states count

    asyncio.run(scenario())


def test_the_commit_age_is_that_of_the_oldest_record_and_ends_with_its_commit() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0)
        world.clock.pass_s(3)
        assert await world.owner.flush_if_due()
        world.clock.pass_s(1)
        await world.process(1)
        world.owner.observe()
        assert world.value("shopstream_commit_age_seconds") == 4
        world.owner.committed(dict(world.owner.committable()))
        world.clock.pass_s(1)
        world.owner.observe()
        assert world.value("shopstream_commit_age_seconds") == 1

    asyncio.run(scenario())


def test_a_commit_without_an_answer_stops_the_worker_and_a_refused_one_does_not() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0)
        world.clock.pass_s(3)
        await world.owner.flush_if_due()
        world.owner.committable()
        world.owner.committed({})  # Kafka says that the partition is somebody else's
        world.clock.pass_s(61)
        world.owner.observe()
        world.owner.committable()
        world.clock.pass_s(61)
        with pytest.raises(CommitPendingError):
            world.owner.observe()

    asyncio.run(scenario())


def test_lag_without_progress_stops_the_worker() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0, end_offset=50)
        world.owner.observe()
        world.clock.pass_s(99)
        world.owner.observe()
        world.clock.pass_s(2)
        with pytest.raises(StalledError, match="49 records wait"):
            world.owner.observe()

    asyncio.run(scenario())


def test_a_quiet_topic_is_not_a_stall() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0)
        world.clock.pass_s(10_000)
        world.owner.observe()
        world.clock.pass_s(10_000)
        world.owner.observe()

    asyncio.run(scenario())


def test_after_a_failure_nothing_is_processed_or_flushed() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0)
        world.owner.failed(RuntimeError("a sink is gone"))
        await world.process(1)
        world.clock.pass_s(10)
        assert not await world.owner.flush_if_due()
        await world.owner.draining()
        assert world.owner.committable() == {}

    asyncio.run(scenario())


def test_offsets_that_the_log_does_not_hold_are_counted() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0)
        await world.process(4)

    asyncio.run(scenario())
    assert world.value("shopstream_absent_offsets_total") == 3
