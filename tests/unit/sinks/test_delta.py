"""What happens to a Delta table over time, and what is said when one cannot be used."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from sinks.arrow_rows import raw_events
from sinks.delta import CHECKPOINT_COMMITS, HANDLE_COMMITS_MAX, DeltaAppender, TablePart, open_or_create
from sinks.errors import LakeMismatchError, LakeUnavailableError
from sinks.rows import PartitionFlush, RawRow, TableCounts
from sinks.tables import LAKE_TABLES, RAW_EVENTS, LakeTable, arrow_schema
from tests.rows import flush, raw_row, record


def part(offsets: range, partition: int = 0) -> TablePart:
    rows = raw_events(flush(offsets, partition=partition))
    return TablePart(f"tid-{partition}-raw_events", offsets[-1], rows)


def large_part(row_count: int) -> TablePart:
    """Rows that no compression makes small."""
    raw = [RawRow(record(n, value=os.urandom(1_000)), raw_row(n).event, 1, 1) for n in range(row_count)]
    large = PartitionFlush("shop.clicks.v1", "tid", "tid:4", 0, 0, row_count - 1, raw)
    return TablePart("tid-0-raw_events", row_count - 1, raw_events(large))


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """Let writes fail in the middle of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_held_outlives_handles_checkpoints_and_cleaned_logs(tmp_path: Path) -> None:
    open_or_create(tmp_path / "raw_events", RAW_EVENTS).alter.set_table_properties(
        {"delta.logRetentionDuration": "interval 0 days"}
    )
    appender, zombie = DeltaAppender(tmp_path, RAW_EVENTS), DeltaAppender(tmp_path, RAW_EVENTS)
    zombie.append([part(range(1), partition=1)])
    commits = max(CHECKPOINT_COMMITS, HANDLE_COMMITS_MAX) + 15
    for offset in range(commits):
        appender.append([part(range(offset, offset + 1))])
    log = sorted(path.name for path in (tmp_path / "raw_events" / "_delta_log").iterdir())
    assert any("checkpoint" in name for name in log)
    assert "00000000000000000002.json" not in log
    assert appender.append([part(range(commits))]) == TableCounts(dropped=commits)
    assert DeltaAppender(tmp_path, RAW_EVENTS).append([part(range(1), partition=1)]) == TableCounts(dropped=1)
    # the commits since its snapshot are gone
    assert zombie.append([part(range(commits, commits + 1))]) == TableCounts(written=1)
    assert DeltaTable(tmp_path / "raw_events").count() == commits + 2


def test_a_write_that_fails_in_the_middle_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    appender.append([part(range(10), partition=1)])
    rows = large_part(500)
    with pytest.raises(LakeUnavailableError) as failure, files_no_larger_than(65_536):
        appender.append([rows])
    assert str(tmp_path / "raw_events") in failure.value.message
    assert "disk has room" in failure.value.hint
    assert DeltaTable(tmp_path / "raw_events").count() == 10
    assert appender.append([rows]) == TableCounts(written=500)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file where the folder should be")
    with pytest.raises(LakeUnavailableError) as failure:
        DeltaAppender(tmp_path / "lake", RAW_EVENTS).append([part(range(3))])
    assert failure.value.path == tmp_path / "lake" / "raw_events"
    assert "Not a directory" in failure.value.message
    assert "\n" not in str(failure.value)


def test_a_damaged_log_is_told_from_a_full_disk(tmp_path: Path) -> None:
    DeltaAppender(tmp_path, RAW_EVENTS).append([part(range(3))])
    (tmp_path / "raw_events" / "_delta_log" / "00000000000000000000.json").write_text('{"broken')
    with pytest.raises(LakeUnavailableError) as failure:
        DeltaAppender(tmp_path, RAW_EVENTS).append([part(range(3))])
    assert "Truncated record" in failure.value.message
    assert "<unknown>" not in failure.value.message
    assert "Restore this folder" in failure.value.hint


def test_a_table_of_another_release_is_refused(tmp_path: Path) -> None:
    columns = [field for field in arrow_schema(RAW_EVENTS) if field.name != "page"]
    columns = [field.with_type(pa.int64()) if field.name == "device" else field for field in columns]
    DeltaTable.create(tmp_path / "raw_events", schema=pa.schema(columns), partition_by=["append_date"])
    with pytest.raises(LakeMismatchError, match="differ from those of this release in device, page"):
        DeltaAppender(tmp_path, RAW_EVENTS).append([part(range(3))])


def test_one_partition_twice_in_one_append_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        DeltaAppender(tmp_path, RAW_EVENTS).append([part(range(3)), part(range(2, 5))])


@pytest.mark.parametrize("declared", LAKE_TABLES.values(), ids=LAKE_TABLES)
def test_a_new_table_has_the_declared_columns_and_properties(tmp_path: Path, declared: LakeTable) -> None:
    handle = open_or_create(tmp_path / declared.name, declared)
    assert [column.name for column in handle.schema().fields] == [column.name for column in declared.columns]
    assert [column.nullable for column in handle.schema().fields] == [column.nullable for column in declared.columns]
    metadata = handle.metadata()
    assert metadata.partition_columns == [declared.partitioned_by]
    assert metadata.configuration["delta.checkpointInterval"] == str(CHECKPOINT_COMMITS)
    assert metadata.configuration["delta.dataSkippingStatsColumns"] == ",".join(declared.skipping_columns)


def test_statistics_are_kept_of_the_columns_that_skip_files_and_of_no_other(tmp_path: Path) -> None:
    DeltaAppender(tmp_path, RAW_EVENTS).append([part(range(5))])
    handle = DeltaTable(tmp_path / "raw_events")
    (log,) = (path for path in (tmp_path / "raw_events" / "_delta_log").iterdir() if path.name.endswith("1.json"))
    added = [json.loads(line)["add"] for line in log.read_text().splitlines() if "add" in json.loads(line)]
    statistics = json.loads(added[0]["stats"])
    assert statistics["numRecords"] == 5
    assert set(statistics["maxValues"]) == set(RAW_EVENTS.skipping_columns)
    (file,) = handle.file_uris()
    group = pq.ParquetFile(file).metadata.row_group(0)
    chunks = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    assert chunks["offset"].statistics.max == 4
    assert chunks["value"].statistics is None
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}


def test_a_column_that_a_later_release_added_is_filled_with_nulls(tmp_path: Path) -> None:
    columns = pa.schema([*arrow_schema(RAW_EVENTS), pa.field("channel", pa.string())])
    DeltaTable.create(tmp_path / "raw_events", schema=columns, partition_by=["append_date"])
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    appender.append([part(range(3))])
    assert appender.append([part(range(5))]) == TableCounts(written=2, dropped=3)
    rows = DeltaTable(tmp_path / "raw_events").to_pyarrow_table(columns=["offset", "channel"]).sort_by("offset")
    assert rows.to_pydict() == {"offset": [0, 1, 2, 3, 4], "channel": [None] * 5}


def test_a_column_of_a_later_release_that_must_be_written_is_refused(tmp_path: Path) -> None:
    columns = pa.schema([*arrow_schema(RAW_EVENTS), pa.field("channel", pa.string(), nullable=False)])
    DeltaTable.create(tmp_path / "raw_events", schema=columns, partition_by=["append_date"])
    with pytest.raises(LakeMismatchError, match="differ from those of this release in channel"):
        DeltaAppender(tmp_path, RAW_EVENTS).append([part(range(3))])
