"""The ports of the loop over the real components; what blocks runs in a thread."""

import asyncio
from collections.abc import Sequence

from feature_repo.states import StateStore, StoredState
from schemas.codec import Codec
from schemas.dead_letter import DeadLetter
from sinks.dead_letters import DeadLetterTopic
from sinks.lake import LakeSink
from sinks.online import OnlineSink
from sinks.rows import FlushReport, PartitionFlush


class CodecDecoder:
    """Implements `streams.ports.Decoder`; the schema registry is asked in a thread."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.unresolved = codec.unresolved
        self.decode = codec.decode
        self.refused = codec.refused

    async def resolve(self, ids: set[int]) -> None:
        """Fetch schemas; raises RegistryUnavailableError when the registry does not answer."""
        await asyncio.to_thread(self._codec.resolve, ids)


class FeastStates:
    """Implements `streams.ports.OnlineStates`: reads states directly, writes them through Feast push sources."""

    def __init__(self, reader: StateStore, writer: OnlineSink) -> None:
        self._reader = reader
        self._writer = writer

    async def load(self, topic: str, user_ids: Sequence[str]) -> dict[str, StoredState]:
        """Load what is stored, in one round trip."""
        return await self._reader.load(topic, user_ids)

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        """Write absolute states; raises VersionConflictError naming the users that must be reloaded."""
        await self._writer.push(topic, rows, servable_ms)


class ThreadedLake:
    """Implements `streams.ports.Lake`; the caller never has two writes under way."""

    def __init__(self, sink: LakeSink) -> None:
        self._sink = sink

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        """Append what the tables do not hold yet."""
        return await asyncio.to_thread(self._sink.write, flushes)


class ThreadedLetters:
    """Implements `streams.ports.Letters`."""

    def __init__(self, topic: DeadLetterTopic) -> None:
        self._topic = topic

    async def write(self, letters: Sequence[DeadLetter], /) -> None:
        """Publish letters; all are acknowledged on return."""
        await asyncio.to_thread(self._topic.write, letters)
