"""A source in memory whose events have append times: what a replay of a range reads."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from replay.sources import Former, LakeReach, LogEntry, Piece
from schemas.event import Event
from sinks.lake_reads import PartitionLog

Appended = Sequence[tuple[int, int, Event]]  # offset, append time, event; in log order


class AppendedSource:
    """Implements `replay.sources.EventSource`.

    Args:
        piece_size: events per piece.
        first_offset: where what is retained begins, in every partition.
    """

    def __init__(
        self, logs: Mapping[PartitionLog, Appended], *, piece_size: int = 3, first_offset: int = 0, name: str = "kafka"
    ) -> None:
        self.name: Final = name
        self.logs = logs
        self._piece_size = piece_size
        self._first_offset = first_offset

    def position(self, log: PartitionLog) -> int:
        """Return where the log ends."""
        return self.logs[log][-1][0] + 1 if self.logs[log] else 0

    def reach(self, log: PartitionLog) -> LakeReach | None:
        """Return the first event that is retained."""
        found = [(offset, append_ms) for offset, append_ms, _ in self.logs[log] if offset >= self._first_offset]
        return LakeReach(*found[0]) if found else None

    def offset_at(self, log: PartitionLog, append_ms: int) -> int:
        """Return the first offset that was appended then or later."""
        place = bisect_left([appended for _, appended, _ in self.logs[log]], append_ms)
        return self.logs[log][place][0] if place < len(self.logs[log]) else self.position(log)

    def counts(self, log: PartitionLog, *, users: Collection[str] | None = None) -> Counter[str]:
        """Count the events of each user."""
        return Counter(event.user_id for _, _, event in self.logs[log] if users is None or event.user_id in users)

    def corrected(self, log: PartitionLog) -> Mapping[str, int]:
        """Return nobody."""
        return {}

    def former(self, log: PartitionLog) -> Former | None:
        """No log follows another."""
        return None

    def in_log_order(self, log: PartitionLog, first_offset: int, end_offset: int) -> Iterator[list[LogEntry]]:
        """Yield the events of a stretch, at once."""
        yield [(offset, event) for offset, _, event in self.logs[log] if first_offset <= offset < end_offset]

    def in_time_order(self, log: PartitionLog, end_offset: int, *, users: Collection[str]) -> Iterator[list[LogEntry]]:
        """Yield the events of some users by (event time, offset), at once."""
        (entries,) = self.in_log_order(log, 0, end_offset)
        yield sorted((e for e in entries if e[1].user_id in users), key=lambda e: (e[1].event_time_ms, e[0]))

    def read(
        self,
        log: PartitionLog,
        first_offset: int,
        end_offset: int,
        *,
        users: Collection[str] | None = None,
        originals: bool = False,
    ) -> Iterator[Piece]:
        """Yield the events of a stretch in pieces; the last ends where the stretch does."""
        mine = [
            each
            for each in self.logs[log]
            if first_offset <= each[0] < end_offset and (users is None or each[2].user_id in users)
        ]
        for first in range(0, len(mine), self._piece_size):
            part = mine[first : first + self._piece_size]
            is_last = first + self._piece_size >= len(mine)
            offsets, times, events = (list(column) for column in zip(*part, strict=True))
            keys: list[tuple[bytes | None, bytes | None]] = [(event.user_id.encode(), b"") for event in events]
            yield Piece(
                end_offset if is_last else offsets[-1] + 1, offsets, times, events, keys if originals else [], 0
            )
        if not mine:
            yield Piece(end_offset, [], [], [], [], 0)
