"""Notes about gates in Redis: what is written is read again, and what cannot be read says so."""

import asyncio
from collections.abc import Iterator

import pytest

from config.settings import Settings
from feature_repo.connections import RedisConnections
from feature_repo.errors import OnlineStoreError
from feature_repo.gate_store import Accepted, GateNotes, GateStore, Halt, Override, gates_key
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC

pytestmark = pytest.mark.stack

HALT = Halt(CLICKS_TOPIC, "nulls", 5, "a field is empty", {"part": "click.category_id", "offsets": {"0": [1, 2]}})


@pytest.fixture
def connections(settings: Settings) -> Iterator[RedisConnections]:
    opened = RedisConnections(settings.redis.url.get_secret_value(), timeout_s=5)
    yield opened
    opened.close_blocking()


@pytest.fixture
def store(settings: Settings, connections: RedisConnections) -> GateStore:
    return GateStore(connections, settings.feast.project)


def test_nothing_is_noted_at_first(store: GateStore) -> None:
    assert store.read_blocking(CLICKS_TOPIC) == GateNotes()
    assert store.red_blocking() == []


def test_the_first_halt_stands_until_it_is_accepted(store: GateStore) -> None:
    async def body() -> list[Halt]:
        assert await store.halt(HALT)
        assert not await store.halt(Halt(CLICKS_TOPIC, "schema", 9, "another"))
        await store.publish(CLICKS_TOPIC, "w", {"at_ms": 1})
        found = await store.red()
        assert (await store.read(CLICKS_TOPIC)).counts == {"w": {"at_ms": 1}}
        await store.forget(CLICKS_TOPIC, ["w"])
        await store.close()
        return found

    assert asyncio.run(body()) == [HALT] == store.red_blocking(CLICKS_TOPIC)
    assert store.red_blocking(CARTS_TOPIC) == []
    accepted = Accepted("e:2", {0: 7, 1: 8}, 6, "mended")
    store.accept_blocking(CLICKS_TOPIC, accepted)
    assert store.read_blocking(CLICKS_TOPIC) == GateNotes(accepted=accepted)


def test_an_override_is_noted_by_gate(store: GateStore) -> None:
    noted = Override("nulls", 9, 1, "known")
    store.override_blocking(CLICKS_TOPIC, noted)
    assert store.read_blocking(CLICKS_TOPIC).overrides == {"nulls": noted}


@pytest.mark.parametrize("value", ["no json", "[]", '{"epoch": 1}', "{}"])
def test_what_cannot_be_read_says_so(
    store: GateStore, settings: Settings, connections: RedisConnections, value: str
) -> None:
    connections.blocking().hset(gates_key(settings.feast.project, CLICKS_TOPIC), "accepted", value)
    with pytest.raises(OnlineStoreError, match="cannot be read"):
        store.read_blocking(CLICKS_TOPIC)
