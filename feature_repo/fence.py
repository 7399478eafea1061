"""Fences: how far each partition has been applied to the online store, kept beside the states themselves.

If Redis is restored from an older copy, its fences are older too, and the worker starts again from there; if it is
emptied, they are gone, and the worker knows that the states are (DESIGN section 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from config.definition import DEFINITION_VERSION, versioned
from config.settings import Settings
from feature_repo.connections import RedisConnections
from feature_repo.errors import OnlineStoreError
from feature_repo.scripts import Row, RowScript

if TYPE_CHECKING:
    from feast import FeatureStore


class PartitionStatus(StrEnum):
    """Whether the states of a partition's users may be relied upon."""

    LIVE = "live"
    REBUILDING = "rebuilding"


@dataclass(frozen=True, slots=True)
class Fence:
    """How far a partition has been applied.

    Attributes:
        epoch: log epoch, `<topic id>:<partition count>`; offsets of different epochs are never compared.
        next_offset: every offset below it is in the states.
        since_ms: when the partition took on its status.
        hold_until_ms: until then the worker pushes nothing to the partition, because states are being repaired whose
            users never pause; 0, or a time that has passed, when nobody asks for that.
        halted_since_ms: since when nothing may be applied to the partition, whatever its status; 0 while it may.
    """

    epoch: str
    next_offset: int
    status: PartitionStatus
    since_ms: int
    hold_until_ms: int = 0
    halted_since_ms: int = 0

    @property
    def is_halted(self) -> bool:
        """Tell whether nothing may be applied to the partition."""
        return self.halted_since_ms > 0


@dataclass(frozen=True, slots=True)
class FenceMove:
    """A step forward of one fence.

    Attributes:
        reached: offset that the fence must have reached before.
        next_offset: where it goes.
    """

    epoch: str
    reached: int
    next_offset: int

    def is_lost(self, fence: Fence | None) -> bool:
        """Tell whether the fence is not where it must be."""
        return fence is None or fence.epoch != self.epoch or fence.next_offset < self.reached


class Moved(NamedTuple):
    """What became of moves.

    Attributes:
        lost: partitions whose fence is gone, of another epoch or further back: the store has lost what it held.
        halted: partitions that are halted: their fences stay where they are.
    """

    lost: frozenset[int] = frozenset()
    halted: frozenset[int] = frozenset()


def fence_key(project: str, topic: str, version: int = DEFINITION_VERSION) -> str:
    """Name the hash that holds a topic's fences of a definition version."""
    return f"{project}:{versioned('fence', version)}:{topic}"


class FenceStore:
    """The fences of one project.

    Args:
        connections: where they are; those of the online store, because a fence must share the fate of its states.
        project: Feast project.
    """

    def __init__(self, connections: RedisConnections, project: str) -> None:
        self._connections = connections
        self._project = project
        here = Path(__file__)
        self._move = RowScript(here.with_name("decimals.lua"), here.with_name("move_fence.lua"))
        self._move_some = RowScript(here.with_name("decimals.lua"), here.with_name("move_fences.lua"))
        self._succeed = RowScript(here.with_name("succeed_fences.lua"))
        self._halt = RowScript(here.with_name("halt_fences.lua"))

    @classmethod
    def from_settings(cls, settings: Settings) -> "FenceStore":
        """Open the fences of the settings' project.

        Raises:
            SettingsError: no Redis is set.
        """
        url = settings.require("redis").redis.connection_url.get_secret_value()
        connections = RedisConnections(url, timeout_s=settings.redis.timeout_s)
        return cls(connections, settings.feast.project)

    @classmethod
    def beside(cls, store: "FeatureStore") -> "FenceStore":
        """Open the fences of an open feature store, over the connections of its online store."""
        return cls(store.provider.online_store.connections(store.config.online_store), store.project)

    async def read(self, topic: str) -> dict[int, Fence]:
        """Read the fences of a topic by partition; a partition that was never applied is absent.

        Raises:
            OnlineStoreError: Redis does not answer, or holds something else in their place.
        """
        with self._connections.explained():
            stored = await self._connections.asynchronous().hgetall(fence_key(self._project, topic))
        return _fences(topic, stored)

    def read_blocking(self, topic: str) -> dict[int, Fence]:
        """Do what `read` does, for code without a loop."""
        with self._connections.explained():
            stored = self._connections.blocking().hgetall(fence_key(self._project, topic))
        return _fences(topic, stored)

    async def advance(self, topic: str, partition: int, fence: Fence) -> None:
        """Move a fence forward; within one epoch it never moves back, and keeps its status.

        Where there is none, or one of another epoch, `fence` takes its place, with its status; it is halted if the
        topic is. A halted one moves, too: this tells where to start, not that a batch was applied.

        Raises:
            OnlineStoreError: Redis does not answer, or is full.
        """
        await self._run(topic, partition, fence, b"advance")

    async def place(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence where there is none, halted if the topic is; one that is there stays as it is.

        Raises:
            OnlineStoreError: Redis does not answer, or is full.
        """
        await self._run(topic, partition, fence, b"place")

    async def move(self, topic: str, moves: Mapping[int, FenceMove]) -> Moved:
        """Move the fences of some partitions forward, in one round trip, each from where it must stand.

        Raises:
            OnlineStoreError: Redis does not answer, or is full.
        """
        key = fence_key(self._project, topic).encode()
        partitions = list(moves)
        rows = [
            Row(key, (str(partition).encode(), move.epoch.encode(), b"%d" % move.reached, b"%d" % move.next_offset))
            for partition, move in moves.items()
        ]
        if not rows:
            return Moved()
        told = b"".join(await self._move_some.run_async(self._connections, (), rows)).decode()
        named = list(zip(partitions, told, strict=True))
        lost, halted = (frozenset(number for number, letter in named if letter == which) for which in "LH")
        return Moved(lost, halted)

    async def halt(self, topic: str, since_ms: int) -> int:
        """Halt all partitions of a topic that have a fence: from now on no fence moves, whoever applies batches.

        Returns:
            How many were not halted before; the others keep their since.

        Raises:
            OnlineStoreError: Redis does not answer, or is full.
        """
        answers = await self._halt.run_async(self._connections, (), [self._halt_row(topic, since_ms)])
        return int(answers[0])

    def halt_blocking(self, topic: str, since_ms: int) -> int:
        """Do what `halt` does, for code without a loop."""
        return int(self._halt.run(self._connections, (), [self._halt_row(topic, since_ms)])[0])

    async def free(self, topic: str) -> int:
        """End the halt of a topic: its workers read again from the fences on, within about a second.

        Returns:
            How many partitions were halted.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        return int((await self._halt.run_async(self._connections, (), [self._halt_row(topic, 0)]))[0])

    def free_blocking(self, topic: str) -> int:
        """Do what `free` does, for code without a loop."""
        return int(self._halt.run(self._connections, (), [self._halt_row(topic, 0)])[0])

    async def set_status(self, topic: str, partition: int, status: PartitionStatus, *, since_ms: int) -> None:
        """Change the status of a fence; its offset stays. A partition that already has the status keeps its since.

        Raises:
            OnlineStoreError: the partition has no fence yet: give it one with `advance`.
        """
        fence = Fence("", 0, status, since_ms)
        if await self._run(topic, partition, fence, b"status") == b"none":
            raise OnlineStoreError(
                f"Partition {partition} of {topic} has no fence whose status could be set.",
                hint="A worker gives it one when it is assigned the partition.",
            )

    async def hold(self, topic: str, partition: int, *, until_ms: int) -> None:
        """Ask the worker to push nothing to a partition until then; 0 to let it go on. Without a fence, nothing."""
        await self._run(topic, partition, Fence("", 0, PartitionStatus.LIVE, until_ms), b"hold")

    async def replace(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence in place of whatever is there, also further back; a halt of the topic goes on."""
        await self._run(topic, partition, fence, b"replace")

    async def succeed(self, topic: str, from_epoch: str, fences: Mapping[int, Fence]) -> bool:
        """Put the fences of a new log in place of those of the log that it follows, or of none, all in one instant.

        If one of those was halted, the new ones are.

        Args:
            fences: one per partition of the new log.

        Returns:
            Whether they are those of the new log now: also if they were before, and then they stay. False if one is
            of a third log; then nothing was changed.

        Raises:
            OnlineStoreError: Redis does not answer, or is full.
        """
        to_epoch = next(iter(fences.values())).epoch
        rows = ((partition, fence.next_offset, fence.status, fence.since_ms) for partition, fence in fences.items())
        values = [from_epoch, to_epoch, *chain.from_iterable(rows)]
        row = Row(fence_key(self._project, topic).encode(), tuple(str(value).encode() for value in values))
        answers = await self._succeed.run_async(self._connections, (), [row])
        return bytes(answers[0]) != b"other"

    async def close(self) -> None:
        """Close the clients; not for fences that share them with an online store."""
        await self._connections.close()

    async def _run(self, topic: str, partition: int, fence: Fence, verb: bytes) -> bytes:
        row = self._row(topic, partition, fence, verb)
        answers = await self._move.run_async(self._connections, (), [row])
        return bytes(answers[0])

    def _halt_row(self, topic: str, since_ms: int) -> Row:
        return Row(fence_key(self._project, topic).encode(), (b"%d" % since_ms,))

    def _row(self, topic: str, partition: int, fence: Fence, verb: bytes) -> Row:
        values = (fence.epoch, str(fence.next_offset), fence.status.value, str(fence.since_ms))
        arguments = (verb, str(partition).encode(), *(value.encode() for value in values))
        return Row(fence_key(self._project, topic).encode(), arguments)


def _fences(topic: str, stored: Mapping[bytes, bytes]) -> dict[int, Fence]:
    parts: dict[int, dict[str, str]] = {}
    try:
        for field, value in stored.items():
            partition, _, name = field.decode().partition(":")
            parts.setdefault(int(partition), {})[name] = value.decode()
        return {partition: _fence(values) for partition, values in sorted(parts.items())}
    except (KeyError, ValueError) as error:
        raise OnlineStoreError(
            f"The fences of {topic} in Redis cannot be read ({error!r}).",
            hint="Something else wrote there. Delete the hash and rebuild the topic by replay.",
        ) from error


def _fence(values: Mapping[str, Any]) -> Fence:
    return Fence(
        epoch=values["epoch"],
        next_offset=int(values["next_offset"]),
        status=PartitionStatus(values["status"]),
        since_ms=int(values["since_ms"]),
        hold_until_ms=int(values.get("hold_until_ms", 0)),
        halted_since_ms=int(values.get("halted_since_ms", 0)),
    )
