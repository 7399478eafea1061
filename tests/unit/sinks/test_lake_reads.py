"""What was written is read back, by partition and in log order."""

import random
from pathlib import Path

import pytest

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from sinks.errors import LakeUnavailableError
from sinks.lake import LakeSink
from sinks.lake_reads import (
    PartitionRows,
    Stretch,
    held_offset,
    offsets,
    partition_rows,
    read_raw,
    read_raw_tables,
    table_counts,
)
from sinks.tables import DEAD_LETTERS, FEATURE_LOG, RAW_EVENTS
from tests.rows import flush, raw_row

CLICKS = Stretch("tid:4", CLICKS_TOPIC, 0)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Offsets 0 to 59 of clicks in six commits, and some rows of three other logs."""
    sink = LakeSink(tmp_path)
    for first in range(0, 60, 10):
        sink.write([flush(range(first, first + 10)), flush(range(first, first + 3), partition=1)])
    sink.write([flush([4, 9], letters=[5, 6], features=[9], topic=CARTS_TOPIC, topic_id="cid")])
    sink.write([flush(range(5), topic_id="created-again")])
    return tmp_path


def test_rows_are_counted_per_table(lake: Path) -> None:
    written = {name: count for name, count in table_counts(lake).items() if count}
    assert written == {"raw_events": 60 + 18 + 2 + 5, "feature_log": 1, "dead_letters": 2}


def test_rows_are_counted_per_partition_of_each_log(lake: Path) -> None:
    assert partition_rows(lake, RAW_EVENTS) == [
        PartitionRows("cid:4", CARTS_TOPIC, 0, 2, 4, 9),
        PartitionRows("created-again:4", CLICKS_TOPIC, 0, 5, 0, 4),
        PartitionRows("tid:4", CLICKS_TOPIC, 0, 60, 0, 59),
        PartitionRows("tid:4", CLICKS_TOPIC, 1, 18, 0, 52),
    ]
    assert partition_rows(lake, FEATURE_LOG) == [PartitionRows("cid:4", CARTS_TOPIC, 0, 1, 9, 9)]


def test_all_offsets_are_listed_and_those_of_two_logs_of_one_topic_come_together(lake: Path) -> None:
    found = offsets(lake, RAW_EVENTS)
    assert found[CARTS_TOPIC, 0] == [4, 9]
    assert found[CLICKS_TOPIC, 0] == sorted([*range(60), *range(5)])
    assert offsets(lake, FEATURE_LOG) == {(CARTS_TOPIC, 0): [9]}


def test_the_last_held_offset_is_that_of_the_flush_also_where_it_had_no_row(lake: Path) -> None:
    assert held_offset(lake, RAW_EVENTS, "tid", 0) == 59
    assert held_offset(lake, DEAD_LETTERS, "cid", 0) == 9
    assert held_offset(lake, DEAD_LETTERS, "tid", 0) is None


def test_raw_rows_come_back_as_they_were_written_in_log_order(lake: Path) -> None:
    assert list(read_raw(lake, CLICKS, rows_at_once=7)) == [raw_row(offset) for offset in range(60)]


@pytest.mark.parametrize(("first", "end"), [(0, 1), (13, 41), (59, 60), (59, 1_000), (60, 70), (30, 30), (40, 20)])
def test_a_stretch_begins_with_its_first_offset_and_stops_before_its_end(lake: Path, first: int, end: int) -> None:
    found = read_raw(lake, CLICKS._replace(first_offset=first, end_offset=end), rows_at_once=10)
    assert [row.record.offset for row in found] == [offset for offset in range(60) if first <= offset < end]


@pytest.mark.parametrize("rows_at_once", [1, 7, 59, 60, 61])
def test_no_more_rows_are_held_than_asked_for(lake: Path, rows_at_once: int) -> None:
    sizes = [table.num_rows for table in read_raw_tables(lake, CLICKS, rows_at_once=rows_at_once)]
    assert sum(sizes) == 60
    assert max(sizes) == min(rows_at_once, 60)


def test_rows_that_were_written_out_of_order_are_read_in_order(tmp_path: Path) -> None:
    missing = random.Random(1).sample(range(100), 40)
    sink = LakeSink(tmp_path)
    sink.write([flush(offset for offset in range(100) if offset not in missing)])
    sink.write([flush(missing)])
    assert [row.record.offset for row in read_raw(tmp_path, CLICKS, rows_at_once=9)] == list(range(100))


def test_a_lake_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert set(table_counts(tmp_path / "none").values()) == {0}
    assert partition_rows(tmp_path, RAW_EVENTS) == []
    assert offsets(tmp_path, RAW_EVENTS) == {}
    assert held_offset(tmp_path, RAW_EVENTS, "tid", 0) is None
    assert list(read_raw(tmp_path, CLICKS)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_gone_is_named_with_its_table(lake: Path) -> None:
    for file in (lake / "raw_events").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(LakeUnavailableError, match="raw_events cannot be used"):
        list(read_raw(lake, CLICKS))
    with pytest.raises(LakeUnavailableError, match="raw_events cannot be used"):
        partition_rows(lake, RAW_EVENTS)
