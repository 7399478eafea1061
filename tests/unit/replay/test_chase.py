"""Users whose events never pause are repaired without the worker being held: Kafka tells what the lake lacks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feature_repo.fence import Fence, PartitionStatus
from feature_repo.states import StoredState
from features.apply import fold
from features.state import TRAILER_BYTES, read_trailer
from replay.lake_folds import FoldOrder
from replay.repair import Repaired, RepairPorts, repair_users
from replay.sources import LogEntry
from schemas.errors import BrokerUnavailableError
from schemas.event import CLICKS_TOPIC, Event
from sinks.lake_reads import PartitionLog
from sinks.tables import FEATURE_LOG
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.log_worlds import T0, Log, World, content

EPOCH = "id:1"
LOG = PartitionLog(EPOCH, CLICKS_TOPIC, 0)
USER = "busy"


class HeldFences(InMemoryFences):
    """Fences that count how often the worker was asked to wait."""

    holds = 0

    async def hold(self, topic: str, partition: int, *, until_ms: int) -> None:
        self.holds += until_ms > 0
        await super().hold(topic, partition, until_ms=until_ms)


class Racing(InMemoryStates):
    """An online store in which live is faster than whoever repairs, some times."""

    def __init__(self) -> None:
        super().__init__()
        self.before_push: list[Callable[[], Awaitable[None]]] = []

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        if self.before_push and read_trailer(rows[0][1]).generation:
            await self.before_push.pop()()
        await super().push(topic, rows, servable_ms)


class Busy:
    """A user with events in every batch, whose state was lost, beside a worker that does not flush any more."""

    def __init__(self, lake: Path) -> None:
        self.world = World(lake)
        self.online = self.world.online = Racing()
        self.fences = self.world.fences = HeldFences()
        self.log = Log(EPOCH)
        self.opened: list[int] = []

    @property
    def ports(self) -> RepairPorts:
        return replace(self.world.repair, open_tail=self.tail)

    @contextmanager
    def tail(self, log: PartitionLog, first_offset: int) -> Iterator[Callable[[int], list[LogEntry]]]:
        self.opened.append(first_offset)
        position = first_offset

        def read_to(end_offset: int) -> list[LogEntry]:
            nonlocal position
            first, position = position, max(position, end_offset)
            return [entry for entry in self.log.entries[log.partition] if first <= entry[0] < end_offset]

        yield read_to

    async def live(self, user: str = USER) -> None:
        """Publish an event, and apply it to a state that may be partial."""
        number = self.log.ends()[0]
        self.log.append(Event(event_id=f"e{number}", kind="page_view", user_id=user, event_time_ms=T0 + number))
        entry = self.log.entries[0][-1]
        stored: dict[str, StoredState] = await self.online.load(CLICKS_TOPIC, [user])
        found = stored.get(user)
        folded = fold(found.state if found else None, [entry], partial=True)
        await self.online.push(CLICKS_TOPIC, [(user, folded.state)], 0)
        await self.fences.advance(CLICKS_TOPIC, 0, Fence(EPOCH, entry[0] + 1, PartitionStatus.REBUILDING, 0))

    async def lost(self) -> None:
        """Apply and flush some events, lose the states, and go on."""
        for _ in range(3):
            await self.live()
        self.world.flush(self.log)
        self.online.rows.clear()
        for _ in range(2):
            await self.live()

    async def repair(self, order: FoldOrder = FoldOrder.LOG, **options: Any) -> Repaired:
        return await repair_users(LOG, order, self.ports, **options)

    def is_whole(self) -> bool:
        events = [event for _, event in self.log.of(USER)]
        return self.world.state(USER)[:-TRAILER_BYTES] == content(events)


@pytest.fixture
def busy(tmp_path: Path) -> Busy:
    return Busy(tmp_path / "lake")


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await body()

    asyncio.run(asyncio.wait_for(awaited(), 60))


@pytest.mark.parametrize("lost_races", [0, 3])
def test_live_is_caught_without_a_hold(busy: Busy, lost_races: int) -> None:
    async def body() -> None:
        await busy.lost()
        busy.online.before_push = [busy.live] * lost_races
        done = await busy.repair()
        assert busy.is_whole()
        assert done.versions == {USER: 5 + lost_races}
        assert read_trailer(busy.world.state(USER))[:2] == (1, 0)
        assert (busy.fences.holds, busy.opened) == (0, [3])
        await busy.live()
        assert busy.is_whole()

    run(body)
    logged = busy.world.rows(FEATURE_LOG.name)
    assert [(row["user_id"], row["version"]) for row in logged] == [(USER, 5 + lost_races)]


def test_without_kafka_the_worker_is_asked_to_wait(busy: Busy) -> None:
    def away(log: PartitionLog, first_offset: int) -> AbstractContextManager[Callable[[int], list[LogEntry]]]:
        raise BrokerUnavailableError(f"no {log.topic} from {first_offset}")

    async def body() -> None:
        await busy.lost()
        ports = replace(busy.ports, open_tail=away)
        repairing = asyncio.create_task(repair_users(LOG, FoldOrder.LOG, ports))
        while not busy.fences.holds:
            busy.world.clock.pass_s(1)
            await asyncio.sleep(0.05)
        busy.world.flush(busy.log)
        await repairing
        assert busy.is_whole()

    run(body)
