"""The online sink through Feast's own push, on a real Redis."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from config.settings import Settings
from feature_repo.opening import apply_definitions, open_feature_store
from feature_repo.states import StateStore, StoredState
from features.versioning import VersionConflictError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from sinks.online import OnlineSink

pytestmark = pytest.mark.stack

SERVABLE_MS = 1_700_000_000_123

T = TypeVar("T")


def state(built_from: int, version: int, body: bytes = b"body") -> bytes:
    return body + struct.pack(">HQQ", 0, built_from, version)


@pytest.fixture
def store(settings: Settings) -> Iterator[Any]:
    apply_definitions(settings)
    opened = open_feature_store(settings)
    yield opened
    opened.teardown()


def run(store: Any, call: Callable[[], Awaitable[T]]) -> T:
    async def closing() -> T:
        try:
            return await call()
        finally:
            await store.provider.online_store.close()

    return asyncio.run(closing())


def test_a_state_is_read_back_with_the_instant_it_became_readable(store: Any) -> None:
    async def push_and_load() -> tuple[dict[str, StoredState], dict[str, StoredState]]:
        sink, states = OnlineSink(store), StateStore(store)
        await sink.push(CLICKS_TOPIC, [("u1", state(0, 5)), ("ü/2", state(0, 9, b"\x00\xff"))], SERVABLE_MS)
        await sink.push(CLICKS_TOPIC, [], SERVABLE_MS)
        users = ["u1", "ü/2", "u3"]
        return await states.load(CLICKS_TOPIC, users), await states.load(CARTS_TOPIC, users)

    clicks, carts = run(store, push_and_load)
    assert clicks == {
        "u1": StoredState(state(0, 5), SERVABLE_MS),
        "ü/2": StoredState(state(0, 9, b"\x00\xff"), SERVABLE_MS),
    }
    assert carts == {}


def test_no_row_of_a_large_batch_is_left_out(store: Any) -> None:
    rows = [(f"user-{number}", state(0, number + 1, bytes(4_000))) for number in range(3_000)]

    async def push_and_load() -> dict[str, StoredState]:
        await OnlineSink(store).push(CARTS_TOPIC, rows, SERVABLE_MS)
        return await StateStore(store).load(CARTS_TOPIC, [user for user, _ in rows])

    found = run(store, push_and_load)
    assert {user: stored.state for user, stored in found.items()} == dict(rows)


def test_a_conflict_names_its_users_and_the_others_are_written(store: Any) -> None:
    async def push_stale() -> dict[str, StoredState]:
        sink = OnlineSink(store)
        await sink.push(CLICKS_TOPIC, [("u1", state(0, 5))], SERVABLE_MS)
        with pytest.raises(VersionConflictError) as conflict:
            await sink.push(CLICKS_TOPIC, [("u1", state(3, 7)), ("u2", state(0, 7))], SERVABLE_MS)
        assert conflict.value.users == ("u1",)
        return await StateStore(store).load(CLICKS_TOPIC, ["u1", "u2"])

    found = run(store, push_stale)
    assert {user: stored.state for user, stored in found.items()} == {"u1": state(0, 5), "u2": state(0, 7)}
