"""The batch loop against fakes: one promise each."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from feature_repo.errors import OnlineStoreError
from feature_repo.fence import PartitionStatus
from features.apply import fold
from features.state import decode, read_trailer
from schemas.event import CLICKS_TOPIC, Event
from schemas.topics import TopicInfo
from sinks.errors import LakeUnavailableError
from sinks.rows import FlushReport, PartitionFlush
from streams.errors import SinkFailedError, StatesLostError
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.ports import Batch, TopicPartition
from streams.progress import PartitionProgress
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import JsonDecoder, ManualClock, RecordedLetters, json_record

TP = TopicPartition(CLICKS_TOPIC, 0)
LOG = TopicInfo(CLICKS_TOPIC, "topic-id", 4, "LogAppendTime")
T0 = 1_700_000_000_000


class RecordedLake:
    """A lake that remembers flushes, and fails as often as it is told."""

    def __init__(self) -> None:
        self.flushes: list[PartitionFlush] = []
        self.failures_left = 0

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        if self.failures_left:
            self.failures_left -= 1
            raise LakeUnavailableError(Path("lake"), "the disk is full", hint="")
        self.flushes.extend(flushes)
        return FlushReport({})


class World:
    """A loop and everything around it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.states = InMemoryStates()
        self.fences = InMemoryFences()
        self.lake = RecordedLake()
        self.letters = RecordedLetters()
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.settings = WorkerSettings(**settings)
        self.restart()

    def restart(self, status: PartitionStatus = PartitionStatus.LIVE, next_offset: int = 0) -> None:
        """Start a new worker at an offset; what is in the sinks stays."""
        sinks = Sinks(self.states, self.fences, self.lake, self.letters)
        self.loop = BatchLoop(self.settings, JsonDecoder(), sinks, self.metrics, self.clock)
        progress = PartitionProgress(TP, LOG, status, next_offset, None)
        held = self.fences._fences.setdefault(CLICKS_TOPIC, {})
        if 0 not in held or status is PartitionStatus.REBUILDING:  # as an assignment does
            held[0] = progress.fence()
        self.loop.open({TP: progress}, seek_epoch=1)

    def count(self, outcome: str) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "shopstream_records_total", {"topic": CLICKS_TOPIC, "outcome": outcome}
            )
            or 0.0
        )

    def pushed_versions(self) -> list[tuple[str, int]]:
        return [(row.user_id, row.version) for flush in self.lake.flushes for row in flush.features]


def view(user: str, number: int, at_ms: int = T0) -> Event:
    return Event(event_id=f"{user}-{number}", kind="page_view", user_id=user, event_time_ms=at_ms + number)


def batch(first_offset: int, events: Sequence[Event | bytes], seek_epoch: int = 1) -> Batch:
    records = [json_record(TP, first_offset + i, event, T0) for i, event in enumerate(events)]
    end = first_offset + len(records)
    return Batch(TP, records, end, seek_epoch, end)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_a_batch_reaches_the_online_store_at_once_and_the_lake_at_the_flush() -> None:
    world = World()

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0), view("b", 0), view("a", 1)])])
        assert read_trailer(world.states.rows[CLICKS_TOPIC, "a"].state).version == 3
        assert read_trailer(world.states.rows[CLICKS_TOPIC, "b"].state).version == 2
        assert (await world.fences.read(CLICKS_TOPIC))[0].next_offset == 3
        assert world.loop.committable() == {}
        await world.loop.flusher.flush()
        assert [row.record.offset for flush in world.lake.flushes for row in flush.raw] == [0, 1, 2]
        assert world.loop.committable() == {TP: 3}
        world.loop.committed({TP: 3})
        assert world.loop.committable() == {}

    run(scenario)


def test_every_record_is_counted_as_exactly_one_outcome() -> None:
    world = World()
    late = view("a", 0, T0 - 11 * 60_000)

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0), view("a", 0), late, b"junk", view("a", 1)])])

    run(scenario)
    outcomes = ("applied", "duplicate", "late", "dead_letter", "redelivered")
    assert [world.count(outcome) for outcome in outcomes] == [2, 1, 1, 1, 0]


def test_a_dead_letter_is_flushed_with_its_batch_and_the_next_record_is_applied() -> None:
    world = World()

    async def scenario() -> None:
        await world.loop.process([batch(0, [b"junk", view("a", 0)])])
        assert world.letters.letters == []
        await world.loop.flusher.flush()

    run(scenario)
    assert [letter.offset for letter in world.letters.letters] == [0]
    assert [letter.offset for flush in world.lake.flushes for letter in flush.letters] == [0]
    assert world.loop.committable() == {TP: 2}


def test_a_batch_fetched_before_the_last_seek_is_left_alone() -> None:
    world = World()

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)], seek_epoch=0)])

    run(scenario)
    assert world.states.rows == {}


def test_redelivery_after_a_crash_changes_nothing_and_logs_each_version_once() -> None:
    world = World()
    events = [view("a", 0), view("b", 0), view("a", 1), view("a", 2)]

    async def scenario() -> None:
        await world.loop.process([batch(0, events[:2])])
        await world.loop.process([batch(2, events[2:])])
        before = dict(world.states.rows)
        world.restart()  # killed before the flush
        await world.loop.process([batch(0, events[:3])])
        await world.loop.process([batch(3, events[3:])])
        assert world.states.rows == before
        await world.loop.flusher.flush()

    run(scenario)
    assert world.count("redelivered") == 4
    # version 1 of a was superseded before the crash; the versions that the store holds are logged once
    assert sorted(world.pushed_versions()) == [("a", 4), ("b", 2)]


def test_a_conflict_is_reloaded_and_applied_again() -> None:
    world = World()
    theirs = fold(None, [(0, view("a", 0))])

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("b", 0)])])
        world.loop._caches[CLICKS_TOPIC].put("a", None)  # a cache that another worker made stale
        world.states.put(CLICKS_TOPIC, "a", theirs.state)
        await world.loop.process([batch(1, [view("a", 1), view("b", 1)])])

    run(scenario)
    state = decode(world.states.rows[CLICKS_TOPIC, "a"].state)
    assert sum(totals[0] for totals in state.panes.values()) == 2
    assert world.metrics.registry.get_sample_value("shopstream_conflicts_total", {"topic": CLICKS_TOPIC}) == 1


def test_an_online_store_that_was_emptied_is_noticed_before_anything_is_built_on_it() -> None:
    world = World()

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        world.states.rows.clear()
        world.fences.lose()
        with pytest.raises(StatesLostError, match="emptied"):
            await world.loop.process([batch(1, [view("b", 0)])])

    run(scenario)
    assert world.states.rows == {}


def test_a_fence_that_went_back_means_an_older_copy() -> None:
    world = World()

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        older = await world.fences.read(CLICKS_TOPIC)
        await world.loop.process([batch(1, [view("a", 1)])])
        await world.fences.replace(CLICKS_TOPIC, 0, older[0])
        with pytest.raises(StatesLostError):
            await world.loop.process([batch(2, [view("b", 0)])])

    run(scenario)
    assert (CLICKS_TOPIC, "b") not in world.states.rows


def test_a_state_that_went_back_is_not_built_upon() -> None:
    world = World()

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        older = dict(world.states.rows)
        await world.loop.process([batch(1, [view("a", 1)])])
        world.states.rows.update(older)  # between the look at the fence and the push, at the latest
        with pytest.raises(StatesLostError):
            await world.loop.process([batch(2, [view("a", 2)])])

    run(scenario)
    assert read_trailer(world.states.rows[CLICKS_TOPIC, "a"].state).version == 1


def test_a_sink_that_fails_for_good_stops_the_loop_and_nothing_is_committable() -> None:
    world = World(sink_attempts=2)

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        world.lake.failures_left = 5
        with pytest.raises(SinkFailedError, match="the disk is full"):
            await world.loop.flusher.flush()
        assert world.loop.committable() == {}

    run(scenario)


def test_after_a_flush_that_failed_none_may_make_offsets_committable() -> None:
    """Another topic's batch, or one that was in flight, may want to flush before the worker has ended."""
    world = World(sink_attempts=1)

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        world.lake.failures_left = 1
        with pytest.raises(SinkFailedError):
            await world.loop.flusher.flush()
        await world.loop.process([batch(1, [view("a", 1)])])
        with pytest.raises(SinkFailedError, match="no longer in memory"):
            await world.loop.flusher.flush()
        assert world.loop.committable() == {}

    run(scenario)


def test_a_sink_that_recovers_is_only_counted() -> None:
    world = World(sink_attempts=4)

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        world.lake.failures_left = 2
        await world.loop.flusher.flush()

    run(scenario)
    assert world.loop.committable() == {TP: 1}
    assert world.metrics.registry.get_sample_value("shopstream_sink_retries_total", {"sink": "lake"}) == 2


def test_a_batch_whose_sink_hangs_is_given_up_when_the_partitions_go() -> None:
    world = World(sink_attempts=1_000)

    tried = asyncio.Event()

    class Down(InMemoryStates):
        async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
            tried.set()
            raise OnlineStoreError("Redis does not answer.")

    world.states = Down()
    world.restart()

    async def scenario() -> None:
        processing = asyncio.create_task(world.loop.process([batch(0, [view("a", 0)])]))
        await tried.wait()
        await world.loop.drain(flush=True)
        await processing

    run(scenario)
    assert world.lake.flushes == []
    assert world.loop.partitions[TP].next_offset == 0


def test_states_born_while_a_partition_is_rebuilt_are_partial() -> None:
    world = World()
    world.restart(PartitionStatus.REBUILDING, next_offset=10)

    async def scenario() -> None:
        await world.loop.process([batch(10, [view("a", 0)])])

    run(scenario)
    assert decode(world.states.rows[CLICKS_TOPIC, "a"].state).partial


def test_reading_pauses_for_a_flush_when_the_buffer_is_full() -> None:
    world = World(buffer_rows_max=3)

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        assert world.lake.flushes == []
        await world.loop.process([batch(1, [view("a", 1)])])
        assert world.loop.flusher.buffered_rows == 0

    run(scenario)
    assert len(world.lake.flushes) == 1


def test_the_cache_is_bounded_and_dropped_with_the_partitions() -> None:
    world = World(cache_users=2)

    async def scenario() -> None:
        await world.loop.process([batch(0, [view(user, 0) for user in "abcde"])])
        await world.loop.process([batch(5, [view("a", 1)])])
        assert len(world.loop._caches[CLICKS_TOPIC]) <= 3
        await world.loop.drain(flush=True)
        world.loop.release()
        assert world.loop.partitions == {}
        await world.loop.process([batch(6, [view("a", 2)])])

    run(scenario)
    assert read_trailer(world.states.rows[CLICKS_TOPIC, "a"].state).version == 6


def test_the_declared_metrics_are_the_served_ones(tmp_path: Path) -> None:
    from config.metrics import WORKER_METRICS

    served = {family.name for family in World().metrics.registry.collect()}
    assert served == {spec.name for spec in WORKER_METRICS}
