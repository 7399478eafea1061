"""Upkeep of real Delta tables: what it merges and deletes, and that nothing beside it loses or doubles rows."""

import json
import os
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from msgspec import structs

from config.lake import LakeSettings
from sinks import maintenance
from sinks.arrow_rows import raw_events
from sinks.delta import DeltaAppender, TablePart, open_or_create
from sinks.errors import LakeBusyError
from sinks.lake import LakeSink
from sinks.lake_reads import Stretch, held_offset, offsets, read_raw
from sinks.maintenance import GROUP_ROWS, Upkeep, exclusive, maintain_lake, maintain_table
from sinks.rows import PartitionFlush, RawRow, TableCounts
from sinks.tables import RAW_EVENTS
from tests.rows import flush, raw_row, record
from tests.waiting import wait_until

DAY = date(2023, 11, 14)
ALL_DAYS = Upkeep(retention_hours=24, before=None)
HOUR_S = 3_600


def part(offsets: range, partition: int = 0) -> TablePart:
    return TablePart(f"tid-{partition}-raw_events", offsets[-1], raw_events(flush(offsets, partition=partition)))


def part_of_today(offset: int) -> TablePart:
    now = structs.replace(record(offset), append_time_ms=int(time.time() * 1_000))
    rows = PartitionFlush(
        "shop.clicks.v1", "tid", "tid:4", 0, offset, offset, [RawRow(now, raw_row(offset).event, 1, 1)]
    )
    return TablePart("tid-0-raw_events", offset, raw_events(rows))


def delete_replaced_files(lake: Path) -> list[str]:
    """Delete at once what no version but an older one refers to."""
    return DeltaTable(lake / "raw_events").vacuum(0, dry_run=False, enforce_retention_duration=False)


def age(folder: Path, hours: float) -> None:
    """Make every file of a folder look so old."""
    moment = time.time() - hours * HOUR_S
    for path in folder.iterdir():
        if path.is_file():
            os.utime(path, (moment, moment))


def test_small_files_of_closed_days_become_one_and_every_row_stays(tmp_path: Path) -> None:
    sink = LakeSink(tmp_path)
    for offset in range(0, 30, 3):
        sink.write([flush([offset], features=[offset], letters=[offset + 1])])
    lines: list[str] = []
    report = maintain_lake(tmp_path, retention_hours=168, progress=lines.append)
    assert [table.name for table in report.tables] == ["raw_events", "feature_log", "dead_letters"]
    for table in report.tables:
        assert (table.before.files, table.after.files) == (10, 1)
        assert (table.merged_days, table.merged_files, table.deleted_files, table.conflicts) == (1, 10, 0, 0)
        assert (table.before.disk_files, table.after.disk_files) == (10, 11)
    assert [row.record.offset for row in read_raw(tmp_path, Stretch("tid:4", "shop.clicks.v1", 0))] == [
        *range(0, 30, 3)
    ]
    assert any(line.startswith("raw_events 2023-11-14: 10 files merged into 1") for line in lines)
    again = maintain_lake(tmp_path, retention_hours=168)
    assert [(table.merged_files, table.merged_days) for table in again.tables] == [(0, 0)] * 3


def test_todays_files_are_left_alone_unless_asked_for(tmp_path: Path) -> None:
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    for offset in range(3):
        appender.append([part_of_today(offset)])
    assert maintain_lake(tmp_path, retention_hours=168).tables[0].merged_files == 0
    (table,) = maintain_lake(tmp_path, retention_hours=168, open_day=True).tables
    assert (table.merged_files, table.after.files) == (3, 1)
    assert offsets(tmp_path, RAW_EVENTS) == {("shop.clicks.v1", 0): [0, 1, 2]}


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(tmp_path: Path) -> None:
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    for offset in range(4):
        appender.append([part(range(offset, offset + 1))])
    version = DeltaTable(tmp_path / "raw_events").version()
    report = maintain_lake(tmp_path, retention_hours=168, dry_run=True)
    (table,) = report.tables
    assert (table.merged_days, table.merged_files, table.before) == (1, 4, table.after)
    assert DeltaTable(tmp_path / "raw_events").version() == version
    assert json.loads(json.dumps(report.payload()))["tables"][0]["merged_files"] == 4


def test_a_lake_that_was_never_written_has_nothing_to_maintain(tmp_path: Path) -> None:
    assert maintain_lake(tmp_path / "none", retention_hours=168).tables == ()
    assert maintain_lake(tmp_path, retention_hours=168).tables == ()
    assert not (tmp_path / "none").exists()


def test_merged_files_keep_compression_and_the_statistics_that_skip_files_and_groups(tmp_path: Path) -> None:
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    row_count = GROUP_ROWS + 1_000
    rows = part(range(row_count)).rows
    for first in range(0, row_count, 20_000):
        some = rows.slice(first, 20_000)
        appender.append([TablePart("tid-0-raw_events", first + some.num_rows - 1, some)])
    maintain_table(tmp_path, RAW_EVENTS, ALL_DAYS)
    handle = DeltaTable(tmp_path / "raw_events")
    (file,) = handle.file_uris()
    (statistics,) = (json.loads(add["stats"]) for add in _adds(tmp_path / "raw_events", merged=True))
    assert set(statistics["maxValues"]) == set(RAW_EVENTS.skipping_columns)
    metadata = pq.ParquetFile(file).metadata
    assert metadata.num_row_groups == 2
    group = metadata.row_group(0)
    chunks = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    assert group.num_rows == GROUP_ROWS
    assert chunks["offset"].statistics is not None
    assert chunks["value"].statistics is None
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    read = [row.record.offset for row in read_raw(tmp_path, Stretch("tid:4", "shop.clicks.v1", 0), rows_at_once=10_000)]
    assert read == list(range(row_count))


def _adds(table: Path, *, merged: bool) -> list[dict[str, str]]:
    adds = []
    for path in sorted((table / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in path.read_text().splitlines()]
        if merged == any(action.get("commitInfo", {}).get("operation") == "OPTIMIZE" for action in actions):
            adds += [action["add"] for action in actions if "add" in action]
    return adds


def test_a_worker_that_appends_meanwhile_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Every append brings the rows of the one before it again, as after a crash; two partitions, one commit each."""
    appenders = [DeltaAppender(tmp_path, RAW_EVENTS), DeltaAppender(tmp_path, RAW_EVENTS)]
    counts: Counter[str] = Counter()
    failures: list[BaseException] = []
    rounds = 60
    done = threading.Event()

    def append(partition: int) -> None:
        try:
            for number in range(rounds):
                first = max(0, 7 * (number - 1))
                told = appenders[partition].append([part(range(first, 7 * number + 7), partition)])
                counts["written"] += told.written
        except BaseException as error:  # noqa: BLE001 - a test's thread tells what ended it
            failures.append(error)
        finally:
            done.set()

    threads = [threading.Thread(target=append, args=(partition,)) for partition in range(2)]
    for thread in threads:
        thread.start()
    wait_until((tmp_path / "raw_events" / "_delta_log").exists, 30, "nothing was appended")
    merged = deleted = runs = 0
    while not done.is_set() or runs < 2:
        report = maintain_table(tmp_path, RAW_EVENTS, ALL_DAYS)
        if report is not None:
            merged, runs = merged + report.merged_files, runs + 1
            deleted += len(delete_replaced_files(tmp_path))
    for thread in threads:
        thread.join()
    assert failures == []
    assert merged > 0
    assert deleted > 0
    expected = list(range(7 * rounds))
    assert offsets(tmp_path, RAW_EVENTS) == {("shop.clicks.v1", partition): expected for partition in range(2)}
    assert counts["written"] == 2 * len(expected)
    assert [held_offset(tmp_path, RAW_EVENTS, "tid", partition) for partition in range(2)] == [expected[-1]] * 2


def test_a_handle_from_before_a_merge_and_a_deletion_still_appends_exactly(tmp_path: Path) -> None:
    worker, other = DeltaAppender(tmp_path, RAW_EVENTS), DeltaAppender(tmp_path, RAW_EVENTS)
    # offsets 4 to 6 were dead letters once, and can be read now: to know, the worker must look into the files
    for offset in (0, 1, 2, 3, 7, 8, 9):
        worker.append([part(range(offset, offset + 1))])
    other.append([part(range(3), partition=1)])
    maintain_table(tmp_path, RAW_EVENTS, ALL_DAYS)
    assert len(delete_replaced_files(tmp_path)) == 8
    assert worker.append([part(range(12))]) == TableCounts(written=5, dropped=7)
    assert other.append([part(range(6), partition=1)]) == TableCounts(written=3, dropped=3)
    assert offsets(tmp_path, RAW_EVENTS) == {
        ("shop.clicks.v1", 0): list(range(12)),
        ("shop.clicks.v1", 1): list(range(6)),
    }


def test_what_is_held_of_each_partition_outlives_merge_checkpoint_and_cleaned_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "LOG_FILES_LEFT_ALONE", 0)
    sink = LakeSink(tmp_path)
    for offset in range(5):
        sink.write([flush([offset], partition=partition, features=[offset]) for partition in range(3)])
    log = tmp_path / "raw_events" / "_delta_log"
    age(log, hours=7)
    (table, *_) = maintain_lake(tmp_path, retention_hours=168).tables
    assert table.after.log_files < table.before.log_files
    assert "00000000000000000000.json" not in {path.name for path in log.iterdir()}
    assert [held_offset(tmp_path, RAW_EVENTS, "tid", partition) for partition in range(3)] == [4, 4, 4]
    # neither the worker that runs nor one that starts writes anything twice
    for worker in (sink, LakeSink(tmp_path)):
        told = worker.write([flush(range(5), partition=partition, features=range(5)) for partition in range(3)])
        assert [counts.written for counts in told.tables.values()] == [0, 0, 0]


def test_files_stay_for_the_retention_and_what_a_crash_left_as_well(tmp_path: Path) -> None:
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    for offset in range(3):
        appender.append([part(range(offset, offset + 1))])
    folder = tmp_path / "raw_events" / f"append_date={DAY}"
    left = folder / "part-00000-left-by-a-crash.parquet"
    left.write_bytes(b"PAR1")
    # all were written long ago, but replaced only now
    age(folder, hours=1_000)
    younger = folder / "part-00000-being-written.parquet"
    younger.write_bytes(b"PAR1")
    (table,) = maintain_lake(tmp_path, retention_hours=800).tables
    assert table.deleted_files == 1
    assert not left.exists()
    assert younger.exists()
    assert len(list(folder.iterdir())) == 5
    configuration = DeltaTable(tmp_path / "raw_events").metadata().configuration
    # Delta forgets after a week what was replaced, and would take it for what a crash left
    assert configuration["delta.deletedFileRetentionDuration"] == "interval 800 hours"
    assert appender.append([part(range(5))]) == TableCounts(written=2, dropped=3)


def test_a_retention_that_readers_could_not_live_with_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 24"):
        LakeSettings(retention_hours=23)
    assert LakeSettings().retention_hours == 168


def test_a_second_run_at_the_same_time_is_refused_in_a_sentence(tmp_path: Path) -> None:
    open_or_create(tmp_path / "raw_events", RAW_EVENTS)
    with exclusive(tmp_path), pytest.raises(LakeBusyError, match=r"is at work on .*\. Wait until it has ended"):
        maintain_lake(tmp_path, retention_hours=168)
    assert len(maintain_lake(tmp_path, retention_hours=168).tables) == 1


def test_runs_started_together_do_the_work_once(tmp_path: Path) -> None:
    """Delta would let two compactions of the same files pass, and every row would be there twice."""
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    for offset in range(40):
        appender.append([part(range(offset, offset + 1))])
    merged: list[int] = []
    refused: list[LakeBusyError] = []
    together = threading.Barrier(4)

    def run() -> None:
        together.wait()
        try:
            merged.append(maintain_lake(tmp_path, retention_hours=168).tables[0].merged_files)
        except LakeBusyError as error:
            refused.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(merged) + len(refused) == 4
    assert sum(merged) == 40
    assert offsets(tmp_path, RAW_EVENTS) == {("shop.clicks.v1", 0): list(range(40))}
    assert appender.append([part(range(45))]) == TableCounts(written=5, dropped=40)
