"""States are moved to a new log epoch: nothing is lost, whatever ends the command, and every later fold agrees."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from feature_repo.fence import Fence, PartitionStatus
from feature_repo.replacing import Replacement
from features.apply import fold
from features.state import TRAILER_BYTES, Trailer, read_trailer
from replay.errors import MoveOvertakenError, MoveRefusedError
from replay.lake_folds import FoldOrder
from replay.log_move import LogMove
from replay.repair import repair_users
from schemas.event import CLICKS_TOPIC, Event
from schemas.partitioner import partition_of
from sinks.erasures import ErasedLog
from sinks.lake_reads import PartitionLog
from tests.fakes.online import InMemoryStates
from tests.log_worlds import KEY, NEW, OLD, OTHER, T0, USERS, Log, World, content, events_of


class KilledError(Exception):
    """The command was killed."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake")


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await body()

    asyncio.run(asyncio.wait_for(awaited(), 60))


def test_more_partitions(world: World) -> None:
    old = Log(OLD)
    old.publish(USERS * 3, "a")

    async def body() -> None:
        await world.live(old)
        result = await world.move(NEW)
        assert (result.moved_count, result.agreed_count, result.removed_count) == (len(USERS), 0, 0)
        new = Log(NEW, old.ends())
        fences = await world.fences.read(CLICKS_TOPIC)
        assert {number: (fence.epoch, fence.next_offset) for number, fence in fences.items()} == {
            0: (NEW, old.ends()[0]), 1: (NEW, old.ends()[1]), 2: (NEW, 0)
        }  # fmt: skip
        for user in USERS:
            first_offset = new.ends()[partition_of(user.encode(), 3)]
            assert world.state(user)[:-TRAILER_BYTES] == content(events_of(user, old))
            assert read_trailer(world.state(user)) == Trailer(1, 0, first_offset)
        new.publish([*USERS, "newcomer"], "b")
        new.append(events_of(USERS[0], old)[-1])  # sent twice, across the move
        await world.live(new)
        for user in [*USERS, "newcomer"]:
            assert world.state(user)[:-TRAILER_BYTES] == content(events_of(user, old, new))
        assert {user: state[:-TRAILER_BYTES] for user, state in world.folded(NEW).items()} == {
            user: world.state(user)[:-TRAILER_BYTES] for user in [*USERS, "newcomer"]
        }

    run(body)


def test_a_topic_that_was_created_again_and_moved_once_more(world: World) -> None:
    first, second, third = Log(OLD), Log(OTHER), Log("third:2")
    first.publish(USERS, "a")
    second.publish(USERS[:12], "b")
    third.publish(USERS[6:18], "c")

    async def body() -> None:
        for log in (first, second, third):
            if log is not first:
                await world.move(log.epoch)
            await world.live(log)
        for user in USERS:
            assert world.state(user)[:-TRAILER_BYTES] == content(events_of(user, first, second, third))
        for order in FoldOrder:
            folded = world.folded(third.epoch, order)
            assert {user: state[:-TRAILER_BYTES] for user, state in folded.items()} == {
                user: world.state(user)[:-TRAILER_BYTES] for user in USERS
            }
            assert all(read_trailer(folded[user]).version == read_trailer(world.state(user)).version for user in USERS)

    run(body)


def test_killed_anywhere_and_run_again(world: World) -> None:
    old = Log(OLD)
    old.publish(USERS * 2, "a")

    class Dying(InMemoryStates):
        left = 0

        async def replace(self, topic: str, rows: Sequence[Replacement], servable_ms: int) -> frozenset[str]:
            first = rows[: self.left]
            self.left -= len(first)
            changed = await super().replace(topic, first, servable_ms)
            if len(first) < len(rows):
                raise KilledError
            return changed

    async def body() -> None:
        await world.live(old)
        stored = dict(world.online.rows)
        for left in (0, 7, 20):
            dying = Dying()
            dying.rows, dying.left = dict(stored), left
            world.online = dying
            world.fences.lose()
            for partition, end in old.ends().items():
                await world.fences.advance(CLICKS_TOPIC, partition, Fence(OLD, end, PartitionStatus.LIVE, 0))
            with pytest.raises(KilledError):
                await world.move(NEW)
            assert {fence.epoch for fence in (await world.fences.read(CLICKS_TOPIC)).values()} == {OLD}
            dying.left = len(USERS)
            result = await world.move(NEW)
            assert result.moved_count + result.agreed_count == len(USERS)
            assert {user: world.state(user)[:-TRAILER_BYTES] for user in USERS} == {
                user: content(events_of(user, old)) for user in USERS
            }
            # nobody is replaced twice; whose version is the same in both logs needs not be replaced at all
            assert max(read_trailer(world.state(user)).generation for user in USERS) == 1
            with pytest.raises(MoveRefusedError, match="No topic"):
                await world.plan(NEW, OLD)

    run(body)


def test_users_whom_the_lake_does_not_know_are_removed(world: World) -> None:
    old, unflushed = Log(OLD), Log(OLD)
    old.publish(USERS, "a")

    async def body() -> None:
        await world.live(old)
        unflushed.publish(["unflushed"], "b")
        for entries in unflushed.entries.values():
            world.online.put(CLICKS_TOPIC, "unflushed", fold(None, [(900, entries[0][1])]).state)
        assert (await world.move(NEW)).removed_count == 1
        assert (CLICKS_TOPIC, "unflushed") not in world.online.rows

    run(body)


def test_an_emptied_store_is_filled_for_the_new_log(world: World) -> None:
    old = Log(OLD)
    old.publish(USERS, "a")

    async def body() -> None:
        await world.live(old)
        world.online.rows.clear()
        world.fences.lose()
        assert await world.plan(NEW) == []  # nothing tells that there was another log, unless it is named
        await world.move(NEW, OLD)
        assert all(world.state(user)[:-TRAILER_BYTES] == content(events_of(user, old)) for user in USERS)

    run(body)


def test_erased_users_stay_erased(world: World) -> None:
    old = Log(OLD)
    old.publish(USERS, "a")
    partition = partition_of(USERS[0].encode(), 2)

    async def body() -> None:
        await world.live(old)
        ended = ErasedLog("id", CLICKS_TOPIC, partition)
        world.tombstones = world.tombstones.with_ends([(ended, KEY.subject(USERS[0]), 10**6)])
        await world.move(NEW)
        assert (CLICKS_TOPIC, USERS[0]) not in world.online.rows
        await repair_users(
            PartitionLog(NEW, CLICKS_TOPIC, partition_of(USERS[0].encode(), 3)), FoldOrder.LOG, world.repair
        )
        assert (CLICKS_TOPIC, USERS[0]) not in world.online.rows

    run(body)


def test_what_another_run_has_finished_is_left_alone(world: World) -> None:
    old = Log(OLD)
    old.publish(USERS, "a")

    async def body() -> None:
        await world.live(old)
        (planned,) = await world.plan(NEW)
        await world.move(NEW)
        new = Log(NEW, old.ends())
        new.publish(USERS, "b")
        await world.live(new)
        stored = dict(world.online.rows)
        with pytest.raises(MoveOvertakenError):
            await LogMove(world.ports).move(planned)
        assert world.online.rows == stored

    run(body)


def test_a_repair_in_event_time_order_counts_both_logs(world: World) -> None:
    """An event that came back from the dead letters of the former log lies in the new one."""
    user = USERS[0]
    events = [Event(event_id=f"e{n}", kind="page_view", user_id=user, event_time_ms=T0 + n * 900_000) for n in range(4)]
    old = Log(OLD)
    for event in (events[0], events[2]):
        old.append(event)

    async def body() -> None:
        await world.live(old)
        await world.move(NEW)
        new = Log(NEW, old.ends())
        for event in (events[1], events[3]):
            new.append(event)
        await world.live(new)
        assert world.state(user)[:-TRAILER_BYTES] != content(events)
        log = PartitionLog(NEW, CLICKS_TOPIC, partition_of(user.encode(), 3))
        await repair_users(log, FoldOrder.EVENT_TIME, world.repair, users=[user])
        assert world.state(user)[:-TRAILER_BYTES] == content(events)
        assert world.folded(NEW)[user][:-TRAILER_BYTES] == content(events)

    run(body)


@pytest.mark.parametrize("problem", ["a worker runs", "pseudonymised", "the lake holds nothing", "begins at offset"])
def test_what_cannot_be_moved_is_told_and_nothing_is_changed(world: World, problem: str) -> None:
    old = Log(OLD, {0: 5, 1: 5} if problem == "begins at offset" else {})
    old.publish([KEY.of(user) for user in USERS] if problem == "pseudonymised" else USERS, "a")
    world.is_live = problem == "a worker runs"

    async def body() -> None:
        world.clock.wall_ms = T0
        await world.live(old)
        stored = dict(world.online.rows)
        if problem == "the lake holds nothing":
            world.lake = world.lake.with_name("elsewhere")
        (planned,) = await world.plan(NEW)
        assert problem in planned.problem
        with pytest.raises(MoveRefusedError, match=problem):
            await LogMove(world.ports).move(planned)
        assert world.online.rows == stored

    run(body)


def test_records_that_no_worker_has_read_are_told(world: World) -> None:
    old = Log(OLD)
    old.publish(USERS, "a")

    async def body() -> None:
        await world.live(old)
        world.produced = {0: old.ends()[0] + 2, 1: old.ends()[1] + 1, 2: 7}
        (planned,) = await world.plan(NEW)
        assert planned.unread_count == 3

    run(body)
