"""One suite for the owners of partitions, run in memory and on Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from config.settings import Settings
from feature_repo.connections import RedisConnections
from feature_repo.fence import Fence, FenceStore, PartitionStatus
from feature_repo.partition_owners import PartitionOwners
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from tests.fakes.online import InMemoryFences
from tests.fakes.owners import InMemoryOwners

WITHIN = 100


@dataclass
class World:
    fences: InMemoryFences | FenceStore
    owners: InMemoryOwners | PartitionOwners

    async def fence(self, offset: int, partition: int = 0) -> None:
        await self.fences.advance(CLICKS_TOPIC, partition, Fence("id:4", offset, PartitionStatus.LIVE, 1))

    async def take(self, owner: str, partition: int = 0) -> int:
        return (await self.owners.taken(CLICKS_TOPIC, [partition], owner, within=WITHIN))[partition]

    async def give(self, owner: str) -> None:
        await self.owners.given_back(CLICKS_TOPIC, [0], owner)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.stack)])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        fences = InMemoryFences()
        return World(fences, InMemoryOwners(fences))
    settings: Settings = request.getfixturevalue("settings")
    stored = FenceStore.from_settings(settings)
    connections: RedisConnections = stored._connections
    return World(stored, PartitionOwners(connections, settings.feast.project))


def run(world: World, body: Callable[[], Awaitable[None]]) -> None:
    async def closing() -> None:
        try:
            await body()
        finally:
            if isinstance(world.fences, FenceStore):
                await world.fences.close()

    asyncio.run(closing())


def test_owners_that_do_not_give_back_are_counted_where_they_died(world: World) -> None:
    async def body() -> None:
        await world.fence(10)
        assert await world.take("a") == 0
        await world.fence(5_000)  # a came that far, and died
        assert await world.take("b") == 1
        assert await world.take("c") == 2
        assert await world.take("d") == 3

    run(world, body)


def test_a_death_nearby_is_one_at_the_same_place_and_one_further_on_is_not(world: World) -> None:
    async def body() -> None:
        await world.fence(10)
        await world.take("a")
        assert await world.take("b") == 1
        await world.fence(10 + WITHIN - 1)
        assert await world.take("c") == 2
        await world.fence(10 + WITHIN - 1 + WITHIN)
        assert await world.take("d") == 1

    run(world, body)


def test_an_owner_that_gave_back_did_not_die(world: World) -> None:
    async def body() -> None:
        await world.fence(10)
        await world.take("a")
        await world.give("a")
        assert await world.take("b") == 0
        assert await world.take("b") == 0  # assigned anew in the same life

    run(world, body)


def test_deaths_are_forgotten_when_the_fence_has_moved_on_and_not_before(world: World) -> None:
    async def body() -> None:
        await world.fence(10)
        await world.take("a")
        await world.take("b")
        assert await world.take("c") == 2
        await world.give("c")  # a rebalance: what killed a and b is still to come
        assert await world.take("d") == 2
        await world.fence(11)
        await world.give("d")
        assert await world.take("e") == 0

    run(world, body)


def test_a_late_owner_cannot_give_back_what_another_has_taken(world: World) -> None:
    async def body() -> None:
        await world.fence(10)
        await world.take("a")
        assert await world.take("b") == 1
        await world.give("a")
        assert await world.take("c") == 2

    run(world, body)


def test_partitions_are_counted_each_for_itself_and_one_without_a_fence_is_not(world: World) -> None:
    async def body() -> None:
        await world.fence(10, partition=0)
        await world.fence(10, partition=11)
        await world.take("a", 11)
        found = await world.owners.taken(CLICKS_TOPIC, [0, 1, 11], "b", within=WITHIN)
        assert found == {0: 0, 1: 0, 11: 1}
        assert await world.owners.taken(CARTS_TOPIC, [], "b", within=WITHIN) == {}
        assert set(await world.fences.read(CLICKS_TOPIC)) == {0, 11}

    run(world, body)


def test_fences_read_and_move_as_if_there_were_no_owners(world: World) -> None:
    async def body() -> None:
        await world.fence(10)
        await world.take("a")
        await world.take("b")
        assert (await world.fences.read(CLICKS_TOPIC))[0] == Fence("id:4", 10, PartitionStatus.LIVE, 1)
        await world.fence(20)
        assert (await world.fences.read(CLICKS_TOPIC))[0].next_offset == 20

    run(world, body)
