"""Repairs give users the state that the lake folds to, beside a worker that goes on."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from feature_repo.fence import Fence, PartitionStatus
from features.apply import fold
from features.state import TRAILER_BYTES, Trailer, decode, read_trailer, with_trailer
from replay.errors import RepairStuckError
from replay.repair import FoldOrder, PartitionLog, PartitionRepair, RepairPorts, repair_users
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.privacy import Pseudonyms
from sinks.erasures import ErasedLog, Tombstones
from sinks.lake import LakeSink
from sinks.repairs import corrected_versions
from sinks.rows import PartitionFlush, RawRow
from sinks.tables import FEATURE_LOG, REPAIRS
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import ManualClock

T0 = 1_700_000_000_000
MINUTE_MS = 60_000
LOG = PartitionLog("id:1", CLICKS_TOPIC, 0)
LIVE, REBUILDING = PartitionStatus.LIVE, PartitionStatus.REBUILDING

Entry = tuple[int, Event]


def event(offset: int, user: str, minute: float = 0.0) -> Event:
    return Event(
        event_id=f"e{offset}", kind="page_view", user_id=user, event_time_ms=T0 + round(minute * MINUTE_MS) + offset
    )


def entries(users: Sequence[str], first: int = 0) -> list[Entry]:
    return [(offset, event(offset, user)) for offset, user in enumerate(users, first)]


@dataclass
class World:
    """A lake, an online store and what a worker would do to both."""

    lake: Path
    online: InMemoryStates = field(default_factory=InMemoryStates)
    fences: InMemoryFences = field(default_factory=InMemoryFences)
    clock: ManualClock = field(default_factory=ManualClock)

    @property
    def ports(self) -> RepairPorts:
        return RepairPorts(self.lake, self.online, self.fences, self.clock)

    def flush(self, log: Sequence[Entry]) -> None:
        rows = [RawRow(Record(CLICKS_TOPIC, 0, offset, T0, b"k", b"v"), each, 1, T0) for offset, each in log]
        first, last = log[0][0], log[-1][0]
        LakeSink(self.lake).write([PartitionFlush(CLICKS_TOPIC, "id", LOG.log_epoch, 0, first, last, raw=rows)])

    async def live(self, log: Sequence[Entry], *, partial: bool = False) -> None:
        for offset, each in log:
            stored = (await self.online.load(CLICKS_TOPIC, [each.user_id])).get(each.user_id)
            folded = fold(stored.state if stored else None, [(offset, each)], partial=partial)
            await self.online.push(CLICKS_TOPIC, [(each.user_id, folded.state)], self.clock.now_ms())

    def state(self, user: str) -> bytes:
        return self.online.rows[CLICKS_TOPIC, user].state

    def rows(self, table: str) -> list[dict[str, object]]:
        from deltalake import DeltaTable

        found: list[dict[str, object]] = DeltaTable(self.lake / table).to_pyarrow_dataset().to_table().to_pylist()
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake")


def whole(log: Sequence[Entry], user: str) -> bytes:
    return fold(None, [(offset, each) for offset, each in log if each.user_id == user]).state


def same(left: bytes, right: bytes) -> bool:
    return (left[:-TRAILER_BYTES], read_trailer(left).version) == (right[:-TRAILER_BYTES], read_trailer(right).version)


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(_awaited(body), 60))


async def _awaited(body: Callable[[], Awaitable[None]]) -> None:
    await body()


def test_missing_partial_and_right_states(world: World) -> None:
    log = entries(["gone", "partial", "right"] * 4)
    world.flush(log)

    async def body() -> None:
        await world.live([entry for entry in log if entry[1].user_id == "right"])
        await world.live([entry for entry in log if entry[1].user_id == "partial"][2:], partial=True)
        untouched = world.state("right")
        done = await repair_users(LOG, FoldOrder.LOG, world.ports)
        assert (dict(done.versions), done.agreed_count) == ({"gone": 10, "partial": 11}, 1)
        assert world.state("right") == untouched
        for user in ("gone", "partial"):
            assert same(world.state(user), whole(log, user))
            assert read_trailer(world.state(user)).generation == 1
            assert read_trailer(world.state(user)).built_from == 0

    run(body)


def test_again_changes_nothing(world: World) -> None:
    log = entries(["a", "b"] * 3)
    world.flush(log)

    async def body() -> None:
        await repair_users(LOG, FoldOrder.LOG, world.ports)
        before = dict(world.online.rows)
        done = await repair_users(LOG, FoldOrder.LOG, world.ports)
        assert (dict(done.versions), done.agreed_count) == ({}, 2)
        assert world.online.rows == before

    run(body)
    assert len(world.rows(FEATURE_LOG.name)) == len(world.rows(REPAIRS.name)) == 2


def test_notes_and_logged_states_tell_what_was_stored(world: World) -> None:
    log = entries(["a", "b"] * 3)
    world.flush(log)
    run(lambda: _discard(repair_users(LOG, FoldOrder.LOG, world.ports)))
    notes = {(row["user_id"], row["generation"], row["version"], row["fold_order"]) for row in world.rows("repairs")}
    assert notes == {("a", 1, 5, "log"), ("b", 1, 6, "log")}
    for row in world.rows("feature_log"):
        stored = world.online.rows[CLICKS_TOPIC, str(row["user_id"])]
        assert (row["state"], row["servable_ms"]) == (stored.state, stored.servable_ms)


async def _discard(work: Awaitable[object]) -> None:
    await work


def test_a_state_stored_by_a_repair_that_was_killed_is_logged_by_the_next(world: World) -> None:
    log = entries(["a"] * 3)
    world.flush(log)

    async def body() -> None:
        killed = with_trailer(whole(log, "a"), Trailer(1, 0, 3))
        await world.online.push(CLICKS_TOPIC, [("a", killed)], 77)
        await repair_users(LOG, FoldOrder.LOG, world.ports)
        await repair_users(LOG, FoldOrder.LOG, world.ports)

    run(body)
    assert [(row["version"], row["servable_ms"]) for row in world.rows("feature_log")] == [(3, 77)]


def test_the_lake_catches_up_with_live(world: World) -> None:
    log = entries(["a"] * 6)
    world.flush(log[:2])

    async def body() -> None:
        await world.live(log[1:], partial=True)
        work = asyncio.create_task(repair_users(LOG, FoldOrder.LOG, world.ports))
        await asyncio.to_thread(lambda: None)
        world.flush(log[2:])
        await work
        assert same(world.state("a"), whole(log, "a"))

    run(body)


def test_live_pushes_between_load_and_push(world: World) -> None:
    log = entries(["a"] * 5)
    world.flush(log[:3])
    loads = 0
    load = world.online.load

    async def load_then_live(topic: str, users: Sequence[str]) -> object:
        nonlocal loads
        found = await load(topic, users)
        loads += 1
        if loads == 1:
            world.online.load = load  # type: ignore[method-assign]
            await world.live(log[3:], partial=True)
            world.flush(log[3:])
        return found

    world.online.load = load_then_live  # type: ignore[method-assign,assignment]

    async def body() -> None:
        await world.live(log[2:3], partial=True)
        await repair_users(LOG, FoldOrder.LOG, world.ports)
        assert same(world.state("a"), whole(log, "a"))
        await world.live([(5, event(5, "a"))])  # and live goes on from it
        assert read_trailer(world.state("a")) == Trailer(1, 5, 6)
        assert not decode(world.state("a")).partial

    run(body)


def test_a_lake_that_stays_behind_is_told(world: World) -> None:
    log = entries(["a"] * 4)
    world.flush(log[:2])

    async def body() -> None:
        await world.live(log, partial=True)
        await world.fences.advance(CLICKS_TOPIC, 0, Fence(LOG.log_epoch, 4, REBUILDING, 1))
        work = asyncio.create_task(repair_users(LOG, FoldOrder.LOG, world.ports))
        while not work.done():
            world.clock.pass_s(2)
            await asyncio.sleep(0)
        with pytest.raises(RepairStuckError, match="up to offset 2, the online store up to 4; 1 users wait"):
            await work
        assert (await world.fences.read(CLICKS_TOPIC))[0].hold_until_ms == 0  # live goes on

    run(body)


def test_a_user_who_never_pauses_is_held_for(world: World) -> None:
    log = entries(["a"] * 400)
    world.flush(log[:1])
    pushed, flushed = 1, 1

    async def live(stop: asyncio.Event) -> None:
        nonlocal pushed, flushed
        while not stop.is_set():
            world.clock.pass_s(0.05)
            fence = (await world.fences.read(CLICKS_TOPIC))[0]
            if fence.hold_until_ms > world.clock.now_ms():
                if flushed < pushed:
                    world.flush(log[flushed:pushed])
                    flushed = pushed
            elif pushed < len(log):
                await world.live(log[pushed : pushed + 1], partial=True)
                pushed += 1
                if pushed - flushed > 3:
                    world.flush(log[flushed : pushed - 1])  # always one behind
                    flushed = pushed - 1
            await asyncio.sleep(0.01)

    async def body() -> None:
        await world.fences.advance(CLICKS_TOPIC, 0, Fence(LOG.log_epoch, 1, REBUILDING, 1))
        stop = asyncio.Event()
        worker = asyncio.create_task(live(stop))
        await repair_users(LOG, FoldOrder.LOG, world.ports)
        stop.set()
        await worker
        assert pushed < len(log)
        assert not decode(world.state("a")).partial
        assert (await world.fences.read(CLICKS_TOPIC))[0].hold_until_ms == 0

    run(body)


def test_only_some_users_and_none_who_is_unknown(world: World) -> None:
    world.flush(entries(["a", "b", "c"]))

    async def body() -> None:
        done = await repair_users(LOG, FoldOrder.LOG, world.ports, users=["b", "nobody"])
        assert dict(done.versions) == {"b": 2}
        assert list(world.online.rows) == [(CLICKS_TOPIC, "b")]

    run(body)


def test_erased_events_do_not_come_back(world: World) -> None:
    log = entries(["a", "b", "a", "b"])
    world.flush(log)
    pseudonyms = Pseudonyms(b"k" * 16)
    erased = Tombstones(pseudonyms=pseudonyms)
    told: list[Tombstones] = []

    async def tombstones() -> Tombstones:
        told.append(erased)  # at first nobody; b while the repair runs, just before it would store the state
        ends = [("a", 3), ("b", 2)][: len(told)]
        erased_log = ErasedLog("id", CLICKS_TOPIC, 0)
        return erased.with_ends((erased_log, max(pseudonyms.subjects(user)), end) for user, end in ends)

    ports = replace(world.ports, tombstones=tombstones)

    async def body() -> None:
        await repair_users(LOG, FoldOrder.LOG, ports)
        assert list(world.online.rows) == [(CLICKS_TOPIC, "b")]
        assert same(world.state("b"), whole(log[3:], "b"))

    run(body)


def late_log() -> list[Entry]:
    """Return a log in which an event comes so late that live does not count it."""
    return [(0, event(0, "a", 0)), (1, event(1, "a", 30)), (2, event(2, "a", 5)), (3, event(3, "b", 0))]


def test_by_event_time_a_late_event_counts(world: World) -> None:
    log = late_log()
    world.flush(log)

    async def body() -> None:
        await world.live(log)
        done = await repair_users(LOG, FoldOrder.EVENT_TIME, world.ports, users=["a", "b"])
        assert (dict(done.versions), done.agreed_count) == ({"a": 3}, 1)
        ordered = [(place, each) for place, (_, each) in enumerate([log[0], log[2], log[1]])]
        assert same(world.state("a"), with_trailer(fold(None, ordered).state, Trailer(0, 0, 3)))
        assert corrected_versions(world.lake, LOG) == {"a": 3}

    run(body)


def test_a_rebuild_keeps_to_the_order_of_an_earlier_repair(world: World) -> None:
    log = late_log()
    after = [(4, event(4, "a", 31)), (5, event(5, "a", 2))]  # the second is late: log order again
    world.flush(log)

    async def body() -> None:
        await world.live(log)
        await repair_users(LOG, FoldOrder.EVENT_TIME, world.ports, users=["a"])
        await world.live(after)
        world.flush(after)
        right = world.state("a")
        world.online.rows.clear()
        await repair_users(LOG, FoldOrder.LOG, world.ports)
        assert same(world.state("a"), right)
        assert (await repair_users(LOG, FoldOrder.LOG, world.ports)).agreed_count == 2

    run(body)


def test_two_repairs_at_once_do_not_undo_one_another(world: World) -> None:
    log = late_log()
    world.flush(log)
    load = world.online.load
    other: list[object] = []

    async def other_after_load(topic: str, users: Sequence[str]) -> object:
        found = await load(topic, users)
        if not other:
            other.append(world)
            world.online.load = load  # type: ignore[method-assign]
            await repair_users(LOG, FoldOrder.EVENT_TIME, world.ports, users=["a"])
        return found

    async def body() -> None:
        await world.live(log[:1], partial=True)
        world.online.load = other_after_load  # type: ignore[method-assign,assignment]
        await repair_users(LOG, FoldOrder.LOG, world.ports)
        ordered = [(place, each) for place, (_, each) in enumerate([log[0], log[2], log[1]])]
        assert same(world.state("a"), with_trailer(fold(None, ordered).state, Trailer(0, 0, 3)))

    run(body)


def test_the_sweep_leaves_whole_states_alone_though_the_lake_is_behind(world: World) -> None:
    log = entries(["a", "b"] * 3)
    world.flush(log[:4])

    async def body() -> None:
        repair = PartitionRepair(LOG, FoldOrder.LOG, world.ports)
        await world.live([entry for entry in log if entry[1].user_id == "a"])
        await world.live(log[3:4], partial=True)
        await repair.run(only_partial=True)
        assert dict(repair.repaired().versions) == {"b": 4}

    run(body)
