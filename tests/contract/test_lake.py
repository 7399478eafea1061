"""One suite for the exact append, run in memory and on Delta tables."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest
from deltalake import DeltaTable

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from sinks.delta import DeltaAppender, TablePart
from sinks.lake import Appender, LakeSink
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake as LakePlace
from sinks.rows import FlushReport, TableCounts
from sinks.tables import LakeTable
from sinks.user_events import lake_position
from tests.fakes.lake import MemoryLake
from tests.rows import flush


class Lake(Protocol):
    def worker(self) -> LakeSink:
        """Return the sink of one more worker process."""
        ...

    def rows(self, table: str) -> list[dict[str, Any]]: ...

    def commit_count(self, table: str) -> int: ...

    def position(self, partition: int) -> int:
        """Return the offset below which it holds every record."""
        ...

    def open_table(self, root: LakePlace, table: LakeTable) -> Appender: ...


class InMemory(MemoryLake):
    def commit_count(self, table: str) -> int:
        return self.tables[table].commit_count

    def position(self, partition: int) -> int:
        held = self.tables["raw_events"].open().last_offset(f"tid-{partition}-raw_events")
        return 0 if held is None else held + 1


class OnDelta:
    def __init__(self, root: Path) -> None:
        self._root = root

    def worker(self) -> LakeSink:
        return LakeSink(self._root)

    def rows(self, table: str) -> list[dict[str, Any]]:
        if not (self._root / table).exists():
            return []
        rows: list[dict[str, Any]] = DeltaTable(self._root / table).to_pyarrow_table().to_pylist()
        return rows

    def commit_count(self, table: str) -> int:
        return DeltaTable(self._root / table).version() if (self._root / table).exists() else 0

    def position(self, partition: int) -> int:
        return lake_position(self._root, PartitionLog("tid:4", CLICKS_TOPIC, partition))

    def open_table(self, root: LakePlace, table: LakeTable) -> Appender:
        return DeltaAppender(self._root, table)


@pytest.fixture(params=["memory", "delta"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return InMemory() if request.param == "memory" else OnDelta(tmp_path / "lake")


def held(lake: Lake, table: str = "raw_events") -> list[tuple[str, int, int]]:
    position = "version" if table == "feature_log" else "offset"
    return sorted((row["topic"], row["partition"], row[position]) for row in lake.rows(table))


def clicks(offsets: range | Sequence[int], partition: int = 0) -> list[tuple[str, int, int]]:
    return [(CLICKS_TOPIC, partition, offset) for offset in offsets]


def raw_counts(report: FlushReport) -> TableCounts:
    return report.tables["raw_events"]


def in_threads(*calls: Callable[[], object]) -> None:
    """Run all at once, and raise what one raised."""
    together = threading.Barrier(len(calls))

    def start(call: Callable[[], object]) -> None:
        together.wait()
        call()

    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(start, call) for call in calls]:
            future.result()


def test_the_same_flush_is_written_once_whoever_repeats_it(lake: Lake) -> None:
    worker = lake.worker()
    all_tables = flush(range(8), letters=[8, 9], features=[3, 7])
    first = worker.write([all_tables])
    again = [worker.write([all_tables]), lake.worker().write([all_tables])]
    assert first.tables == {
        "raw_events": TableCounts(written=8),
        "feature_log": TableCounts(written=2),
        "dead_letters": TableCounts(written=2),
    }
    for report in again:
        assert report.tables == {
            "raw_events": TableCounts(dropped=8),
            "feature_log": TableCounts(dropped=2),
            "dead_letters": TableCounts(dropped=2),
        }
    assert held(lake) == clicks(range(8))
    assert held(lake, "dead_letters") == clicks([8, 9])
    assert held(lake, "feature_log") == clicks([4, 8])


def test_only_the_new_part_of_an_overlapping_range_is_written(lake: Lake) -> None:
    worker = lake.worker()
    worker.write([flush(range(10))])
    assert raw_counts(worker.write([flush(range(5, 15))])) == TableCounts(written=5, dropped=5)
    assert held(lake) == clicks(range(15))


def test_each_partition_is_compared_with_its_own_offsets(lake: Lake) -> None:
    worker = lake.worker()
    worker.write([flush(range(10), partition=0), flush(range(4), partition=1)])
    report = worker.write(
        [
            flush(range(10), partition=0),  # all there
            flush(range(2, 6), partition=1),  # half there
            flush(range(3), partition=2),  # new
            flush(range(3), partition=0, topic=CARTS_TOPIC, topic_id="another"),  # another topic's partition 0
        ]
    )
    assert raw_counts(report) == TableCounts(written=2 + 3 + 3, dropped=10 + 2)
    carts = [(CARTS_TOPIC, 0, offset) for offset in range(3)]
    assert held(lake) == [*carts, *clicks(range(10), 0), *clicks(range(6), 1), *clicks(range(3), 2)]


def test_all_partitions_of_a_write_are_one_commit_per_table(lake: Lake) -> None:
    worker = lake.worker()
    before = lake.commit_count("raw_events")
    worker.write([flush(range(3), partition=partition, letters=[3]) for partition in range(4)])
    assert lake.commit_count("raw_events") == before + 1
    assert lake.commit_count("dead_letters") == before + 1


def test_nothing_new_is_no_commit(lake: Lake) -> None:
    worker = lake.worker()
    worker.write([flush(range(3))])
    before = lake.commit_count("raw_events")
    nothing = worker.write([flush(last_offset=2)])
    worker.write([flush(range(3))])
    worker.write([])
    assert set(nothing.tables.values()) == {TableCounts()}
    assert lake.commit_count("raw_events") == before


def test_a_flush_of_erased_records_alone_leaves_its_position(lake: Lake) -> None:
    """Whoever waits for the lake to reach what was applied would wait for ever."""
    lake.worker().write([flush(range(3)), flush(last_offset=4, partition=1)])
    before = lake.commit_count("raw_events")
    report = lake.worker().write([flush(last_offset=8), flush(last_offset=4, partition=1)])
    assert set(report.tables.values()) == {TableCounts()}
    assert lake.commit_count("raw_events") == before + 1
    lake.worker().write([flush(last_offset=8), flush(last_offset=4, partition=1)])
    assert lake.commit_count("raw_events") == before + 1
    assert (lake.position(0), lake.position(1)) == (9, 5)
    # what was not erased after all is not lost
    assert raw_counts(lake.worker().write([flush([5, 9], last_offset=9)])) == TableCounts(written=2)


def test_a_topic_that_was_created_again_starts_anew(lake: Lake) -> None:
    worker = lake.worker()
    worker.write([flush(range(5), topic_id="old")])
    assert raw_counts(worker.write([flush(range(5), topic_id="new")])) == TableCounts(written=5)
    assert Counter(row["log_epoch"] for row in lake.rows("raw_events")) == {"old:4": 5, "new:4": 5}


def test_more_partitions_do_not_make_the_same_records_new(lake: Lake) -> None:
    worker = lake.worker()
    worker.write([flush(range(5), partition_count=4)])
    assert raw_counts(worker.write([flush(range(7), partition_count=8)])) == TableCounts(written=2, dropped=5)


def test_a_worker_that_lost_its_partitions_writes_nothing_twice(lake: Lake) -> None:
    zombie, successor = lake.worker(), lake.worker()
    zombie.write([flush(range(5))])
    successor.write([flush(range(5, 10), letters=[10], features=[9])])
    late = zombie.write([flush(range(5, 10), letters=[10], features=[9])])
    assert raw_counts(late) == TableCounts(dropped=5)
    assert held(lake) == clicks(range(10))
    assert held(lake, "dead_letters") == clicks([10])
    assert held(lake, "feature_log") == clicks([10])


def test_a_zombie_that_was_faster_leaves_nothing_for_its_successor(lake: Lake) -> None:
    zombie, successor = lake.worker(), lake.worker()
    zombie.write([flush(range(5))])
    successor.write([flush(range(5, 6))])
    zombie.write([flush(range(5, 10))])
    assert raw_counts(successor.write([flush(range(5, 12))])) == TableCounts(written=2, dropped=5)
    assert held(lake) == clicks(range(12))


@pytest.mark.parametrize("shared", [True, False], ids=["one worker", "two workers"])
def test_the_same_partition_from_several_threads_at_once(lake: Lake, shared: bool) -> None:
    one = lake.worker()
    workers = [one if shared else lake.worker() for _ in range(4)]
    ranges = [range(20), range(20), range(10, 30), range(5, 25)]
    one.write([flush([0])])
    in_threads(
        *(
            lambda worker=worker, offsets=offsets: [worker.write([flush(offsets[:n])]) for n in (5, 10, 20)]
            for worker, offsets in zip(workers, ranges, strict=True)
        )
    )
    assert len(held(lake)) == len(set(held(lake)))
    one.write([flush(range(30))])
    assert held(lake) == clicks(range(30))


def test_workers_of_different_partitions_do_not_hinder_each_other(lake: Lake) -> None:
    def write_all(partition: int) -> None:
        worker = lake.worker()
        for first in range(0, 50, 5):
            worker.write([flush(range(first, first + 5), partition=partition)])

    in_threads(lambda: write_all(0), lambda: write_all(1), lambda: write_all(2))
    assert held(lake) == [*clicks(range(50), 0), *clicks(range(50), 1), *clicks(range(50), 2)]


def test_several_workers_may_create_the_tables_at_once(lake: Lake) -> None:
    in_threads(
        *(
            lambda p=partition: lake.worker().write([flush(range(3), partition=p, letters=[3], features=[2])])
            for partition in range(5)
        )
    )
    for table in ("raw_events", "feature_log", "dead_letters"):
        assert {row["partition"] for row in lake.rows(table)} == set(range(5))
    assert held(lake) == [row for partition in range(5) for row in clicks(range(3), partition)]


class CrashError(Exception):
    """The process ended here."""


class Dying:
    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        raise CrashError


@pytest.mark.parametrize("last_table", ["raw_events", "feature_log", "dead_letters"])
def test_a_crash_before_any_table_is_mended_by_redelivery(lake: Lake, last_table: str) -> None:
    def open_table(root: LakePlace, table: LakeTable) -> Appender:
        return Dying() if table.name == last_table else lake.open_table(root, table)

    everything = flush(range(8), letters=[8], features=[7])
    with pytest.raises(CrashError):
        LakeSink(Path(), open_table).write([everything])
    lake.worker().write([everything])
    assert held(lake) == clicks(range(8))
    assert held(lake, "dead_letters") == clicks([8])
    assert held(lake, "feature_log") == clicks([8])


def test_records_between_the_rows_of_a_table_count_as_held(lake: Lake) -> None:
    worker = lake.worker()
    worker.write([flush([2, 5], last_offset=9)])
    assert raw_counts(worker.write([flush([5, 10], last_offset=10)])) == TableCounts(written=1, dropped=1)


def test_a_dead_letter_that_turns_out_readable_is_not_lost(lake: Lake) -> None:
    """Its schema was registered between the crash and the redelivery; the raw rows around it are there already."""
    worker = lake.worker()
    worker.write([flush([0, 1, 3, 4], letters=[2])])
    report = worker.write([flush(range(6))])
    assert raw_counts(report) == TableCounts(written=2, dropped=4)
    assert held(lake) == clicks(range(6))


def test_a_record_that_turns_out_a_dead_letter_is_kept_as_one(lake: Lake) -> None:
    worker = lake.worker()
    worker.write([flush([0, 2], letters=[1, 3])])
    report = worker.write([flush([0], letters=[1, 2, 3])])
    assert report.tables["dead_letters"] == TableCounts(written=1, dropped=2)
    assert held(lake, "dead_letters") == clicks([1, 2, 3])


def test_a_gap_filled_late_does_not_move_the_last_offset_back(lake: Lake) -> None:
    worker = lake.worker()
    worker.write([flush([0, 1, 3, 4])])
    worker.write([flush([2])])
    assert raw_counts(worker.write([flush(range(5))])) == TableCounts(dropped=5)
    assert held(lake) == clicks(range(5))


def test_states_pushed_after_a_halt_are_logged(lake: Lake) -> None:
    """Raw rows land while the view is halted; its states come when the same offsets are delivered again."""
    worker = lake.worker()
    worker.write([flush(range(10), features=[3], last_offset=9)])
    worker.write([flush(range(10, 20))])
    worker.write([flush(range(4, 20), features=[8, 19])])
    assert held(lake, "feature_log") == clicks([4, 9, 20])
    assert held(lake) == clicks(range(20))


def test_a_row_beyond_the_end_of_its_flush_is_a_mistake_of_the_caller(lake: Lake) -> None:
    with pytest.raises(ValueError, match="offset 5 lies outside a flush up to 4"):
        lake.worker().write([flush(range(6), last_offset=4)])
    assert held(lake) == []
