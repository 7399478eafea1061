"""What is known of the gates of each topic, kept beside its fences: halts, what was accepted, overrides, counts.

A hash per topic: `halt`, `accepted`, `override:<gate>` and `counts:<worker>`, each a JSON object. It shares the fate of
the fences, which are what really halts a view: a halt that only stands here is made good by the next worker that
reads it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from config.definition import DEFINITION_VERSION, versioned
from config.settings import Settings
from feature_repo.connections import RedisConnections
from feature_repo.errors import OnlineStoreError
from schemas.event import EVENT_TOPICS

if TYPE_CHECKING:
    from feast import FeatureStore

_HALT, _ACCEPTED, _OVERRIDE, _COUNTS = "halt", "accepted", "override:", "counts:"


@dataclass(frozen=True, slots=True)
class Halt:
    """A topic that a gate has halted.

    Attributes:
        detail: why, in words.
        evidence: value, threshold, count, examples, and offsets by partition.
    """

    topic: str
    gate: str
    since_ms: int
    detail: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Up to where somebody took what is there as it is.

    Attributes:
        epoch: log epoch of the offsets.
        offsets: by partition; gates do not look at records below them.
    """

    epoch: str
    offsets: Mapping[int, int]
    at_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Override:
    """A gate that may not halt for a while.

    Attributes:
        until_ms: for records that were appended before that.
    """

    gate: str
    until_ms: int
    at_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class GateNotes:
    """All that is noted about a topic.

    Attributes:
        counts: by worker, as it published them.
    """

    halt: Halt | None = None
    accepted: Accepted | None = None
    overrides: Mapping[str, Override] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def gates_key(project: str, topic: str, version: int = DEFINITION_VERSION) -> str:
    """Name the hash that holds what is known of a topic's gates."""
    return f"{project}:{versioned('gates', version)}:{topic}"


class GateStore:
    """The notes of one project's gates.

    Args:
        connections: where they are; those of the fences.
        project: Feast project.

    Raises (every method):
        OnlineStoreError: Redis does not answer, is full, or holds something else in their place.
    """

    def __init__(self, connections: RedisConnections, project: str) -> None:
        self._connections = connections
        self._project = project

    @classmethod
    def from_settings(cls, settings: Settings) -> "GateStore":
        """Open the notes of the settings' project.

        Raises:
            SettingsError: no Redis is set.
        """
        url = settings.require("redis").redis.connection_url.get_secret_value()
        return cls(RedisConnections(url, timeout_s=settings.redis.timeout_s), settings.feast.project)

    @classmethod
    def beside(cls, store: "FeatureStore") -> "GateStore":
        """Open the notes of an open feature store, over the connections of its online store."""
        return cls(store.provider.online_store.connections(store.config.online_store), store.project)

    async def read(self, topic: str) -> GateNotes:
        """Return what is noted about a topic."""
        with self._connections.explained():
            stored = await self._connections.asynchronous().hgetall(self._key(topic))
        return _notes(topic, stored)

    def read_blocking(self, topic: str) -> GateNotes:
        """Do what `read` does, for code without a loop."""
        with self._connections.explained():
            stored = self._connections.blocking().hgetall(self._key(topic))
        return _notes(topic, stored)

    async def red(self, topic: str | None = None) -> list[Halt]:
        """Return the halts that stand, of one topic or of all."""
        notes = [await self.read(name) for name in ([topic] if topic else EVENT_TOPICS)]
        return [found.halt for found in notes if found.halt is not None]

    def red_blocking(self, topic: str | None = None) -> list[Halt]:
        """Do what `red` does, for code without a loop."""
        notes = [self.read_blocking(name) for name in ([topic] if topic else EVENT_TOPICS)]
        return [found.halt for found in notes if found.halt is not None]

    async def halt(self, halt: Halt) -> bool:
        """Note a halt; return False if one stands already, which stays."""
        with self._connections.explained():
            return bool(await self._connections.asynchronous().hsetnx(self._key(halt.topic), _HALT, _json(halt)))

    def accept_blocking(self, topic: str, accepted: Accepted) -> None:
        """Note what is accepted, then that the topic's halt is over; its fences are to be freed after it."""
        with self._connections.explained():
            client = self._connections.blocking()
            client.hset(self._key(topic), _ACCEPTED, _json(accepted))
            client.hdel(self._key(topic), _HALT)

    def override_blocking(self, topic: str, override: Override) -> None:
        """Note that a gate may not halt for a while."""
        with self._connections.explained():
            self._connections.blocking().hset(self._key(topic), f"{_OVERRIDE}{override.gate}", _json(override))

    async def publish(self, topic: str, worker: str, counts: Mapping[str, Any]) -> None:
        """Note what one worker has counted."""
        with self._connections.explained():
            await self._connections.asynchronous().hset(self._key(topic), f"{_COUNTS}{worker}", json.dumps(counts))

    async def forget(self, topic: str, workers: Iterable[str]) -> None:
        """Remove the counts of workers."""
        names = [f"{_COUNTS}{worker}" for worker in workers]
        if names:
            with self._connections.explained():
                await self._connections.asynchronous().hdel(self._key(topic), *names)

    async def close(self) -> None:
        """Close the clients; not for notes that share them with an online store."""
        await self._connections.close()

    def close_blocking(self) -> None:
        """Do what `close` does, for code without a loop."""
        self._connections.close_blocking()

    def _key(self, topic: str) -> str:
        return gates_key(self._project, topic)


def _json(noted: Halt | Accepted | Override) -> str:
    return json.dumps(asdict(noted))


def _notes(topic: str, stored: Mapping[bytes, bytes]) -> GateNotes:
    try:
        found = {name.decode(): json.loads(value) for name, value in stored.items()}
        accepted = found.get(_ACCEPTED)
        return GateNotes(
            halt=Halt(**found[_HALT]) if _HALT in found else None,
            accepted=None if accepted is None else Accepted(**accepted | {"offsets": _by_partition(accepted)}),
            overrides={
                name.removeprefix(_OVERRIDE): Override(**value)
                for name, value in found.items()
                if name.startswith(_OVERRIDE)
            },
            counts={
                name.removeprefix(_COUNTS): dict(value) for name, value in found.items() if name.startswith(_COUNTS)
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OnlineStoreError(
            f"What Redis holds about the gates of {topic} cannot be read ({error!r}).",
            hint="Something else wrote there. `shopstream gates resume` does not help; delete the hash, then resume.",
        ) from error


def _by_partition(accepted: Mapping[str, Any]) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in accepted["offsets"].items()}
