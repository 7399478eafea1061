"""A partition is LIVE again only when none of its users is left partial, also beside a worker."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from feature_repo.fence import Fence, PartitionStatus
from features.state import decode
from replay.errors import LakeTooShortError, LostAgainError
from replay.rebuild import PartitionResult, Rebuild
from schemas.event import CLICKS_TOPIC
from schemas.topics import TopicInfo
from tests.unit.replay.test_repair import LOG, T0, Entry, World, entries, event, same, whole

LIVE, REBUILDING = PartitionStatus.LIVE, PartitionStatus.REBUILDING
TOPICS = {CLICKS_TOPIC: TopicInfo(CLICKS_TOPIC, "id", 1, "LogAppendTime")}
HOUR_MS = 3_600_000


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path / "lake")
    found.clock.wall_ms = T0 + 2 * HOUR_MS
    return found


def rebuild_of(world: World) -> Rebuild:
    return Rebuild(world.ports, world.fences, future_tolerance_ms=300_000)


async def rebuilt(world: World, rebuild: Rebuild | None = None) -> list[PartitionResult]:
    """Rebuild all that needs it, while time passes."""
    rebuild = rebuild or rebuild_of(world)

    async def work() -> list[PartitionResult]:
        return [await rebuild.rebuild(planned) for planned in await rebuild.plan(TOPICS)]

    task = asyncio.create_task(work())
    while not task.done():
        world.clock.pass_s(0.5)
        await asyncio.sleep(0.01)
    return await task


async def status(world: World) -> PartitionStatus:
    return (await world.fences.read(CLICKS_TOPIC))[0].status


async def emptied(world: World, log: list[Entry], next_offset: int) -> None:
    world.flush(log)
    await world.fences.advance(CLICKS_TOPIC, 0, Fence(LOG.log_epoch, next_offset, REBUILDING, 1))


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await body()

    asyncio.run(asyncio.wait_for(awaited(), 60))


def test_all_users_are_whole_and_then_the_partition_is_live(world: World) -> None:
    log = entries(["a", "b", "c"] * 3)

    async def body() -> None:
        await emptied(world, log, 9)
        await world.live([log[8]], partial=True)
        (result,) = await rebuilt(world)
        assert (result.repaired_count, result.status) == (3, LIVE)
        assert await status(world) is LIVE
        assert all(same(world.state(user), whole(log, user)) for user in "abc")
        assert await rebuild_of(world).plan(TOPICS) == []

    run(body)


def test_what_a_batch_under_way_bears_after_the_switch_is_repaired(world: World) -> None:
    log = entries(["a"] * 3)
    late: list[Entry] = [(3, event(3, "born")), (4, event(4, "born"))]
    set_status = world.fences.set_status

    async def set_then_bear(topic: str, partition: int, to: PartitionStatus, *, since_ms: int) -> None:
        await set_status(topic, partition, to, since_ms=since_ms)
        await world.live(late[1:], partial=True)  # it had looked at the status before
        await world.fences.advance(CLICKS_TOPIC, 0, Fence(LOG.log_epoch, 5, LIVE, 1))
        world.flush(late)

    world.fences.set_status = set_then_bear  # type: ignore[method-assign,assignment]

    async def body() -> None:
        await emptied(world, log, 3)
        await rebuilt(world)
        assert await status(world) is LIVE
        assert not decode(world.state("born")).partial
        assert same(world.state("born"), whole(late, "born"))

    run(body)


def test_a_worker_that_marks_it_again_is_heeded(world: World) -> None:
    log = entries(["a"] * 3)
    born: Entry = (3, event(3, "born"))
    set_status = world.fences.set_status
    switches = 0

    async def mark_again(topic: str, partition: int, to: PartitionStatus, *, since_ms: int) -> None:
        nonlocal switches
        switches += 1
        await set_status(topic, partition, to, since_ms=since_ms)
        if switches == 1:
            await world.live([born], partial=True)
            await world.fences.advance(CLICKS_TOPIC, 0, Fence(LOG.log_epoch, 4, LIVE, 1))
            await set_status(topic, partition, REBUILDING, since_ms=since_ms + 1)
            world.flush([born])

    world.fences.set_status = mark_again  # type: ignore[method-assign,assignment]

    async def body() -> None:
        await emptied(world, log, 3)
        await rebuilt(world)
        assert (switches, await status(world)) == (2, LIVE)
        assert not decode(world.state("born")).partial

    run(body)


def test_the_lake_must_reach_what_live_had_applied(world: World) -> None:
    log = entries(["a"] * 6)

    async def body() -> None:
        await emptied(world, log[:3], 6)
        work = asyncio.create_task(rebuilt(world))
        await asyncio.sleep(0.3)
        assert await status(world) is REBUILDING
        world.flush(log[3:])
        await work
        assert await status(world) is LIVE
        assert same(world.state("a"), whole(log, "a"))

    run(body)


def test_an_emptied_store_without_a_worker_gets_its_fence(world: World) -> None:
    log = entries(["a", "b"])
    world.flush(log)

    async def body() -> None:
        await rebuilt(world)
        assert (await world.fences.read(CLICKS_TOPIC))[0].next_offset == 2
        assert await status(world) is LIVE

    run(body)


def test_a_store_that_is_emptied_meanwhile_is_noticed(world: World) -> None:
    world.flush(entries(["a", "b"]))
    load = world.online.load

    async def lose(topic: str, users: object) -> object:
        world.fences.lose()
        return await load(topic, users)  # type: ignore[arg-type]

    async def body() -> None:
        await emptied(world, entries(["a", "b"]), 2)
        world.online.load = lose  # type: ignore[method-assign,assignment]
        with pytest.raises(LostAgainError):
            await rebuilt(world)

    run(body)


def test_a_lake_that_begins_late_is_refused_until_it_covers_a_day(world: World) -> None:
    async def body() -> None:
        await emptied(world, entries(["a", "b"], first=50), 52)
        (planned,) = await rebuild_of(world).plan(TOPICS)
        assert "begins at offset 50" in planned.problem
        assert "in 23.1 hours" in planned.problem
        with pytest.raises(LakeTooShortError):
            await rebuild_of(world).rebuild(planned)
        assert world.online.rows == {}
        assert await status(world) is REBUILDING
        world.clock.wall_ms = T0 + 26 * HOUR_MS
        await rebuilt(world)
        assert await status(world) is LIVE

    run(body)


def test_states_of_another_log_are_refused(world: World) -> None:
    async def body() -> None:
        world.flush(entries(["a"]))
        await world.fences.advance(CLICKS_TOPIC, 0, Fence("older:1", 7, REBUILDING, 1))
        (planned,) = await rebuild_of(world).plan(TOPICS)
        assert "another log" in planned.problem

    run(body)


def test_everything_means_live_partitions_too(world: World) -> None:
    log = entries(["a", "b"])

    async def body() -> None:
        await emptied(world, log, 2)
        await rebuilt(world)
        del world.online.rows[CLICKS_TOPIC, "a"]
        rebuild = rebuild_of(replace(world))
        (planned,) = await rebuild.plan(TOPICS, everything=True)
        work = asyncio.create_task(rebuild.rebuild_all([planned, replace(planned, problem="it is too short")]))
        while not work.done():
            world.clock.pass_s(0.5)
            await asyncio.sleep(0.01)
        result, failure = await work
        assert isinstance(result, PartitionResult)
        assert (result.repaired_count, result.status) == (1, LIVE)
        assert isinstance(failure, LakeTooShortError)
        assert rebuild.progress() == (2, 2, 0)

    run(body)
