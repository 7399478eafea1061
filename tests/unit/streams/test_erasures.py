"""The loop and erased users: nothing comes back, and an erased state is no lost state."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from feature_repo.fence import PartitionStatus
from feature_repo.states import StoredState
from features.apply import fold
from features.state import TRAILER_BYTES, Trailer, decode, read_trailer, with_trailer
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.privacy import Pseudonyms
from schemas.topics import TopicInfo
from sinks.erasures import ErasedLog, Tombstones
from sinks.rows import FlushReport, PartitionFlush
from streams.errors import StatesLostError
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.ports import Batch, TopicPartition
from streams.privacy import LakeWithoutOriginals, LettersWithoutOriginals, PseudonymDecoder
from streams.progress import PartitionProgress
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import JsonDecoder, ManualClock, RecordedLetters, json_record

TP = TopicPartition(CLICKS_TOPIC, 0)
LOG = TopicInfo(CLICKS_TOPIC, "topic-id", 4, "LogAppendTime")
ERASED = ErasedLog("topic-id", CLICKS_TOPIC, 0)
KEY = Pseudonyms(b"0123456789abcdef")
T0 = 1_700_000_000_000


class Noted:
    """Erasures that a test notes."""

    def __init__(self) -> None:
        self.tombstones = Tombstones(pseudonyms=KEY)
        self.reads = 0

    async def read(self) -> Tombstones:
        self.reads += 1
        return self.tombstones

    def note(self, user: str, end: int) -> None:
        self.tombstones = self.tombstones.with_ends([(ERASED, KEY.subject(user), end)])


class RecordedLake:
    """A lake that remembers flushes."""

    def __init__(self) -> None:
        self.flushes: list[PartitionFlush] = []

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        self.flushes.extend(flushes)
        return FlushReport({})


class World:
    """A loop and everything around it."""

    def __init__(self) -> None:
        self.states = InMemoryStates()
        self.fences = InMemoryFences()
        self.lake = RecordedLake()
        self.letters = RecordedLetters()
        self.erasures = Noted()
        self.metrics = WorkerMetrics(CollectorRegistry())
        asyncio.run(self.start(0))

    async def start(self, next_offset: int) -> None:
        """Start a worker, as an assignment does."""
        sinks = Sinks(self.states, self.fences, self.lake, self.letters)
        self.loop = BatchLoop(
            WorkerSettings(), JsonDecoder(), sinks, self.metrics, ManualClock(), erasures=self.erasures
        )
        progress = PartitionProgress(TP, LOG, PartitionStatus.LIVE, next_offset, None)
        self.fences.lose()
        await self.fences.replace(CLICKS_TOPIC, 0, progress.fence())
        await self.loop.erased.refresh()
        self.loop.open({TP: progress}, seek_epoch=1)

    async def process(self, first: int, events: Sequence[Event | bytes | Record]) -> None:
        records = [
            event if isinstance(event, Record) else json_record(TP, first + at, event, T0)
            for at, event in enumerate(events)
        ]
        end = first + len(records)
        await self.loop.process([Batch(TP, records, end, 1, end)])

    async def flushed(self) -> tuple[list[int], list[int], list[tuple[str, int]]]:
        """Return the offsets of raw rows, those of letters, and the states of the log, of all flushes."""
        await self.loop.flusher.flush()
        flushes = self.lake.flushes
        return (
            [row.record.offset for flush in flushes for row in flush.raw],
            [letter.offset for flush in flushes for letter in flush.letters],
            [(row.user_id, row.version) for flush in flushes for row in flush.features],
        )

    def erase(self, user: str, end: int) -> None:
        """Do what the command does to the online store, and note it."""
        self.erasures.note(user, end)
        self.states.rows.pop((CLICKS_TOPIC, user), None)

    def state(self, user: str) -> bytes:
        return self.states.rows[CLICKS_TOPIC, user].state

    def count(self, outcome: str) -> float:
        labels = {"topic": CLICKS_TOPIC, "outcome": outcome}
        return self.metrics.registry.get_sample_value("shopstream_records_total", labels) or 0.0


def view(user: str, number: int) -> Event:
    return Event(event_id=f"{user}-{number}", kind="page_view", user_id=user, event_time_ms=T0 + number, product_id="p")


def test_records_before_the_end_are_dropped_when_they_come_again() -> None:
    world = World()
    world.erasures.note("a", 3)

    async def scenario() -> None:
        await world.start(0)
        letter = Record(CLICKS_TOPIC, 0, 2, T0, b"a", b"junk")
        other = Record(CLICKS_TOPIC, 0, 4, T0, b"a", b"junk")
        await world.process(0, [view("a", 0), view("b", 1), letter, view("a", 3), other])
        assert await world.flushed() == ([1, 3], [4], [("b", 2), ("a", 4)])

    asyncio.run(scenario())
    assert world.state("a")[:-18] == fold(None, [(3, view("a", 3))]).state[:-18]
    outcomes = ("applied", "redelivered", "dead_letter", "duplicate", "late")
    assert [world.count(outcome) for outcome in outcomes] == [2, 2, 1, 0, 0]


def test_a_state_that_a_new_log_began_with_is_not_one_of_an_erased_user() -> None:
    """Of version 0, as where a log was never erased from begins."""
    world = World()
    world.erasures.note("other", 3)
    began = with_trailer(fold(None, [(9, view("a", 0))]).state, Trailer(1, 0, 0))
    world.states.put(CLICKS_TOPIC, "a", began)

    async def scenario() -> None:
        await world.start(0)
        await world.process(0, [view("a", 1)])

    asyncio.run(scenario())
    assert world.state("a")[:-TRAILER_BYTES] == fold(began, [(0, view("a", 1))]).state[:-TRAILER_BYTES]
    assert read_trailer(world.state("a")) == Trailer(1, 0, 1)


def test_a_worker_that_holds_an_erased_state_starts_anew() -> None:
    world = World()

    async def scenario() -> None:
        await world.process(0, [view("a", 0), view("b", 1), view("a", 2)])
        world.erase("a", 3)
        await world.process(3, [view("a", 3), view("b", 4)])

    asyncio.run(scenario())
    assert world.state("a") == fold(None, [(3, view("a", 3))]).state
    assert read_trailer(world.state("b")).version == 5
    assert world.count("applied") == 5


def test_an_end_in_the_middle_of_a_batch_divides_it() -> None:
    world = World()

    async def scenario() -> None:
        await world.process(0, [view("a", 0)])
        world.erase("a", 2)
        await world.process(1, [view("a", 1), view("a", 2)])
        assert (await world.flushed())[2] == [("a", 1), ("a", 3)]

    asyncio.run(scenario())
    assert world.state("a") == fold(None, [(2, view("a", 2))]).state
    assert world.count("redelivered") == 1


def test_a_batch_that_was_erased_as_a_whole_pushes_nothing() -> None:
    world = World()

    async def scenario() -> None:
        await world.process(0, [view("a", 0)])
        world.erase("a", 2)
        await world.process(1, [view("a", 1)])
        assert (CLICKS_TOPIC, "a") not in world.states.rows
        await world.process(2, [view("a", 2)])

    asyncio.run(scenario())
    assert world.state("a") == fold(None, [(2, view("a", 2))]).state


@pytest.mark.parametrize("end", [0, 1])
def test_a_state_that_is_gone_without_an_erasure_is_lost(end: int) -> None:
    world = World()

    async def scenario() -> None:
        await world.process(0, [view("a", 0), view("a", 1)])
        world.erase("a", end)  # of an earlier time: it does not explain why version 2 is gone
        await world.process(2, [view("a", 2)])

    with pytest.raises(StatesLostError):
        asyncio.run(scenario())


def test_a_state_from_an_older_copy_is_replaced_when_its_user_returns() -> None:
    world = World()
    old = fold(None, [(0, view("a", 0)), (1, view("a", 1))]).state
    world.erasures.note("a", 2)
    world.states.rows[CLICKS_TOPIC, "a"] = StoredState(old, 1)

    async def scenario() -> None:
        await world.start(2)
        await world.process(2, [view("a", 2)])
        await world.process(3, [view("a", 3)])

    asyncio.run(scenario())
    fresh = fold(None, [(2, view("a", 2)), (3, view("a", 3))]).state
    assert world.state("a")[:-18] == fresh[:-18]
    assert read_trailer(world.state("a"))[:2] == (1, 3)
    assert decode(world.state("a")).version == 4


def test_a_user_who_came_back_is_not_taken_for_an_older_copy() -> None:
    world = World()
    world.erasures.note("a", 2)

    async def scenario() -> None:
        await world.start(2)
        await world.process(2, [view("a", 2)])
        await world.start(3)
        await world.process(3, [view("a", 3)])

    asyncio.run(scenario())
    assert read_trailer(world.state("a")) == (0, 3, 4)


def test_erasures_are_read_once_per_assignment() -> None:
    world = World()

    async def scenario() -> None:
        for offset in range(5):
            await world.process(offset, [view("a", offset)])

    asyncio.run(scenario())
    assert world.erasures.reads == 1


def test_with_pseudonyms_neither_id_nor_bytes_pass_the_wrappers() -> None:
    lake, letters = RecordedLake(), RecordedLetters()
    decoder = PseudonymDecoder(JsonDecoder(), KEY)
    sinks = Sinks(InMemoryStates(), InMemoryFences(), LakeWithoutOriginals(lake), LettersWithoutOriginals(letters))
    loop = BatchLoop(WorkerSettings(), decoder, sinks, WorkerMetrics(CollectorRegistry()), ManualClock())

    async def scenario() -> None:
        progress = PartitionProgress(TP, LOG, PartitionStatus.LIVE, 0, None)
        await sinks.fences.advance(CLICKS_TOPIC, 0, progress.fence())
        loop.open({TP: progress}, seek_epoch=1)
        event = Event(event_id="e", kind="page_view", user_id="the-user", event_time_ms=T0)
        records = [json_record(TP, 0, event, T0), Record(CLICKS_TOPIC, 0, 1, T0, b"the-user", b"junk")]
        await loop.process([Batch(TP, records, 2, 1, 2)])
        await loop.flusher.flush()

    asyncio.run(scenario())
    (flush,) = lake.flushes
    assert [row.event.user_id for row in flush.raw] == [KEY.of("the-user")]
    assert [row.user_id for row in flush.features] == [KEY.of("the-user")]
    assert (flush.raw[0].record.key, flush.raw[0].record.value) == (None, None)
    assert flush.letters == letters.letters
    (letter,) = letters.letters
    assert (letter.key, letter.value, letter.value_size) == (None, None, 4)
    assert "the-user" not in repr((lake.flushes, letters.letters))
