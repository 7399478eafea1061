"""A sink that is slow stops the fetching, and nothing else."""

import asyncio
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from feature_repo.fence import PartitionStatus
from schemas.event import CLICKS_TOPIC, Event
from schemas.topics import TopicInfo
from sinks.rows import FlushReport, PartitionFlush
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.ports import Batch, TopicPartition
from streams.progress import PartitionProgress
from streams.room import OUTSTANDING_BATCHES_MAX, FetchRoom
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import JsonDecoder, ManualClock, RecordedLetters, json_record

TP = TopicPartition(CLICKS_TOPIC, 0)
LOG = TopicInfo(CLICKS_TOPIC, "id", 1, "LogAppendTime")
BATCH, ROWS_MAX, BATCHES = 10, 50, 100


class SlowLake:
    """A lake that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.rows = 0

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        await self.goes_on.wait()
        self.rows += sum(len(flush.raw) for flush in flushes)
        return FlushReport({})


class Worker:
    """A loop, and around it what the transport does: fetch while there is room, hand over, make room again."""

    def __init__(self, **settings: int) -> None:
        self.lake = SlowLake()
        fences = InMemoryFences()
        self.loop = BatchLoop(
            WorkerSettings(**settings),
            JsonDecoder(),
            Sinks(InMemoryStates(), fences, self.lake, RecordedLetters()),
            WorkerMetrics(CollectorRegistry()),
            ManualClock(),
        )
        progress = PartitionProgress(TP, LOG, PartitionStatus.LIVE, 0, None)
        fences._fences[CLICKS_TOPIC] = {0: progress.fence()}
        self.loop.open({TP: progress}, seek_epoch=1)
        self.room = FetchRoom()
        self.fetched = 0
        self.done = asyncio.Event()
        self.heartbeats = 0
        self._delivered: asyncio.Queue[Batch] = asyncio.Queue()

    async def fetch(self) -> None:
        while self.fetched < BATCHES:
            if self.room.next_fetch(frozenset({TP}), self.loop.paused()) is not None:
                self.room.taken([TP])
                await self._delivered.put(self._batch())
            await asyncio.sleep(0)

    async def process(self) -> None:
        for _ in range(BATCHES):
            await self.loop.process([await self._delivered.get()])
            self.room.done(TP)
        await self.loop.flusher.flush()
        self.done.set()

    async def beat(self) -> None:
        while not self.done.is_set():
            self.heartbeats += 1
            await asyncio.sleep(0)

    def _batch(self) -> Batch:
        first = self.fetched * BATCH
        self.fetched += 1
        made = [
            json_record(TP, at, Event(event_id=str(at), kind="click", user_id="u", event_time_ms=1_700_000_000_000))
            for at in range(first, first + BATCH)
        ]
        return Batch(TP, made, first + BATCH, 1, BATCH * BATCHES)


async def until_it_stands(worker: Worker) -> int:
    """Return how many batches were fetched when, for a while, no more are."""
    before = -1
    while worker.fetched != before:
        before = worker.fetched
        for _ in range(500):
            await asyncio.sleep(0)
    return before


def fetched_while_the_lake_stands(**settings: int) -> int:
    async def scenario() -> int:
        worker = Worker(**settings)
        async with asyncio.TaskGroup() as tasks:
            for part in (worker.fetch(), worker.process(), worker.beat()):
                tasks.create_task(part)
            stood_at = await until_it_stands(worker)
            beats = worker.heartbeats
            await until_it_stands(worker)
            assert worker.heartbeats > beats, "heartbeats go on"
            worker.lake.goes_on.set()
        assert worker.lake.rows == BATCH * BATCHES, "and all of it arrives"
        return stood_at

    return asyncio.run(scenario())


def test_when_the_rows_that_wait_are_too_many() -> None:
    rows_per_batch = BATCH + 1  # and a state
    most = -(-ROWS_MAX // rows_per_batch) + OUTSTANDING_BATCHES_MAX
    assert 2 < fetched_while_the_lake_stands(buffer_rows_max=ROWS_MAX) <= most


def test_when_the_bytes_that_wait_are_too_many() -> None:
    bytes_max = 4_000
    assert 2 < fetched_while_the_lake_stands(buffer_bytes_max=bytes_max) < BATCHES / 2
