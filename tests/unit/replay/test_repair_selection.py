"""Users who are named are repaired; those who are right are left alone."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from features.state import TRAILER_BYTES, Trailer, read_trailer, with_trailer
from replay.errors import UnknownUsersError
from replay.repair import FoldOrder, RepairPorts, repair_users
from replay.repair_selection import SelectionRepair, SelectionReport, stored_ids
from schemas.event import CLICKS_TOPIC, Event
from schemas.privacy import Pseudonyms
from schemas.topics import TopicInfo
from sinks.lake_reads import PartitionLog
from tests.log_worlds import OLD, T0, USERS, Log, World, content, events_of

TOPICS = {CLICKS_TOPIC: TopicInfo(CLICKS_TOPIC, "id", 2, "LogAppendTime")}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake")


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await body()

    asyncio.run(asyncio.wait_for(awaited(), 60))


async def repair(ports: RepairPorts, *users: str) -> SelectionReport:
    selection = SelectionRepair(ports, TOPICS)
    return await selection.repair(await selection.select(users))


def test_wrong_states_are_mended_and_right_ones_are_left_alone(world: World) -> None:
    log = Log(OLD)
    log.publish(USERS * 2, "a")

    async def body() -> None:
        await world.live(log)
        before = dict(world.online.rows)
        spoiled, lost, right = USERS[:3]
        trailer = read_trailer(world.state(spoiled))
        world.online.put(CLICKS_TOPIC, spoiled, with_trailer(world.state(right), trailer))
        del world.online.rows[CLICKS_TOPIC, lost]
        report = await repair(world.repair, spoiled, lost, right)
        assert (set(report.wrong), report.right) == ({spoiled, lost}, [right])
        assert report.states == {CLICKS_TOPIC: (2, 1)}
        for user in (spoiled, lost):
            assert world.state(user)[:-TRAILER_BYTES] == content(events_of(user, log))
            version = read_trailer(before[CLICKS_TOPIC, user].state).version
            assert read_trailer(world.state(user)) == Trailer(1, 0, version)
        changed = {user for topic, user in before if world.online.rows[topic, user] != before[topic, user]}
        assert changed == {spoiled, lost}

    run(body)


def test_users_once_repaired_in_event_time_order_are_folded_so_again(world: World) -> None:
    log = Log(OLD)
    times = (T0 + 3_600_000, T0)  # the second is late in log order
    for number, time_ms in enumerate(times):
        log.append(Event(event_id=f"e{number}", kind="page_view", user_id=USERS[0], event_time_ms=time_ms))
    partition = next(iter(log.entries))

    async def body() -> None:
        await world.live(log)
        await repair_users(
            PartitionLog(OLD, CLICKS_TOPIC, partition), FoldOrder.EVENT_TIME, world.repair, users=USERS[:1]
        )
        whole = world.state(USERS[0])
        report = await repair(world.repair, USERS[0])
        assert (report.wrong, report.right) == ([], [USERS[0]])
        world.online.put(CLICKS_TOPIC, USERS[0], with_trailer(content_of_live(log), read_trailer(whole)))
        assert (await repair(world.repair, USERS[0])).wrong == [USERS[0]]
        assert world.state(USERS[0])[:-TRAILER_BYTES] == whole[:-TRAILER_BYTES]

    run(body)


def content_of_live(log: Log) -> bytes:
    return content(events_of(USERS[0], log)) + bytes(TRAILER_BYTES)


def test_an_unknown_user_is_told_and_nothing_is_changed(world: World) -> None:
    log = Log(OLD)
    log.publish(USERS, "a")

    async def body() -> None:
        await world.live(log)
        del world.online.rows[CLICKS_TOPIC, USERS[0]]
        with pytest.raises(UnknownUsersError, match="The lake holds no event of nobody"):
            await repair(world.repair, USERS[0], "nobody")
        assert (CLICKS_TOPIC, USERS[0]) not in world.online.rows

    run(body)


def test_pseudonymised_users_are_named_by_id_or_by_pseudonym(world: World) -> None:
    key = Pseudonyms(b"0123456789abcdef")
    log = Log(OLD)
    log.publish([key.of(user) for user in USERS[:4]], "a")
    named = stored_ids([USERS[0], key.of(USERS[1]), USERS[0]], key)

    async def body() -> None:
        await world.live(log)
        report = await repair(world.repair, *named)
        assert set(report.right) == set(named) == {key.of(USERS[0]), key.of(USERS[1])}

    run(body)
