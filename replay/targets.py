"""What a replay writes to: it is handed the events of a range in order, and keeps what it needs to go on.

A lane is a set of partitions in which each of its users is whole: the partition of one number of every topic. A lane
has a target of its own, so that lanes run side by side and share nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from itertools import accumulate, repeat
from typing import Final, NamedTuple, Protocol

from config.settings import Settings
from replay.errors import RangeError
from schemas.event import Event
from sinks.lake_reads import PartitionLog
from sinks.log_pieces import Piece


class Into(StrEnum):
    """Where a replay writes."""

    ONLINE = "online"
    HISTORY = "history"
    TOPIC = "topic"
    NOTHING = "nothing"


class Entry(NamedTuple):
    """One event on its way to a target.

    Attributes:
        order_ms: the append time, or that of an earlier record of the partition where the broker's clock went back:
            it never goes back within a partition.
        log: the partition it is of.
        is_warm_up: it lies before the range: it makes states complete, and nothing is written for it.
        key: as it was published; None unless the target asks for originals.
        value: the same.
    """

    order_ms: int
    log: PartitionLog
    offset: int
    append_time_ms: int
    event: Event
    is_warm_up: bool
    key: bytes | None
    value: bytes | None


class Part(NamedTuple):
    """The events of one partition in a chunk, in log order.

    Attributes:
        piece: what was read; erased events are not in it. Its `end_offset` is where the partition goes on.
        warm_up_count: so many of its first events lie before the range.
        order_floor_ms: the greatest append time of the records before it.
    """

    log: PartitionLog
    piece: Piece
    warm_up_count: int
    order_floor_ms: int = 0

    def entries(self) -> Iterator[Entry]:
        """Yield the events one by one."""
        piece = self.piece
        floors = accumulate(piece.append_times_ms, max, initial=self.order_floor_ms)
        next(floors)
        originals = piece.originals or repeat((None, None))
        for place, (order_ms, offset, append_ms, event, (key, value)) in enumerate(
            zip(floors, piece.offsets, piece.append_times_ms, piece.events, originals, strict=False)
        ):
            yield Entry(order_ms, self.log, offset, append_ms, event, place < self.warm_up_count, key, value)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive events of a lane.

    Attributes:
        number: counts the chunks of a lane since its last save; the same events may come in other chunks next time.
        parts: at most one per partition; every event of a chunk comes before those of the next in the merged order.
    """

    number: int
    parts: Sequence[Part]

    def merged(self) -> Iterator[Entry]:
        """Yield the events of all partitions by (append time, topic, partition, offset)."""
        return merge(*(part.entries() for part in self.parts), key=_order)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a target may know of the replay that it belongs to.

    Attributes:
        run_id: the same for the same range, source, target and definition version; part of every name that a target
            makes up (application ids, transactions).
        ranges: of each partition, its range: first offset, and the offset before which it ends.
        users: whom, as they are stored; None for everybody.
        to_topic: where to publish; empty for other targets.
        begun_ms: when it was begun; the same after it was stopped and gone on with, another when it is begun anew.
    """

    run_id: str
    source: str
    into: Into
    definition_version: int
    ranges: Mapping[PartitionLog, tuple[int, int]]
    users: frozenset[str] | None = None
    to_topic: str = ""
    begun_ms: int = 0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a target asks the replay for.

    Attributes:
        warm_up: 25 h of events before the range, for it folds.
        originals: keys and values as they were published.
    """

    warm_up: bool
    originals: bool


NEEDS: Final[Mapping[Into, Needs]] = {
    Into.NOTHING: Needs(warm_up=True, originals=False),
    Into.HISTORY: Needs(warm_up=True, originals=False),
    Into.TOPIC: Needs(warm_up=False, originals=True),
}


class Target(Protocol):
    """Takes the chunks of one lane, one after the other, from one thread. Blocking.

    A replay may be killed at any moment. It then goes on from the last `save`: the events since come again, perhaps
    cut into other chunks. So a target drops what it has written already, by (topic, partition, offset): the order of
    each partition is the order of its log. It holds in memory what grows with users, never what grows with events.

    Every method raises a ShopstreamError when it cannot do its work; the replay then stops, and can be resumed.
    """

    def restore(self, saved: bytes) -> None:
        """Go on from what `save` returned; called at most once, before the first chunk."""
        ...

    def write(self, chunk: Chunk, /) -> None:
        """Take the next events; they need not be durable before `save` returns."""
        ...

    def save(self) -> bytes:
        """Make all that was taken durable, and return what `restore` needs; called every ten seconds or so."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Return numbers for the closing account, those from before a `restore` included; lanes are added up."""
        ...

    def close(self) -> None:
        """Let go of what is open; called once, also after a failure."""
        ...


def open_target(settings: Settings, run: RunInfo, lane: Sequence[PartitionLog]) -> Target:
    """Open the target of one lane; what is heavy is imported here.

    Raises:
        ShopstreamError: it cannot be written to.
    """
    if run.into is Into.NOTHING:
        from replay.fold_target import FoldTarget

        return FoldTarget(lane)
    if run.into is Into.HISTORY:
        from replay.history import open_history

        return open_history(settings, run, lane)
    if run.into is Into.TOPIC:
        from replay.topic_target import TopicTarget

        return TopicTarget(settings, run, lane)
    raise RangeError(f"A replay of a range does not write into {run.into}.")


def _order(entry: Entry) -> tuple[int, str, int, int]:
    return entry.order_ms, entry.log.topic, entry.log.partition, entry.offset
