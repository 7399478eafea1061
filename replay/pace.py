"""Holds what is folded to a rate, so that it takes only a share of the machine."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

from replay.sources import EventSource, Former, LogEntry, Piece
from sinks.lake_reads import PartitionLog

PAUSE_S_MAX: Final = 0.5


class PaceStoppedError(Exception):
    """Whoever folds is to end; not for users."""


class Pace:
    """A rate that threads share.

    Args:
        rate: events per second over all of them.
        clock: monotonic seconds.
        sleep: pauses for that many seconds.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.at_once = max(1, round(rate * PAUSE_S_MAX))
        self._rate = rate
        self._clock = clock
        self._stopped = threading.Event()
        self._sleep: Callable[[float], object] = self._stopped.wait if sleep is None else sleep
        self._lock = threading.Lock()
        self._free_s = clock()

    def take(self, count: int) -> None:
        """Wait until so many events are due.

        Raises:
            PaceStoppedError: `stop` was called.
        """
        with self._lock:
            now_s = self._clock()
            wait_s = max(self._free_s - now_s, 0.0)
            self._free_s = max(self._free_s, now_s) + count / self._rate
        if wait_s:
            self._sleep(wait_s)
        if self._stopped.is_set():
            raise PaceStoppedError

    def stop(self) -> None:
        """Let whoever waits, or comes later, end."""
        self._stopped.set()


class PacedSource:
    """A source that gives its events at a pace; implements `replay.sources.EventSource`."""

    def __init__(self, source: EventSource, pace: Pace) -> None:
        self.name: Final = source.name
        self._source = source
        self._pace = pace
        self.position = source.position
        self.reach = source.reach
        self.offset_at = source.offset_at
        self.counts = source.counts
        self.corrected = source.corrected

    def former(self, log: PartitionLog) -> Former | None:
        """Return what the log follows, at the same pace."""
        found = self._source.former(log)
        return None if found is None else found._replace(source=PacedSource(found.source, self._pace))

    def in_log_order(self, log: PartitionLog, first_offset: int, end_offset: int) -> Iterator[list[LogEntry]]:
        """Yield what it holds of a stretch."""
        yield from self._paced(self._source.in_log_order(log, first_offset, end_offset))

    def in_time_order(self, log: PartitionLog, end_offset: int, *, users: Collection[str]) -> Iterator[list[LogEntry]]:
        """Yield the events of some users by (event time, offset)."""
        yield from self._paced(self._source.in_time_order(log, end_offset, users=users))

    def read(
        self,
        log: PartitionLog,
        first_offset: int,
        end_offset: int,
        *,
        users: Collection[str] | None = None,
        originals: bool = False,
    ) -> Iterator[Piece]:
        """Yield the events of a stretch with their append times."""
        for piece in self._source.read(log, first_offset, end_offset, users=users, originals=originals):
            self._pace.take(len(piece.offsets))
            yield piece

    def _paced(self, pieces: Iterator[list[LogEntry]]) -> Iterator[list[LogEntry]]:
        for piece in pieces:
            for first in range(0, len(piece), self._pace.at_once):
                part = piece[first : first + self._pace.at_once]
                self._pace.take(len(part))
                yield part
