"""What a worker does while its partitions are being repaired."""

import asyncio

import pytest

from feature_repo.fence import Fence, PartitionStatus
from features.state import decode
from schemas.event import CLICKS_TOPIC
from streams.repair_watch import HOLD_MAX_S
from tests.unit.streams.test_loop import TP, World, batch, run, view
from tests.waiting import wait_until

LIVE, REBUILDING = PartitionStatus.LIVE, PartitionStatus.REBUILDING


def is_partial(world: World, user: str) -> bool:
    return decode(world.states.rows[CLICKS_TOPIC, user].state).partial


async def fence(world: World) -> Fence:
    return (await world.fences.read(CLICKS_TOPIC))[0]


def test_the_status_is_taken_from_the_fence_with_every_batch() -> None:
    world = World()
    world.restart(REBUILDING)

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        await world.fences.set_status(CLICKS_TOPIC, 0, LIVE, since_ms=2)
        await world.loop.process([batch(1, [view("b", 0), view("a", 1)])])
        assert (await fence(world)).status is LIVE

    run(scenario)
    assert (is_partial(world, "a"), is_partial(world, "b")) == (True, False)
    assert world.loop.partitions[TP].status is LIVE
    rebuilding = {"topic": CLICKS_TOPIC, "partition": "0"}
    assert world.metrics.registry.get_sample_value("shopstream_partition_rebuilding", rebuilding) == 0


def test_partial_states_stored_after_the_switch_mark_the_partition_again() -> None:
    world = World()
    world.restart(REBUILDING)
    push = world.states.push

    async def switched_before_the_push(*arguments: object) -> None:
        await world.fences.set_status(CLICKS_TOPIC, 0, LIVE, since_ms=2)
        await push(*arguments)  # type: ignore[arg-type]

    async def scenario() -> None:
        world.states.push = switched_before_the_push  # type: ignore[method-assign,assignment]
        await world.loop.process([batch(0, [view("a", 0)])])
        assert is_partial(world, "a")
        assert (await fence(world)).status is REBUILDING
        await world.loop.process([batch(1, [view("a", 1)])])  # nobody is born: nothing to mark
        assert (await fence(world)).status is LIVE

    run(scenario)


def test_a_held_partition_flushes_and_waits() -> None:
    world = World()

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        await world.fences.hold(CLICKS_TOPIC, 0, until_ms=world.clock.now_ms() + 5_000)
        work = asyncio.create_task(world.loop.process([batch(1, [view("a", 1)])]))
        await asyncio.to_thread(wait_until, lambda: world.lake.flushes, 10, "it does not flush")
        assert not work.done()
        assert (await fence(world)).next_offset == 1
        await world.fences.hold(CLICKS_TOPIC, 0, until_ms=0)
        await work
        assert (await fence(world)).next_offset == 2

    run(scenario)


@pytest.mark.parametrize("seconds", [6.0, HOLD_MAX_S + 1])
def test_a_hold_that_is_forgotten_ends(seconds: float) -> None:
    world = World()
    hold_s = 5 if seconds == 6.0 else 3_600  # the second: a clock that is an hour fast

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        await world.fences.hold(CLICKS_TOPIC, 0, until_ms=world.clock.now_ms() + hold_s * 1000)
        work = asyncio.create_task(world.loop.process([batch(1, [view("a", 1)])]))
        await asyncio.to_thread(wait_until, lambda: world.lake.flushes, 10, "it does not flush")
        world.clock.pass_s(seconds)
        await work
        assert (await fence(world)).next_offset == 2

    run(scenario)


def test_a_held_partition_is_given_away_at_once() -> None:
    world = World()

    async def scenario() -> None:
        await world.loop.process([batch(0, [view("a", 0)])])
        await world.fences.hold(CLICKS_TOPIC, 0, until_ms=world.clock.now_ms() + 5_000)
        work = asyncio.create_task(world.loop.process([batch(1, [view("a", 1)])]))
        await asyncio.to_thread(wait_until, lambda: world.lake.flushes, 10, "it does not flush")
        await world.loop.drain(flush=True)
        await work
        assert (await fence(world)).next_offset == 1
        assert world.loop.committable() == {TP: 1}

    run(scenario)
