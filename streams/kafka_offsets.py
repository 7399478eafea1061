"""Positions and logs of the owned partitions, asked of Kafka."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from config.definition import DEFINITION_VERSION, versioned
from config.settings import Settings
from schemas.topics import TopicInfo, describe_topics
from streams.observing import GroupLags
from streams.ports import Positions, TopicPartition
from streams.transport import BatchConsumer


class KafkaOffsets:
    """Implements `streams.ports.Offsets` with the worker's own consumer.

    Args:
        consumer: returns the running consumer; it does not exist yet when this is built.
    """

    def __init__(self, settings: Settings, consumer: Callable[[], BatchConsumer]) -> None:
        self._settings = settings
        self._consumer = consumer

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Positions]:
        """Return the positions of each partition."""
        positions = await self._consumer().thread.positions(partitions)
        if DEFINITION_VERSION == 1 or all(found.committed is not None for found in positions.values()):
            return positions
        inherited = await asyncio.to_thread(_committed_before, self._settings)
        return {
            tp: found if found.committed is not None else found._replace(inherited=inherited.get(tp))
            for tp, found in positions.items()
        }

    async def logs(self, topics: Sequence[str]) -> Mapping[str, TopicInfo]:
        """Describe the topics; raises TopicError when one is missing."""
        described = await asyncio.to_thread(describe_topics, self._settings)
        return {topic: described[topic] for topic in topics}


def _committed_before(settings: Settings) -> dict[TopicPartition, int]:
    """Return how far the workers of earlier definition versions have come: the furthest of them."""
    committed: dict[TopicPartition, int] = {}
    for version in range(1, DEFINITION_VERSION):
        worker = settings.worker.model_copy(update={"group_id": _group_of(settings.worker.group_id, version)})
        for lag in GroupLags(settings.model_copy(update={"worker": worker})).read():
            committed[lag.tp] = max(lag.committed or 0, committed.get(lag.tp, 0))
    return {tp: offset for tp, offset in committed.items() if offset}


def _group_of(group_id: str, version: int) -> str:
    return versioned(group_id.removesuffix(versioned("", joint="-")), version, joint="-")
