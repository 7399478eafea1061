"""Where a replay reads a partition's log: one interface over the lake and over Kafka (replay/kafka_source.py)."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from schemas.event import Event
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake
from sinks.log_moves import read_log_moves
from sinks.log_pieces import Piece, offset_at, read_pieces
from sinks.repairs import corrected_versions
from sinks.user_events import (
    LakeReach,
    event_counts,
    events_in_log_order,
    events_in_time_order,
    lake_position,
    lake_reach,
)

__all__ = ["EventSource", "Former", "LakeReach", "LakeSource", "LogEntry", "Piece", "entries_of"]

LogEntry = tuple[int, Event]


class EventSource(Protocol):
    """Reads the valid events of partitions; what cannot be read is left out. Blocking.

    Nothing here knows of erasures: whoever folds asks the tombstones.

    Every method raises a ShopstreamError when the source does not answer.
    """

    @property
    def name(self) -> str:
        """Say which it is: `lake` or `kafka`."""
        ...

    def position(self, log: PartitionLog, /) -> int:
        """Return the offset below which the source holds every record, retention aside; 0 when it holds none."""
        ...

    def reach(self, log: PartitionLog, /) -> LakeReach | None:
        """Return the first record that the source holds, and when it was appended; None when it holds none."""
        ...

    def offset_at(self, log: PartitionLog, append_ms: int, /) -> int:
        """Return the first offset that was appended at this instant or later; `position` if there is none."""
        ...

    def counts(self, log: PartitionLog, /, *, users: Collection[str] | None = None) -> Counter[str]:
        """Count the events of each user; None for all users."""
        ...

    def corrected(self, log: PartitionLog, /) -> Mapping[str, int]:
        """Return the users that were repaired in event-time order, and the version up to which that order holds."""
        ...

    def former(self, log: PartitionLog, /) -> "Former | None":
        """Return what the log follows, if it took over from another."""
        ...

    def in_log_order(self, log: PartitionLog, first_offset: int, end_offset: int, /) -> Iterator[list[LogEntry]]:
        """Yield what it holds of the events from `first_offset` to before `end_offset`, (offset, event)."""
        ...

    def in_time_order(
        self, log: PartitionLog, end_offset: int, /, *, users: Collection[str]
    ) -> Iterator[list[LogEntry]]:
        """Yield the events of some users before `end_offset` by (event time, offset); all are held in memory."""
        ...

    def read(
        self,
        log: PartitionLog,
        first_offset: int,
        end_offset: int,
        /,
        *,
        users: Collection[str] | None = None,
        originals: bool = False,
    ) -> Iterator[Piece]:
        """Yield the events from `first_offset` to before `end_offset` with their append times, in log order.

        The last piece ends at `end_offset`. Memory does not grow with the range.

        Args:
            users: whose; None for all.
            originals: key and value, too, as they were published.

        Raises:
            NotRetainedError: Kafka has deleted a part of it.
        """
        ...


class Former(NamedTuple):
    """What a log follows that took over from another (sinks/log_moves.py).

    Attributes:
        first_offset: the log begins here.
        logs: partitions of the former log in which its users may have been.
        source: where those are read.
    """

    first_offset: int
    logs: tuple[PartitionLog, ...]
    source: EventSource


class LakeSource:
    """Reads `raw_events`.

    Args:
        lake: root of the lake.
    """

    name: Final = "lake"

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def position(self, log: PartitionLog) -> int:
        """Return the offset below which the lake holds every record; 0 when it holds none."""
        return lake_position(self._lake, log)

    def reach(self, log: PartitionLog) -> LakeReach | None:
        """Return the first record that the lake holds; None when it holds none."""
        return lake_reach(self._lake, log)

    def offset_at(self, log: PartitionLog, append_ms: int) -> int:
        """Return the first offset that was appended at this instant or later; `position` if there is none."""
        found = offset_at(self._lake, log, append_ms)
        return self.position(log) if found is None else found

    def counts(self, log: PartitionLog, *, users: Collection[str] | None = None) -> Counter[str]:
        """Count the events of each user."""
        return event_counts(self._lake, log, users=users)

    def corrected(self, log: PartitionLog) -> Mapping[str, int]:
        """Return the users that were repaired in event-time order, and up to which version."""
        return corrected_versions(self._lake, log)

    def former(self, log: PartitionLog) -> Former | None:
        """Return what the log follows, if it took over from another."""
        before = read_log_moves(self._lake).before(log)
        return None if before is None else Former(before.first_offset, before.former, self)

    def in_log_order(self, log: PartitionLog, first_offset: int, end_offset: int) -> Iterator[list[LogEntry]]:
        """Yield events, a piece of the log at a time."""
        return events_in_log_order(self._lake, log, first_offset, end_offset)

    def in_time_order(self, log: PartitionLog, end_offset: int, *, users: Collection[str]) -> Iterator[list[LogEntry]]:
        """Yield the events of some users by (event time, offset)."""
        return events_in_time_order(self._lake, log, end_offset, users=users)

    def read(
        self,
        log: PartitionLog,
        first_offset: int,
        end_offset: int,
        *,
        users: Collection[str] | None = None,
        originals: bool = False,
    ) -> Iterator[Piece]:
        """Yield events with their append times, as of the lake's present version."""
        return read_pieces(self._lake, log, first_offset, end_offset, users=users, originals=originals)


def entries_of(piece: Piece) -> list[LogEntry]:
    """Return the events of a piece, each with its offset."""
    return list(zip(piece.offsets, piece.events, strict=True))
