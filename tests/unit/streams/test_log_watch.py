"""A topic that becomes another log under a running worker is noticed before anything of it is applied."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from feature_repo.fence import Fence, PartitionStatus
from schemas.dead_letter import DeadLetter, Reason
from schemas.errors import BrokerUnavailableError, TopicError, TopicMissingError
from schemas.event import CLICKS_TOPIC, Event
from schemas.topics import TopicInfo
from sinks.rows import FlushReport
from streams.errors import LogEpochError
from streams.log_watch import LogWatch
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.ownership import PartitionOwner
from streams.ports import Batch, Positions, TopicPartition
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import FixedOffsets, JsonDecoder, ManualClock, RecordedLetters, json_record

TP = TopicPartition(CLICKS_TOPIC, 0)
LOG = TopicInfo(CLICKS_TOPIC, "id", 1, "LogAppendTime")


class Topics(FixedOffsets):
    """Topics that a test changes, and that count who looks."""

    looks = 0
    failure: Exception | None = None

    async def logs(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        return dict.fromkeys(topics, self.log)


class QuietLake:
    async def write(self, flushes: object) -> FlushReport:
        return FlushReport({})


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.states = InMemoryStates()
        self.topics = Topics(LOG, {TP: Positions(None, 0, 0)})
        self.fences = InMemoryFences()
        self.watch = LogWatch(self.topics, interval_s=10, clock=self.clock, fences=self.fences)
        metrics, settings = WorkerMetrics(CollectorRegistry()), WorkerSettings()
        self.loop = BatchLoop(
            settings,
            JsonDecoder(),
            Sinks(self.states, self.fences, QuietLake(), RecordedLetters()),
            metrics,
            self.clock,
            log_watch=self.watch,
        )
        self.owner = PartitionOwner(
            self.loop,
            settings,
            offsets=self.topics,
            fences=self.fences,
            metrics=metrics,
            clock=self.clock,
            log_watch=self.watch,
        )

    async def take(self) -> None:
        await self.owner.assigned([TP])
        self.owner.opened(1)
        self.topics.looks = 0

    async def process(self, first: int, count: int = 1, *, end: int = 0, misrouted: bool = False) -> None:
        made = [
            json_record(TP, first + at, Event(event_id=str(at), kind="click", user_id=f"u{first}", event_time_ms=1))
            for at in range(count)
        ]
        if misrouted:
            made.append(structs.replace(made[-1], offset=first + count, value=b"to another partition"))
        await self.loop.process([Batch(TP, made, first + len(made), 1, max(end, first + len(made)))])


def misrouting(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = JsonDecoder.refused

    def misrouted(self: JsonDecoder, record: object, detail: str) -> DeadLetter:
        letter = refused(self, record, detail)  # type: ignore[arg-type]
        return DeadLetter(
            **{name: getattr(letter, name) for name in letter.__struct_fields__} | {"reason": Reason.MISROUTED}
        )

    monkeypatch.setattr(JsonDecoder, "refused", misrouted)


@pytest.mark.parametrize("changed", [replace(LOG, topic_id="new"), replace(LOG, partition_count=2)])
def test_another_log_is_noticed_at_the_next_look(changed: TopicInfo) -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        world.topics.log = changed
        await world.owner.verify_logs()
        assert world.topics.looks == 0
        world.clock.pass_s(10)
        with pytest.raises(LogEpochError, match="another log"):
            await world.owner.verify_logs()

    asyncio.run(scenario())


def test_a_misrouted_record_makes_it_look_before_anything_is_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    misrouting(monkeypatch)
    world = World()

    async def scenario() -> None:
        await world.take()
        world.clock.pass_s(1)
        await world.process(0, misrouted=True)
        assert world.topics.looks == 1
        await world.process(2, misrouted=True)
        assert world.topics.looks == 1  # at most once a second
        world.clock.pass_s(1)
        world.topics.log = replace(LOG, partition_count=2)
        with pytest.raises(LogEpochError, match="another log"):
            await world.process(4, misrouted=True)

    asyncio.run(scenario())
    assert {user for _, user in world.states.rows} == {"u0", "u2"}


def test_a_log_that_goes_back_is_not_refused_in_silence() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0, 5)
        world.topics.log = replace(LOG, topic_id="new")
        with pytest.raises(LogEpochError, match="another log"):
            await world.process(0, 1)

    asyncio.run(scenario())


def test_a_log_that_goes_back_though_it_is_the_same_has_lost_records() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0, 5)
        with pytest.raises(LogEpochError, match="went back from offset 5 to 3"):
            await world.process(3, 1)

    asyncio.run(scenario())


def test_a_log_that_is_shorter_than_it_was_is_looked_at_before_anything_is_pushed() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.process(0, 5, end=500)
        world.clock.pass_s(2)
        world.topics.log = replace(LOG, topic_id="new")
        with pytest.raises(LogEpochError, match="another log"):
            await world.process(5, 1, end=100)

    asyncio.run(scenario())
    assert {user for _, user in world.states.rows} == {"u0"}


def test_a_topic_that_is_gone_is_told_at_the_second_look() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        world.topics.failure = TopicMissingError("Kafka has no topic x.")
        world.clock.pass_s(10)
        await world.owner.verify_logs()
        world.clock.pass_s(10)
        with pytest.raises(LogEpochError, match="A topic is gone"):
            await world.owner.verify_logs()

    asyncio.run(scenario())


@pytest.mark.parametrize("failure", [BrokerUnavailableError("Kafka does not answer."), TopicError("It timed out.")])
def test_a_broker_that_does_not_answer_is_no_other_log(failure: Exception) -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        world.topics.failure = failure
        for _ in range(5):
            world.clock.pass_s(10)
            await world.owner.verify_logs()
        assert world.topics.looks == 5

    asyncio.run(scenario())


def test_a_worker_without_partitions_compares_the_topics_with_the_fences() -> None:
    world = World()

    async def scenario() -> None:
        world.clock.pass_s(10)
        await world.owner.verify_logs()
        await world.fences.advance(CLICKS_TOPIC, 0, Fence(LOG.log_epoch, 5, PartitionStatus.LIVE, 1))
        world.clock.pass_s(10)
        await world.owner.verify_logs()
        world.topics.failure = BrokerUnavailableError("Kafka does not answer.")
        world.clock.pass_s(10)
        await world.owner.verify_logs()
        world.topics.failure = None
        world.topics.log = replace(LOG, topic_id="new")
        world.clock.pass_s(10)
        with pytest.raises(LogEpochError, match="another log"):
            await world.owner.verify_logs()

    asyncio.run(scenario())
