"""What the batch loop needs from the outside world, so that a simulation can stand in for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from feature_repo.fence import Fence, FenceMove, Moved, PartitionStatus
from feature_repo.states import StoredState
from schemas.codec import Decoded
from schemas.dead_letter import DeadLetter
from schemas.event import Record
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones
from sinks.rows import FlushReport, PartitionFlush

if TYPE_CHECKING:
    from streams.decoding import DecodedBatch


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Positions(NamedTuple):
    """Offsets of one partition, as the broker knows them.

    Attributes:
        committed: next offset of the consumer group; None before its first commit.
        earliest: oldest offset that retention has left.
        end: next offset that a new record will get.
        inherited: what the group of an earlier definition version has committed, where this one has nothing yet: the
            lake and the dead letters, which versions share, hold all before it.
    """

    committed: int | None
    earliest: int
    end: int
    inherited: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one partition, in log order.

    Attributes:
        records: at least one.
        next_offset: where the log goes on after them.
        seek_epoch: number of the seek that these were fetched after; an older one is not processed.
        end_offset: next offset that the broker will give, as of the fetch.
    """

    tp: TopicPartition
    records: Sequence[Record]
    next_offset: int
    seek_epoch: int
    end_offset: int


class Clock(Protocol):
    """Time, injected."""

    def now_ms(self) -> int:
        """Return wall-clock milliseconds UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        ...


class Decoder(Protocol):
    """Records to events."""

    def unresolved(self, records: Sequence[Record]) -> set[int]:
        """Return the schema ids that must be asked for before these can be decoded."""
        ...

    async def resolve(self, ids: set[int]) -> None:
        """Fetch schemas; raises RegistryUnavailableError when the registry does not answer."""
        ...

    def decode(self, record: Record, partition_count: int) -> Decoded | DeadLetter:
        """Decode and check one record; never raises for bad input."""
        ...

    def refused(self, record: Record, detail: str) -> DeadLetter:
        """Return the letter of a record that must not be decoded here, because that would end this process."""
        ...


class OnlineStates(Protocol):
    """States in the online store."""

    async def load(self, topic: str, user_ids: Sequence[str]) -> dict[str, StoredState]:
        """Load what is stored, in one round trip; users without a state are absent."""
        ...

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        """Write absolute states; raises VersionConflictError naming the users that must be reloaded."""
        ...


class Fences(Protocol):
    """How far the online store has come, per partition."""

    async def read(self, topic: str) -> dict[int, Fence]:
        """Return the fences of a topic's partitions; absent when never written or lost."""
        ...

    async def advance(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence where there is none, or move it forward; within one epoch it never moves back."""
        ...

    async def place(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence where there is none; one that is there stays as it is."""
        ...

    async def move(self, topic: str, moves: Mapping[int, FenceMove]) -> Moved:
        """Move fences from where they must stand, unless they are halted; return those that did not."""
        ...

    async def halt(self, topic: str, since_ms: int) -> int:
        """Halt all partitions of a topic that have a fence; return how many were not halted before."""
        ...

    async def set_status(self, topic: str, partition: int, status: PartitionStatus, *, since_ms: int) -> None:
        """Change the status of a fence; its offset stays."""
        ...


class Gatekeeper(Protocol):
    """Judges the data of a view, and halts it when it is broken (streams/gating.py)."""

    async def judge(self, topic: str, works: "Sequence[DecodedBatch]") -> str | None:
        """Look at what one fetch of a topic brought, also while the topic is halted.

        Called after decoding and before anything of it is applied; what is read again after a crash or a resume comes
        again. It notes and tells by itself why it halts a view.

        Returns:
            In words why the view must halt before these batches; None to go on.
        """
        ...


class Owners(Protocol):
    """Who owns the partitions, kept beside the fences, to know after a death where it came."""

    async def taken(self, topic: str, partitions: Collection[int], owner: str, *, within: int) -> Mapping[int, int]:
        """Note the owner; return how many owners in a row died less than `within` offsets past the same fence."""
        ...

    async def given_back(self, topic: str, partitions: Collection[int], owner: str) -> None:
        """Note that this owner, if it still is, has finished in order."""
        ...


class Quarantine(Protocol):
    """Finds the records that end the process which decodes them."""

    async def culprits(self, records: Sequence[Record], partition_count: int) -> tuple[Mapping[int, str], int]:
        """Decode records somewhere else.

        Returns:
            In words how each culprit ended that process, by offset, and how many of the records were tried: all,
            unless too many were culprits.

        Raises:
            ProbingError: nothing is known about the records.
            RegistryUnavailableError: their schemas could not be fetched.
        """
        ...


class ErasureSource(Protocol):
    """Who was erased."""

    async def read(self) -> Tombstones:
        """Return what was erased so far."""
        ...


class Lake(Protocol):
    """Exact appends."""

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        """Append what the tables do not hold yet."""
        ...


class Letters(Protocol):
    """The dead-letter topic."""

    async def write(self, letters: Sequence[DeadLetter], /) -> None:
        """Publish letters; all are acknowledged on return."""
        ...


class Offsets(Protocol):
    """Positions of the consumer group."""

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Positions]:
        """Return the positions of each partition."""
        ...

    async def logs(self, topics: Sequence[str]) -> Mapping[str, TopicInfo]:
        """Describe the logs behind the topics."""
        ...
