"""One suite for the fences, run in memory and on Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import pytest

from config.settings import Settings
from feature_repo.connections import RedisConnections
from feature_repo.errors import OnlineStoreError
from feature_repo.fence import Fence, FenceMove, FenceStore, Moved, PartitionStatus, fence_key
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from tests.fakes.online import InMemoryFences

LIVE, REBUILDING = PartitionStatus.LIVE, PartitionStatus.REBUILDING
EPOCH = "topic-id:4"


class Fences(Protocol):
    async def read(self, topic: str) -> dict[int, Fence]: ...

    async def advance(self, topic: str, partition: int, fence: Fence) -> None: ...

    async def place(self, topic: str, partition: int, fence: Fence) -> None: ...

    async def move(self, topic: str, moves: Mapping[int, FenceMove]) -> Moved: ...

    async def halt(self, topic: str, since_ms: int) -> int: ...

    async def free(self, topic: str) -> int: ...

    async def set_status(self, topic: str, partition: int, status: PartitionStatus, *, since_ms: int) -> None: ...

    async def replace(self, topic: str, partition: int, fence: Fence) -> None: ...

    async def hold(self, topic: str, partition: int, *, until_ms: int) -> None: ...

    async def succeed(self, topic: str, from_epoch: str, fences: Mapping[int, Fence]) -> bool: ...


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.stack)])
def fences(request: pytest.FixtureRequest) -> Fences:
    if request.param == "memory":
        return InMemoryFences()
    return FenceStore.from_settings(request.getfixturevalue("settings"))


def run(fences: Fences, body: Callable[[], Awaitable[None]]) -> None:
    async def closing() -> None:
        try:
            await body()
        finally:
            if isinstance(fences, FenceStore):
                await fences.close()

    asyncio.run(closing())


def fence(
    next_offset: int,
    status: PartitionStatus = LIVE,
    *,
    epoch: str = EPOCH,
    since_ms: int = 1,
    halted_since_ms: int = 0,
) -> Fence:
    return Fence(epoch, next_offset, status, since_ms, halted_since_ms=halted_since_ms)


def test_a_fence_moves_forward_only(fences: Fences) -> None:
    async def body() -> None:
        assert await fences.read(CLICKS_TOPIC) == {}
        await fences.advance(CLICKS_TOPIC, 0, fence(10))
        await fences.advance(CLICKS_TOPIC, 0, fence(9))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(10)}
        await fences.advance(CLICKS_TOPIC, 0, fence(100))
        await fences.advance(CLICKS_TOPIC, 11, fence(3))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(100), 11: fence(3)}
        assert await fences.read(CARTS_TOPIC) == {}

    run(fences, body)


def test_offsets_beyond_what_a_lua_number_holds(fences: Fences) -> None:
    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(2**53))
        await fences.advance(CLICKS_TOPIC, 0, fence(2**53 + 1))
        await fences.advance(CLICKS_TOPIC, 0, fence(2**53))
        assert (await fences.read(CLICKS_TOPIC))[0].next_offset == 2**53 + 1

    run(fences, body)


def test_a_fence_is_placed_only_where_there_is_none(fences: Fences) -> None:
    async def body() -> None:
        await fences.place(CLICKS_TOPIC, 0, fence(5, REBUILDING))
        await fences.place(CLICKS_TOPIC, 0, fence(7))
        await fences.place(CLICKS_TOPIC, 0, fence(3, epoch="other:4"))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(5, REBUILDING)}

    run(fences, body)


def test_another_epoch_takes_its_place_because_offsets_cannot_be_compared(fences: Fences) -> None:
    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(100))
        await fences.advance(CLICKS_TOPIC, 0, fence(5, REBUILDING, epoch="other:4", since_ms=7))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(5, REBUILDING, epoch="other:4", since_ms=7)}

    run(fences, body)


def test_moving_keeps_the_status_that_somebody_else_set(fences: Fences) -> None:
    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(5))
        await fences.set_status(CLICKS_TOPIC, 0, REBUILDING, since_ms=50)
        await fences.advance(CLICKS_TOPIC, 0, fence(6))
        await fences.set_status(CLICKS_TOPIC, 0, REBUILDING, since_ms=60)
        assert await fences.read(CLICKS_TOPIC) == {0: fence(6, REBUILDING, since_ms=50)}

    run(fences, body)


def test_a_status_needs_a_fence(fences: Fences) -> None:
    async def body() -> None:
        with pytest.raises(OnlineStoreError, match="no fence"):
            await fences.set_status(CLICKS_TOPIC, 3, REBUILDING, since_ms=1)
        assert await fences.read(CLICKS_TOPIC) == {}

    run(fences, body)


def test_a_rebuild_puts_a_fence_back(fences: Fences) -> None:
    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(100))
        await fences.replace(CLICKS_TOPIC, 0, fence(0, REBUILDING, since_ms=9))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(0, REBUILDING, since_ms=9)}

    run(fences, body)


@pytest.mark.stack
def test_of_concurrent_moves_the_furthest_stays(settings: Settings) -> None:
    fences = FenceStore.from_settings(settings)

    async def body() -> None:
        await asyncio.gather(*(fences.advance(CLICKS_TOPIC, 0, fence(offset)) for offset in range(200, 0, -1)))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(200)}
        assert fences.read_blocking(CLICKS_TOPIC) == {0: fence(200)}

    run(fences, body)


@pytest.mark.stack
def test_something_else_in_their_place_is_told(settings: Settings) -> None:
    connections = RedisConnections(settings.redis.url.get_secret_value(), timeout_s=5)
    client, fences = connections.blocking(), FenceStore(connections, settings.feast.project)
    key = fence_key(settings.feast.project, CLICKS_TOPIC)
    client.hset(key, "0:epoch", "only this")
    with pytest.raises(OnlineStoreError, match="cannot be read"):
        fences.read_blocking(CLICKS_TOPIC)
    client.delete(key)
    client.set(key, "a string")
    with pytest.raises(OnlineStoreError, match="refused"):
        fences.read_blocking(CLICKS_TOPIC)
    connections.close_blocking()


def test_a_move_takes_several_partitions_forward_and_names_the_lost_ones(fences: Fences) -> None:
    async def body() -> None:
        for partition, reached in enumerate((10, 20, 30, 40)):
            await fences.advance(CLICKS_TOPIC, partition, fence(reached))
        moves = {
            0: FenceMove(EPOCH, 10, 15),  # moved
            1: FenceMove(EPOCH, 5, 12),  # read again, and there already
            2: FenceMove(EPOCH, 31, 35),  # further back than it was
            3: FenceMove("other:4", 40, 45),  # of another log
            4: FenceMove(EPOCH, 0, 1),  # gone
        }
        assert await fences.move(CLICKS_TOPIC, moves) == Moved(lost=frozenset({2, 3, 4}))
        assert [fence.next_offset for fence in (await fences.read(CLICKS_TOPIC)).values()] == [15, 20, 30, 40]

    run(fences, body)


def test_a_move_is_exact_beyond_what_a_lua_number_holds(fences: Fences) -> None:
    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(2**53))
        assert await fences.move(CLICKS_TOPIC, {0: FenceMove(EPOCH, 2**53 + 1, 2**53 + 2)}) == Moved(
            lost=frozenset({0})
        )
        assert await fences.move(CLICKS_TOPIC, {0: FenceMove(EPOCH, 2**53, 2**53 + 1)}) == Moved()
        assert (await fences.read(CLICKS_TOPIC))[0].next_offset == 2**53 + 1

    run(fences, body)


def test_a_hold_is_beside_the_fence_and_goes_with_it(fences: Fences) -> None:
    async def body() -> None:
        await fences.hold(CLICKS_TOPIC, 0, until_ms=50)
        assert await fences.read(CLICKS_TOPIC) == {}
        await fences.advance(CLICKS_TOPIC, 0, fence(10))
        await fences.hold(CLICKS_TOPIC, 0, until_ms=50)
        await fences.move(CLICKS_TOPIC, {0: FenceMove(EPOCH, 10, 11)})
        held = (await fences.read(CLICKS_TOPIC))[0]
        assert (held.next_offset, held.status, held.hold_until_ms) == (11, LIVE, 50)
        await fences.hold(CLICKS_TOPIC, 0, until_ms=0)
        assert await fences.read(CLICKS_TOPIC) == {0: fence(11)}
        await fences.hold(CLICKS_TOPIC, 0, until_ms=70)
        await fences.replace(CLICKS_TOPIC, 0, fence(3))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(3)}

    run(fences, body)


def test_the_fences_of_a_new_log_take_the_place_of_the_former_ones(fences: Fences) -> None:
    new = {number: fence(10 * number, epoch="topic-id:6") for number in range(6)}

    async def body() -> None:
        for number in range(4):
            await fences.advance(CLICKS_TOPIC, number, fence(90 + number))
        await fences.advance(CARTS_TOPIC, 0, fence(7))
        assert await fences.succeed(CLICKS_TOPIC, EPOCH, new)
        assert await fences.read(CLICKS_TOPIC) == new
        assert await fences.read(CARTS_TOPIC) == {0: fence(7)}
        await fences.move(CLICKS_TOPIC, {1: FenceMove("topic-id:6", 10, 11)})
        assert await fences.succeed(CLICKS_TOPIC, EPOCH, new)  # a second run: what a worker has moved stays
        assert (await fences.read(CLICKS_TOPIC))[1].next_offset == 11

    run(fences, body)


def test_fences_of_a_third_log_are_not_replaced(fences: Fences) -> None:
    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(5, epoch="third:4"))
        assert not await fences.succeed(CLICKS_TOPIC, EPOCH, {0: fence(0, epoch="topic-id:6")})
        assert await fences.read(CLICKS_TOPIC) == {0: fence(5, epoch="third:4")}

    run(fences, body)


def test_fences_that_were_lost_are_put_in_place(fences: Fences) -> None:
    async def body() -> None:
        assert await fences.succeed(CLICKS_TOPIC, EPOCH, {0: fence(4, epoch="topic-id:6")})
        assert await fences.read(CLICKS_TOPIC) == {0: fence(4, epoch="topic-id:6")}

    run(fences, body)


def test_a_halt_is_of_all_partitions_that_have_a_fence_and_keeps_its_since(fences: Fences) -> None:
    async def body() -> None:
        assert await fences.halt(CLICKS_TOPIC, 50) == 0
        assert await fences.read(CLICKS_TOPIC) == {}
        await fences.advance(CLICKS_TOPIC, 0, fence(10))
        await fences.advance(CLICKS_TOPIC, 11, fence(3, REBUILDING))
        await fences.advance(CARTS_TOPIC, 0, fence(7))
        assert await fences.halt(CLICKS_TOPIC, 50) == 2
        assert await fences.halt(CLICKS_TOPIC, 60) == 0
        halted = {0: fence(10, halted_since_ms=50), 11: fence(3, REBUILDING, halted_since_ms=50)}
        assert await fences.read(CLICKS_TOPIC) == halted
        assert await fences.read(CARTS_TOPIC) == {0: fence(7)}
        assert all(each.is_halted for each in halted.values())
        assert await fences.free(CLICKS_TOPIC) == 2
        assert await fences.free(CLICKS_TOPIC) == 0
        assert await fences.read(CLICKS_TOPIC) == {0: fence(10), 11: fence(3, REBUILDING)}

    run(fences, body)


def test_a_halted_fence_does_not_move(fences: Fences) -> None:
    async def body() -> None:
        for partition in range(3):
            await fences.advance(CLICKS_TOPIC, partition, fence(10))
        await fences.halt(CLICKS_TOPIC, 50)
        moves = {0: FenceMove(EPOCH, 10, 15), 1: FenceMove(EPOCH, 5, 8), 2: FenceMove(EPOCH, 11, 12)}
        assert await fences.move(CLICKS_TOPIC, moves) == Moved(lost=frozenset({2}), halted=frozenset({0, 1}))
        assert await fences.read(CLICKS_TOPIC) == dict.fromkeys(range(3), fence(10, halted_since_ms=50))
        await fences.free(CLICKS_TOPIC)
        assert await fences.move(CLICKS_TOPIC, {0: FenceMove(EPOCH, 10, 15)}) == Moved()
        assert (await fences.read(CLICKS_TOPIC))[0] == fence(15)

    run(fences, body)


def test_nothing_but_freeing_ends_a_halt(fences: Fences) -> None:
    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(10))
        await fences.halt(CLICKS_TOPIC, 50)
        await fences.set_status(CLICKS_TOPIC, 0, REBUILDING, since_ms=60)
        await fences.hold(CLICKS_TOPIC, 0, until_ms=70)
        await fences.replace(CLICKS_TOPIC, 0, fence(5, REBUILDING))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(5, REBUILDING, halted_since_ms=50)}
        await fences.advance(CLICKS_TOPIC, 0, fence(6))
        await fences.advance(CLICKS_TOPIC, 0, fence(0, epoch="topic-id:2"))
        assert await fences.read(CLICKS_TOPIC) == {0: fence(0, epoch="topic-id:2", halted_since_ms=50)}
        new = {number: fence(10 * number, epoch="topic-id:6") for number in range(6)}
        assert await fences.succeed(CLICKS_TOPIC, "topic-id:2", new)
        halted = {number: fence(10 * number, epoch="topic-id:6", halted_since_ms=50) for number in range(6)}
        assert await fences.read(CLICKS_TOPIC) == halted

    run(fences, body)


@pytest.mark.parametrize("verb", ["advance", "place", "replace"])
def test_a_partition_that_joins_a_halted_topic_is_halted(fences: Fences, verb: str) -> None:
    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(10))
        await fences.halt(CLICKS_TOPIC, 50)
        await getattr(fences, verb)(CLICKS_TOPIC, 1, fence(3))
        await getattr(fences, verb)(CARTS_TOPIC, 1, fence(3))
        assert (await fences.read(CLICKS_TOPIC))[1] == fence(3, halted_since_ms=50)
        assert (await fences.read(CARTS_TOPIC))[1] == fence(3)

    run(fences, body)


@pytest.mark.stack
def test_code_without_a_loop_halts_and_frees(settings: Settings) -> None:
    fences = FenceStore.from_settings(settings)

    async def body() -> None:
        await fences.advance(CLICKS_TOPIC, 0, fence(10))

    run(fences, body)
    assert fences.halt_blocking(CLICKS_TOPIC, 50) == 1
    assert fences.read_blocking(CLICKS_TOPIC) == {0: fence(10, halted_since_ms=50)}
    assert fences.free_blocking(CLICKS_TOPIC) == 1
    assert fences.read_blocking(CLICKS_TOPIC) == {0: fence(10)}
