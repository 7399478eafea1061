"""Rebuilding a world's online store from its lake, and what its readers are told."""

import asyncio
from collections import Counter

from config.errors import ShopstreamError
from config.settings import Settings
from feature_repo.fence import PartitionStatus
from replay.rebuild import PartitionResult
from replay.repair_opening import opened_rebuild
from schemas.event import EVENT_TOPICS
from schemas.topics import describe_topics
from serving.reader import FeatureReader, ViewStatus
from tests.faults.scenario import World

USERS_MAX = 300


def rebuild(settings: Settings) -> list[PartitionResult]:
    """Do what `shopstream replay --into online` does; return what was done per partition."""
    topics = {topic: info for topic, info in describe_topics(settings).items() if topic in EVENT_TOPICS}

    async def run() -> list[PartitionResult]:
        async with opened_rebuild(settings) as opened:
            found = await opened.rebuild_all(await opened.plan(topics))
        for result in found:
            if isinstance(result, ShopstreamError):
                raise result
        return [result for result in found if isinstance(result, PartitionResult)]

    results = asyncio.run(run())
    assert all(result.status is PartitionStatus.LIVE for result in results), results
    return results


def told(world: World) -> Counter[ViewStatus]:
    """Ask for the users that were sent so far; return what is told of the views that should hold a state."""
    users = world.log.by_user()
    chosen = sorted(users)[:USERS_MAX]
    reader = FeatureReader.from_settings(world.settings)
    try:
        answers = reader.read(chosen)
    finally:
        reader.close()
    return Counter(
        view.status
        for answer in answers
        for topic, view in zip(EVENT_TOPICS, answer.views.values(), strict=True)
        if any(sent.topic == topic for sent in users[answer.user_id])
    )
