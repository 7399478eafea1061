"""What stands between one simulated worker and the world: latency, failures, and the end of a worker."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from feature_repo.errors import OnlineStoreError
from feature_repo.fence import Fence, FenceMove, Moved, PartitionStatus
from feature_repo.states import StoredState
from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter
from schemas.errors import BrokerUnavailableError, RegistryUnavailableError
from schemas.event import Record
from schemas.topics import TopicInfo
from sinks.errors import LetterNotPublishedError
from sinks.exact_append import ExactAppender, TableHandle
from sinks.lake import LakeSink
from sinks.lake_root import Lake
from sinks.rows import FlushReport, PartitionFlush
from sinks.tables import LakeTable
from streams.decoding import DecodedBatch
from streams.ports import Positions, TopicPartition
from tests.crash_points import WatchedAppender
from tests.simulation.load import LATE_SCHEMA_ID
from tests.simulation.promises import Promise
from tests.simulation.virtual_time import wait_for

if TYPE_CHECKING:
    from tests.simulation.worker import Life
    from tests.simulation.world import World

Result = TypeVar("Result")

BESIDE_SHARE: Final = 0.15
LATE_HEADER: Final = LATE_SCHEMA_ID.to_bytes(5, "big")

_FAILURES: Mapping[str, Callable[[str], Exception]] = {
    "online": OnlineStoreError,
    "fence": OnlineStoreError,
    "letters": LetterNotPublishedError,
    "registry": RegistryUnavailableError,
    "broker": BrokerUnavailableError,
}


def failure(service: str, when: str) -> Exception:
    """Return the error that a service of that name gives; a table of the lake gives the system's."""
    return _FAILURES.get(service, OSError)(f"{service} failed {when}")


class Link:
    """The way from one worker to every service."""

    def __init__(self, life: "Life", world: "World") -> None:
        self.life = life
        self.world = world

    async def call(self, service: str, effect: Callable[[], Awaitable[Result]]) -> Result:
        """Have an effect on a service, if it gets there, and learn of it, if the answer comes back."""
        outage = self.world.outage(service)
        await self.travel(service)
        if outage is not None and self.world.rng.random() >= outage.after_share:
            raise failure(service, "before")
        result = await effect()
        await self.travel(service)
        if outage is not None:
            raise failure(service, "after it was done")
        return result

    async def travel(self, service: str) -> None:
        """Take one way to a service or back."""
        await self.life.gate()
        delay_s = self.world.delay_s(service)
        if delay_s:
            await self.world.sleep(delay_s)
            await self.life.gate()


class OnlinePort:
    """Implements `streams.ports.OnlineStates`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._states = link.world.store.states

    async def load(self, topic: str, user_ids: Sequence[str]) -> dict[str, StoredState]:
        """Load states."""
        found = await self._link.call("online", lambda: self._states.load(topic, user_ids))
        self._link.life.loaded.update((topic, user) for user in user_ids)
        return found

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        """Write states; in an outage, sometimes only some of them."""
        world, life = self._link.world, self._link.life
        for user, _ in rows:
            self._link.life.looks_free(world.partition_of(topic, user), f"stores {user}")
            if (topic, user) not in life.loaded and not life.keeps_cache:
                world.violate(Promise.LOADED, f"{life.name} stores {user} in {topic}, which it has not loaded")

        async def effect() -> None:
            if len(rows) > 1 and world.outage("online") is not None:
                await self._states.push(topic, rows[: world.rng.randrange(len(rows))], servable_ms)
                raise failure("online", "half-way")
            await self._states.push(topic, rows, servable_ms)
            life.unfenced.add(topic)

        await self._link.call("online", effect)


class FencePort:
    """Implements `streams.ports.Fences`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._fences = link.world.store.fences

    async def read(self, topic: str) -> dict[int, Fence]:
        """Read fences."""
        found = await self._link.call("fence", lambda: self._fences.read(topic))
        self._link.life.learns(topic, found)
        return found

    async def advance(self, topic: str, partition: int, fence: Fence) -> None:
        """Put or advance a fence."""
        await self._link.call("fence", lambda: self._fences.advance(topic, partition, fence))

    async def place(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence where there is none."""
        await self._link.call("fence", lambda: self._fences.place(topic, partition, fence))

    async def move(self, topic: str, moves: Mapping[int, FenceMove]) -> Moved:
        """Move fences."""

        async def effect() -> Moved:
            self._link.life.unfenced.discard(topic)
            return await self._fences.move(topic, moves)

        return await self._link.call("fence", effect)

    async def halt(self, topic: str, since_ms: int) -> int:
        """Halt a topic."""
        return await self._link.call("fence", lambda: self._fences.halt(topic, since_ms))

    async def set_status(self, topic: str, partition: int, status: PartitionStatus, *, since_ms: int) -> None:
        """Change a status."""
        await self._link.call("fence", lambda: self._fences.set_status(topic, partition, status, since_ms=since_ms))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fences, name)


class LakePort:
    """Implements `streams.ports.Lake` with the real sink and the real exact append."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._sink = LakeSink(Path("lake"), self._open_table)
        self._is_beside = False

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        """Append, as blocking code: beside the loop, so that others go on in its midst, or (faster) in one instant."""
        world = self._link.world
        await self._link.travel("lake")
        self._is_beside = world.is_lake_troubled() or world.rng.random() < BESIDE_SHARE
        if self._is_beside:
            report = await world.blocking.run(lambda: self._sink.write(flushes))
        else:
            report = self._sink.write(flushes)
        await self._link.travel("lake")
        return report

    def _call(self, table: str, effect: Callable[[], Result]) -> Result:
        if not self._is_beside:
            return effect()

        async def later() -> Result:
            return effect()

        return wait_for(self._link.call(table, later))

    def _sleep(self, seconds: float) -> None:
        if self._is_beside:
            wait_for(self._link.world.sleep(seconds))

    def _open_table(self, root: Lake, table: LakeTable) -> WatchedAppender:
        def opened() -> TableHandle:
            handle = self._call(table.name, self._link.world.lake.tables[table.name].open)
            return _Handle(handle, lambda effect: self._call(table.name, effect))

        exact = ExactAppender(root / table.name, table, opened, sleep=self._sleep)
        return WatchedAppender(exact, table.name, self._link.life.reached)


class _Handle:
    """A handle whose commits travel."""

    def __init__(self, handle: TableHandle, call: Callable[[Callable[[], None]], None]) -> None:
        self.last_offset = handle.last_offset
        self.held_positions = handle.held_positions
        self._handle = handle
        self._call = call

    def commit(self, rows: Any, last_offsets: Mapping[str, int]) -> None:
        self._call(lambda: self._handle.commit(rows, last_offsets))


class LetterPort:
    """Implements `streams.ports.Letters`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def write(self, letters: Sequence[DeadLetter], /) -> None:
        """Publish letters; in an outage, sometimes only some of them."""
        world = self._link.world
        for letter in letters:
            progress = self._link.life.loop.partitions.get(TopicPartition(letter.topic, letter.partition))
            if progress is not None and letter.offset >= progress.applied_offset:
                world.violate(Promise.HALTS, f"the letter of {progress.tp} {letter.offset} is published, unapplied")

        async def effect() -> None:
            told = letters
            if world.outage("letters") is not None:
                told = letters[: world.rng.randrange(len(letters) + 1)]
            world.published.update((letter.topic, letter.partition, letter.offset) for letter in told)
            if len(told) < len(letters):
                raise failure("letters", "half-way")

        await self._link.call("letters", effect)


class Gates:
    """Implements `streams.ports.Gatekeeper`: says what the plan of the run does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def judge(self, topic: str, works: Sequence[DecodedBatch]) -> str | None:
        """Tell whether the topic must halt."""
        world, life = self._link.world, self._link.life
        if not any(halt.by == life.number % 2 for halt in world.halts(topic)):
            return None
        life.tripped.add(topic)
        return "as planned"


class DecoderPort:
    """Implements `streams.ports.Decoder` with the real codec; only asking for schemas travels."""

    def __init__(self, link: Link, codec: Codec) -> None:
        self._link = link
        self._codec = codec
        self.unresolved = codec.unresolved
        self.refused = codec.refused

    def decode(self, record: Record, partition_count: int) -> Decoded | DeadLetter:
        """Decode one record; remember how one of the late schema was judged."""
        result = self._codec.decode(record, partition_count)
        if record.value is not None and record.value.startswith(LATE_HEADER):
            position = (record.topic, record.partition, record.offset)
            self._link.world.judged.setdefault(position, set()).add(isinstance(result, Decoded))
        return result

    async def resolve(self, ids: set[int]) -> None:
        """Ask the registry."""

        async def effect() -> None:
            self._codec.resolve(ids)

        await self._link.call("registry", effect)


class OffsetPort:
    """Implements `streams.ports.Offsets`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Positions]:
        """Return the positions of the group."""
        world = self._link.world

        async def effect() -> Mapping[TopicPartition, Positions]:
            return {tp: Positions(world.group.committed.get(tp), 0, world.logs.end(tp)) for tp in partitions}

        return await self._link.call("broker", effect)

    async def logs(self, topics: Sequence[str]) -> Mapping[str, TopicInfo]:
        """Describe the topics."""

        async def effect() -> Mapping[str, TopicInfo]:
            return {topic: self._link.world.load.topics[topic] for topic in topics}

        return await self._link.call("broker", effect)
