"""Positions and logs of the owned partitions, asked of Kafka."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from config.settings import Settings
from schemas.topics import TopicInfo, describe_topics
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
        return await self._consumer().thread.positions(partitions)

    async def logs(self, topics: Sequence[str]) -> Mapping[str, TopicInfo]:
        """Describe the topics; raises TopicError when one is missing."""
        described = await asyncio.to_thread(describe_topics, self._settings)
        return {topic: described[topic] for topic in topics}
