"""Rows about answers, on their way from a reader to the lake; never in the way of an answer.

A thread writes what has gathered. When the lake does not take it, rows wait in memory up to a bound; beyond it new ones
are dropped, and counted.
"""

import atexit
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter

from config.metrics import MetricSpec

logger = logging.getLogger(__name__)

FLUSH_ROWS: Final = 2_000
CLOSE_TRIES: Final = 2

Row = TypeVar("Row")
Written_contra = TypeVar("Written_contra", contravariant=True)


class RowSink(Protocol[Written_contra]):
    """What writes the rows of one reader."""

    def append(self, rows: Sequence[Written_contra], /) -> None:
        """Write rows; again is harmless. Whatever it raises, the same rows are offered again."""
        ...


class BufferedRows(Generic[Row]):
    """Keeps rows until they are written. Threads may share one; close it at the end.

    Args:
        sink: where rows go; called by one thread at a time.
        table: its name, for the log and the thread.
        rows_max: rows in memory at which further ones are dropped.
        flush_interval_s: longest time that a row waits, while the sink takes them.
        metric: a counter with the label `outcome`: written or dropped.
        registry: where it is collected.

    Attributes:
        written: rows that are in the lake.
        dropped: rows that are not, and will not be.
    """

    def __init__(
        self,
        sink: RowSink[Row],
        *,
        table: str,
        rows_max: int,
        flush_interval_s: float,
        metric: MetricSpec,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._sink = sink
        self._table = table
        self._rows_max = rows_max
        self._flush_rows = min(FLUSH_ROWS, rows_max)
        self._interval_s = flush_interval_s
        counter = Counter(metric.name, metric.description, metric.labels, registry=registry or CollectorRegistry())
        self._count = {outcome: counter.labels(outcome) for outcome in ("written", "dropped")}
        self.written = 0
        self.dropped = 0
        self._waiting: list[Row] = []
        self._under_way = 0
        self._sequence = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name=f"{table}-log", daemon=True)
        self._thread.start()
        # a daemon that is inside the Delta library when the interpreter ends could take the process with it
        atexit.register(self.close)

    def offer(self, rows: Sequence[Callable[[int], Row]]) -> None:
        """Keep rows, as far as there is room; returns at once.

        Args:
            rows: each makes its row from its number, which is one more than that of the row before.
        """
        if not rows:
            return
        with self._changed:
            room = 0 if self._is_closing else self._rows_max - len(self._waiting) - self._under_way
            for make in rows[: max(room, 0)]:
                self._waiting.append(make(self._sequence))
                self._sequence += 1
            self._drop(len(rows) - max(room, 0))
            self._changed.notify_all()

    def close(self) -> None:
        """Write what is kept, and stop; what cannot be written is counted as dropped. Again is harmless."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self.close)

    def _run(self) -> None:
        tries_left = CLOSE_TRIES
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, self._interval_s)
                rows, self._waiting = self._waiting, []
                self._under_way = len(rows)
                is_closing = self._is_closing
            self._has_failed = bool(rows) and not self._is_written(rows)
            if self._has_failed:
                tries_left -= is_closing
                self._put_back(rows, for_good=not tries_left)
            if is_closing and (not rows or not tries_left):
                return

    def _is_due(self) -> bool:
        # after a failure only time helps
        return self._is_closing or (not self._has_failed and len(self._waiting) >= self._flush_rows)

    def _is_written(self, rows: Sequence[Row]) -> bool:
        try:
            self._sink.append(rows)
        except Exception as error:  # noqa: BLE001 - nothing of this may reach a reader, and the rows are kept
            logger.warning("%s answers could not be written to `%s` (%s); tried again", len(rows), self._table, error)
            return False
        with self._changed:
            self._under_way = 0
            self.written += len(rows)
        self._count["written"].inc(len(rows))
        return True

    def _put_back(self, rows: list[Row], *, for_good: bool) -> None:
        with self._changed:
            self._under_way = 0
            if for_good:
                self._drop(len(rows))
                logger.warning("%s answers are in memory only, and are dropped: the log is closed", len(rows))
            else:
                self._waiting = rows + self._waiting

    def _drop(self, count: int) -> None:
        if count > 0:
            if not self.dropped:
                logger.warning("answers are dropped: `%s` does not take them as fast as they are kept", self._table)
            self.dropped += count
            self._count["dropped"].inc(count)
