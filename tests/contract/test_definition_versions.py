"""Two definition versions in one Redis: what is erased of a user, and what is retired of a version."""

import asyncio
from typing import Any

import pytest
from redis import Redis

from config.settings import Settings
from feature_repo.erasing import ANY_VERSION, ErasedStates, Mark
from feature_repo.errors import DefinitionVersionError
from feature_repo.fence import Fence, FenceStore, PartitionStatus, fence_key
from feature_repo.layout import KeyTemplate, frame_state, frame_timestamp, view_fields
from feature_repo.opening import apply_definitions, open_feature_store
from feature_repo.retiring import applied_versions, retire_version
from features.catalog import VIEWS, views_of
from features.state import Trailer, with_trailer
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS

pytestmark = pytest.mark.stack


@pytest.fixture
def redis(settings: Settings) -> Any:
    client: Any = Redis.from_url(settings.redis.url.get_secret_value())
    yield client
    client.close()


def put(redis: Any, settings: Settings, definition: int, user_id: str, topic: str, version: int) -> None:
    """Store a state as the worker of a definition version would."""
    fields = view_fields(views_of(definition)[topic].view)
    state = frame_state(with_trailer(bytes(30), Trailer(0, 0, version)))
    key = KeyTemplate.of(settings.feast.project).key(user_id)
    redis.hset(key, mapping={fields.state: state, fields.timestamp: frame_timestamp(1_000)})


def held(redis: Any, settings: Settings, user_id: str) -> set[tuple[int, str]]:
    """Return of which definition versions and topics there are states."""
    stored = redis.hgetall(KeyTemplate.of(settings.feast.project).key(user_id))
    return {
        (definition, topic)
        for definition in (1, 2)
        for topic, view in views_of(definition).items()
        if view_fields(view.view).state in stored
    }


def mark(topic: str, version: int) -> Mark:
    return Mark("subject", topic, "id", 0, version)


def test_a_user_is_erased_from_both_and_the_mark_is_the_further_one(redis: Any, settings: Settings) -> None:
    for definition, version in ((1, 5), (2, 8)):
        put(redis, settings, definition, "u1", CLICKS_TOPIC, version)
    put(redis, settings, 2, "u1", CARTS_TOPIC, 3)
    put(redis, settings, 2, "u2", CARTS_TOPIC, 3)
    states = ErasedStates(open_feature_store(settings))
    try:
        assert states.versions("u1") == {CLICKS_TOPIC: 8, CARTS_TOPIC: 3}
        erased = states.erase("u1", [mark(topic, ANY_VERSION) for topic in VIEWS])
        assert erased == {CLICKS_TOPIC: 8, CARTS_TOPIC: 3}
        assert {(each.topic, each.version) for each in states.marks_of("subject")} == {
            (CLICKS_TOPIC, 8),
            (CARTS_TOPIC, 3),
        }
    finally:
        states.close()
    assert (held(redis, settings, "u1"), held(redis, settings, "u2")) == (set(), {(2, CARTS_TOPIC)})


def test_a_state_past_its_limit_stays_in_either_version(redis: Any, settings: Settings) -> None:
    for definition, version in ((1, 5), (2, 8)):
        put(redis, settings, definition, "u1", CLICKS_TOPIC, version)
    states = ErasedStates(open_feature_store(settings))
    try:
        assert states.erase("u1", [mark(CLICKS_TOPIC, 6)]) == {CLICKS_TOPIC: 5}
    finally:
        states.close()
    assert held(redis, settings, "u1") == {(2, CLICKS_TOPIC)}


def test_a_retired_version_leaves_nothing_and_the_other_everything(
    redis: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_definitions(settings)
    for definition in (1, 2):
        for topic in EVENT_TOPICS:
            put(redis, settings, definition, "u1", topic, 4)
            redis.hset(fence_key(settings.feast.project, topic, definition), "0:epoch", "id:4")
    put(redis, settings, 1, "u2", CLICKS_TOPIC, 4)
    with pytest.raises(DefinitionVersionError, match=r"no definition version 2 in the Feast registry; there is 1\."):
        retire_version(settings, 2)

    monkeypatch.setattr("feature_repo.retiring.DEFINITION_VERSION", 2)  # the code that took over
    assert applied_versions(settings) == [1]
    assert retire_version(settings, 1).state_count == 3
    assert applied_versions(settings) == []
    assert held(redis, settings, "u1") == {(2, topic) for topic in EVENT_TOPICS}
    assert not redis.exists(KeyTemplate.of(settings.feast.project).key("u2"))
    for topic in EVENT_TOPICS:
        assert not redis.exists(fence_key(settings.feast.project, topic, 1))
        assert redis.exists(fence_key(settings.feast.project, topic, 2))


def test_the_fences_of_version_1_are_where_the_first_release_reads_them(redis: Any, settings: Settings) -> None:
    async def place() -> None:
        fences = FenceStore.from_settings(settings)
        await fences.place(CLICKS_TOPIC, 0, Fence("id:4", 7, PartitionStatus.LIVE, 1))
        await fences.close()

    asyncio.run(place())
    assert redis.hget(f"{settings.feast.project}:fence:{CLICKS_TOPIC}", "0:next_offset") == b"7"
