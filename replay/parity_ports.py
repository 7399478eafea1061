"""What parity reads, and what it is asked to compare."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from feature_repo.fence import Fence
from replay.parity_content import InstantsOf, packed
from replay.parity_report import Gap
from replay.sources import EventSource
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog

WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class LiveUser:
    """What readers are given of one user.

    Attributes:
        states: by topic.
        instants: of the values, integer milliseconds UTC.
        values: of every feature at each instant, as `parity_content.packed` has them: there are many users.
        problem: why the states cannot be read; empty if they can.
    """

    states: Mapping[str, bytes]
    instants: tuple[int, ...] = ()
    values: bytes = packed(())
    problem: str = ""


class LiveWay(Protocol):
    """The online store, as readers see it. Blocking."""

    def users(self) -> Iterable[str]:
        """Return every user who has a state, as stored."""
        ...

    def read(self, user_ids: Sequence[str], instants_of: InstantsOf) -> Mapping[str, LiveUser]:
        """Read users, each with states and values of one moment."""
        ...

    def fences(self, topic: str) -> Mapping[int, Fence]:
        """Return the fences of a topic by partition."""
        ...


@dataclass(frozen=True, slots=True)
class ParityPorts:
    """What parity reads; it writes nothing.

    Attributes:
        sources: the ways of replay. The one named `lake` is asked whom there is, and lacks what was erased.
        tombstones: tells whose events were erased.
        letters_only: the offsets of a partition that live did not take for events.
        tolerance_ms: by how much an event time may pass the append time.
        has_pseudonyms: a user's partition does not follow from the id that is stored.
    """

    live: LiveWay
    sources: Sequence[EventSource]
    tombstones: Callable[[], Tombstones]
    letters_only: Callable[[PartitionLog], Collection[int]]
    tolerance_ms: int
    has_pseudonyms: bool = False
    monotonic_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class ParityPlan:
    """What to compare.

    Attributes:
        users: how many, drawn by a hash of their ids; None for all.
        wait_s: how long to wait, without progress, for a way to reach what the online store holds.
    """

    topics: Mapping[str, TopicInfo]
    users: int | None
    instants_of: InstantsOf
    wait_s: float = WAIT_S

    def logs(self, topic: str) -> list[PartitionLog]:
        """Return the partitions of a topic."""
        info = self.topics[topic]
        return [PartitionLog(info.log_epoch, topic, number) for number in range(info.partition_count)]


class Held(NamedTuple):
    """What a way says of one user in one topic.

    Attributes:
        state: None for none; `UNREADABLE` for bytes that are no state.
        gap: why it cannot tell.
    """

    state: bytes | None
    gap: Gap | None = None


UNREADABLE: Final = b""
