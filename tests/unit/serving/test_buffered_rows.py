"""Rows that wait for the lake: each is written once and in order, whatever fails, or is counted as dropped."""

import threading
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from config.metrics import MetricKind, MetricSpec
from serving.buffered_rows import BufferedRows
from tests.waiting import wait_until

DEADLINE_S = 30.0
METRIC = MetricSpec("rows", MetricKind.COUNTER, "Rows", ("outcome",))


class Sink:
    """Takes rows by number, as the lake does: those that it holds already are left out. It may lose answers."""

    def __init__(self, *failures: str) -> None:
        self.rows: list[int] = []
        self.failures = list(failures)
        self.tries = 0

    def append(self, rows: Sequence[int], /) -> None:
        self.tries += 1
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "refuse":
            raise OSError("no room")
        held = self.rows[-1] if self.rows else -1
        self.rows += [row for row in rows if row > held]
        if failure == "lose the answer":
            raise OSError("the answer was lost")


def opened(sink: Sink, *, rows_max: int = 100, interval_s: float = 3_600.0) -> BufferedRows[int]:
    return BufferedRows(
        sink,
        table="rows",
        rows_max=rows_max,
        flush_interval_s=interval_s,
        metric=METRIC,
        registry=CollectorRegistry(),
    )


def numbers(count: int) -> list[Callable[[int], int]]:
    return [lambda number: number] * count


def test_rows_are_numbered_without_gaps_and_written_in_order() -> None:
    sink = Sink()
    rows = opened(sink, rows_max=5)
    rows.offer([])
    rows.offer(numbers(3))
    rows.offer(numbers(4))  # two of them have no room
    rows.close()
    assert sink.rows == [0, 1, 2, 3, 4]
    assert (rows.written, rows.dropped) == (5, 2)


def test_a_lost_answer_writes_nothing_twice() -> None:
    sink = Sink("lose the answer", "refuse")
    rows = opened(sink, interval_s=0.01)
    rows.offer(numbers(2))
    wait_until(lambda: rows.written == 2, DEADLINE_S, "the rows are not written")
    rows.offer(numbers(1))
    rows.close()
    assert sink.rows == [0, 1, 2]
    assert (rows.written, rows.dropped) == (3, 0)


def test_after_a_failure_only_time_helps() -> None:
    """A full buffer is written at once, but not again and again to a lake that does not take it."""
    sink = Sink("refuse")
    rows = opened(sink, rows_max=2)
    rows.offer(numbers(2))
    wait_until(lambda: sink.tries == 1, DEADLINE_S, "nothing is tried")
    rows.offer(numbers(2))
    rows.close()
    assert sink.tries == 2
    assert (sink.rows, rows.written, rows.dropped) == ([0, 1], 2, 2)


def test_threads_share_one() -> None:
    sink = Sink()
    rows = opened(sink, rows_max=10_000, interval_s=0.001)

    def offer() -> None:
        for _ in range(200):
            rows.offer(numbers(2))

    threads = [threading.Thread(target=offer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows.close()
    assert sink.rows == list(range(1_600))
