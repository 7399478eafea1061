"""How much of feature_log is kept: a state per interval, and for how many days."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pydantic import ValidationError

from config.lake import LakeSettings
from sinks.delta import open_or_create
from sinks.dropping_days import drop_days, old_days
from sinks.lake import LakeSink, newest_of
from sinks.lake_reads import held_offset
from sinks.maintenance import maintain_lake
from sinks.rows import FeatureLogRow, PartitionFlush
from sinks.tables import FEATURE_LOG
from tests.rows import flush

DAY_MS = 86_400_000


def pushed(offset: int, servable_ms: int) -> PartitionFlush:
    """Return a flush of one raw event and its state."""
    made = flush([offset], features=[offset])
    return replace(made, features=[row._replace(servable_ms=servable_ms) for row in made.features])


def lake_of_days(folder: Path, ages: tuple[int, ...]) -> Path:
    """Write a feature_log with a row of so many days ago each, and a raw event beside each."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    sink = LakeSink(folder)
    for offset, age in enumerate(ages):
        sink.write([pushed(offset, now_ms - age * DAY_MS)])
    return folder


def days_of(lake: Path) -> list[int]:
    """Return how old the days are that feature_log holds."""
    column = DeltaTable(lake / FEATURE_LOG.name).to_pyarrow_table(columns=["servable_date"]).column(0)
    today = datetime.now(UTC).date()
    return sorted(((today - day).days for day in column.to_pylist()), reverse=True)


def test_days_older_than_kept_go_and_nothing_else(tmp_path: Path) -> None:
    lake = lake_of_days(tmp_path, (9, 9, 5, 4, 3, 0))
    dry = maintain_lake(lake, retention_hours=24, feature_log_days=4, dry_run=True)
    assert {table.name: table.dropped_days for table in dry.tables} == {"raw_events": 0, "feature_log": 2}
    assert days_of(lake) == [9, 9, 5, 4, 3, 0]
    told: list[str] = []
    done = maintain_lake(lake, retention_hours=24, feature_log_days=4, progress=told.append)
    assert {table.name: (table.dropped_days, table.dropped_files) for table in done.tables} == {
        "raw_events": (0, 0),
        "feature_log": (2, 3),
    }
    assert days_of(lake) == [4, 3, 0]
    assert any("2 days before" in line for line in told)
    again = {table.name: table for table in maintain_lake(lake, retention_hours=24, feature_log_days=4).tables}
    assert (again["feature_log"].dropped_days, again["feature_log"].merged_days) == (0, 0)


def test_everything_stays_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    lake = lake_of_days(tmp_path, (4000, 0))
    maintain_lake(lake, retention_hours=24)
    assert days_of(lake) == [4000, 0]


def test_a_worker_neither_stands_against_it_nor_writes_the_rows_again(tmp_path: Path) -> None:
    lake = lake_of_days(tmp_path, (9, 8))
    stale = open_or_create(lake / FEATURE_LOG.name, FEATURE_LOG)
    sink = LakeSink(lake)
    sink.write([pushed(2, int(datetime.now(UTC).timestamp() * 1000))])
    first = datetime.now(UTC).date() - timedelta(days=2)
    assert sum(drop_days(stale, FEATURE_LOG, first).values()) == 2  # though the table went on since
    assert days_of(lake) == [0]
    told = sink.write([flush(range(3), features=range(3))])
    assert told.tables["feature_log"].written == 0
    assert held_offset(lake, FEATURE_LOG, "tid", 0) is not None


def test_nothing_to_drop_writes_nothing(tmp_path: Path) -> None:
    handle = DeltaTable(lake_of_days(tmp_path, (0,)) / FEATURE_LOG.name)
    assert not old_days(handle, FEATURE_LOG, None)
    assert not drop_days(handle, FEATURE_LOG, date(2020, 1, 1))
    assert DeltaTable(tmp_path / FEATURE_LOG.name).version() == handle.version()


def test_a_day_is_too_little_for_windows_of_24_hours() -> None:
    with pytest.raises(ValidationError, match="feature_log_retention_days must be 0 or at least 2"):
        LakeSettings(feature_log_retention_days=1)
    assert LakeSettings(feature_log_retention_days=2).feature_log_retention_days == 2


def row(user_id: str, version: int, servable_ms: int) -> FeatureLogRow:
    return FeatureLogRow(user_id, version, b"state %d" % version, servable_ms)


def test_of_a_flush_the_newest_state_of_each_user_and_interval_is_logged(tmp_path: Path) -> None:
    rows = [
        row("u1", 1, 10_000), row("u2", 2, 10_001), row("u1", 3, 10_900),
        row("u1", 4, 11_000), row("u2", 5, 12_500), row("u2", 6, 12_400),
    ]  # fmt: skip
    assert [each.version for each in newest_of(rows, 1_000)] == [2, 3, 4, 6]
    made = replace(flush(range(6), features=range(6)), features=rows)
    sink = LakeSink(tmp_path, feature_log_interval_ms=1_000)
    assert sink.write([made]).tables["feature_log"].written == 4
    assert sink.write([made]).tables["feature_log"].written == 0
    versions = DeltaTable(tmp_path / FEATURE_LOG.name).to_pyarrow_table(columns=["version"]).column(0).to_pylist()
    assert sorted(versions) == [2, 3, 4, 6]
    assert DeltaTable(tmp_path / "raw_events").to_pyarrow_table().num_rows == 6
