"""The brake: what it counts, and what a partition that it stopped does and does not do."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from feature_repo.fence import PartitionStatus
from schemas.dead_letter import DeadLetter, Reason
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.topics import TopicInfo
from sinks.rows import FlushReport
from streams.brake import Brake, Braked
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.ownership import PartitionOwner
from streams.ports import Batch, Positions, TopicPartition
from streams.progress import PartitionProgress
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import FixedOffsets, JsonDecoder, ManualClock, RecordedLetters, json_record

BAD, GOOD = TopicPartition(CLICKS_TOPIC, 0), TopicPartition(CLICKS_TOPIC, 1)
LOG = TopicInfo(CLICKS_TOPIC, "id", 2, "LogAppendTime")
T0 = 1_700_000_000_000


def records(first: int, count: int) -> list[Record]:
    return [Record(CLICKS_TOPIC, 0, first + at, T0, None, b"") for at in range(count)]


def letter(offset: int, reason: Reason = Reason.UNKNOWN_SCHEMA) -> DeadLetter:
    decoder = JsonDecoder()
    found = decoder.refused(Record(CLICKS_TOPIC, 0, offset, T0, None, b""), f"at {offset}")
    return DeadLetter(**{name: getattr(found, name) for name in found.__struct_fields__} | {"reason": reason})


def test_up_to_the_share_records_pass_and_one_more_stops_before_its_whole_batch() -> None:
    brake = Brake(10, 0.5)
    assert brake.refuses(records(0, 10), [letter(offset) for offset in range(5)]) is None
    told = brake.refuses(records(10, 1), [letter(10)])  # offset 0 has left the window
    assert told is None
    told = brake.refuses(records(11, 3), [letter(offset) for offset in (11, 12, 13)])
    assert told is None
    told = brake.refuses(records(14, 2), [letter(14), letter(15, Reason.MISROUTED)])
    assert told == Braked(14, 10, 6, ((Reason.UNKNOWN_SCHEMA, 5), (Reason.MISROUTED, 1)), "at 14")


def test_what_was_refused_is_not_counted() -> None:
    brake = Brake(10, 0.5)
    assert brake.refuses(records(0, 6), [letter(offset) for offset in range(6)]) is not None
    assert brake.refuses(records(0, 5), [letter(offset) for offset in range(5)]) is None


def test_a_share_of_one_never_stops() -> None:
    brake = Brake(10, 1.0)
    assert brake.refuses(records(0, 500), [letter(offset) for offset in range(500)]) is None


@settings(deadline=None)
@given(
    window=st.integers(1, 12),
    share=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    batches=st.lists(st.lists(st.booleans(), min_size=1, max_size=15), max_size=8),
)
def test_it_stops_exactly_where_a_count_over_the_window_says(
    window: int, share: float, batches: Sequence[Sequence[bool]]
) -> None:
    brake = Brake(window, share)
    seen: list[bool] = []
    for failed in batches:
        first = len(seen)
        both = [*seen, *failed]
        counts = [sum(both[max(0, end - window) : end]) for end in range(first + 1, len(both) + 1)]
        refused = brake.refuses(
            records(first, len(failed)), [letter(first + at) for at, is_letter in enumerate(failed) if is_letter]
        )
        assert (refused is not None) == (max(counts) > share * window)
        if refused is None:
            seen = both


class QuietLake:
    async def write(self, flushes: object) -> FlushReport:
        return FlushReport({})


class World:
    """A loop that owns a partition that turns bad, and one that stays good."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.states, self.letters = InMemoryStates(), RecordedLetters()
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.settings = WorkerSettings(brake_records=10, brake_share=0.5, stall_timeout_s=100)
        fences = InMemoryFences()
        self.loop = BatchLoop(
            self.settings,
            JsonDecoder(),
            Sinks(self.states, fences, QuietLake(), self.letters),
            self.metrics,
            self.clock,
        )
        self.owner = PartitionOwner(
            self.loop,
            self.settings,
            offsets=FixedOffsets(LOG, {BAD: Positions(None, 0, 0), GOOD: Positions(None, 0, 0)}),
            fences=fences,
            metrics=self.metrics,
            clock=self.clock,
        )

    async def take(self) -> None:
        await self.owner.assigned([BAD, GOOD])
        self.owner.opened(1)

    def progress(self, tp: TopicPartition) -> PartitionProgress:
        return self.loop.partitions[tp]

    def braked(self) -> float | None:
        labels = {"topic": CLICKS_TOPIC, "partition": "0", "reason": "undecodable"}
        return self.metrics.registry.get_sample_value("shopstream_partition_braked", labels)


def batch(tp: TopicPartition, first: int, count: int, *, bad: bool) -> Batch:
    user = f"u{tp.partition}"
    events = [
        Event(event_id=f"{user}-{offset}", kind="click", user_id=user, event_time_ms=T0)
        for offset in range(first, first + count)
    ]
    made = [json_record(tp, first + at, b"junk" if bad else event, T0) for at, event in enumerate(events)]
    return Batch(tp, made, first + count, 1, 1_000)


def test_a_braked_partition_takes_nothing_more_and_the_other_goes_on() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.loop.process([batch(BAD, 0, 5, bad=True), batch(GOOD, 0, 5, bad=False)])
        await world.loop.process([batch(BAD, 5, 1, bad=True), batch(GOOD, 5, 5, bad=False)])
        assert world.owner.paused() == {BAD}
        assert (world.progress(BAD).next_offset, world.progress(GOOD).next_offset) == (5, 10)
        await world.loop.process([batch(BAD, 6, 4, bad=False)])  # a gap like this one is accepted otherwise
        await world.loop.process([batch(GOOD, 10, 5, bad=False)])
        assert (world.progress(BAD).next_offset, world.progress(GOOD).next_offset) == (5, 15)
        await world.loop.flusher.flush()
        assert world.owner.committable() == {BAD: 5, GOOD: 15}

    asyncio.run(scenario())
    assert len(world.letters.letters) == 5
    assert {user for _, user in world.states.rows} == {"u1"}
    assert world.braked() == 1


def test_a_braked_partition_is_no_stall_but_the_other_is() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.loop.process([batch(BAD, 0, 9, bad=True)])
        world.owner.observe()
        world.clock.pass_s(200)
        world.owner.observe()
        await world.loop.process([batch(GOOD, 0, 5, bad=False)])
        world.owner.observe()
        world.clock.pass_s(200)
        with pytest.raises(Exception, match="995 records wait"):
            world.owner.observe()

    asyncio.run(scenario())


def test_an_assignment_tries_again() -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.loop.process([batch(BAD, 0, 9, bad=True)])
        await world.owner.draining()
        world.owner.released()
        assert world.braked() == 0
        await world.take()
        assert world.owner.paused() == frozenset()
        await world.loop.process([batch(BAD, 0, 9, bad=False)])
        assert world.progress(BAD).next_offset == 9
        assert world.progress(BAD).status is PartitionStatus.LIVE

    asyncio.run(scenario())


def test_the_log_says_why_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    async def scenario() -> None:
        await world.take()
        await world.loop.process([batch(BAD, 0, 9, bad=True)])

    asyncio.run(scenario())
    [said] = [record.getMessage() for record in caplog.records if "stopped" in record.getMessage()]
    for words in (f"{CLICKS_TOPIC}-0", "before offset 0", "undecodable 6", "restart the worker", "worker.brake_share"):
        assert words in said
