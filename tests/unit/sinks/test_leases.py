"""Readers that take long, and upkeep beside them: what they need stays; and two that want the upkeep of one lake."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sinks import lake_lock, leases
from sinks.errors import LakeBusyError, LakePinnedError, LakeVersionError
from sinks.lake import LakeSink
from sinks.lake_lock import UPKEEP_LOCK, exclusive, repeated
from sinks.lake_reads import PartitionLog
from sinks.lake_root import LakeRoot, Pin, pinned
from sinks.maintenance import maintain_lake
from sinks.user_events import event_counts
from tests.rows import flush
from tests.waiting import wait_until

HOUR_S = 3_600
LOG = PartitionLog("tid:4", "shop.clicks.v1", 0)


def lake_of_flushes(folder: Path, flushes: int = 4) -> Path:
    sink = LakeSink(folder)
    for offset in range(flushes):
        sink.write([flush([offset])])
    return folder


def age_all(folder: Path, hours: float) -> None:
    then = time.time() - hours * HOUR_S
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_a_reader_is_told_while_it_reads_and_not_after(tmp_path: Path) -> None:
    lake = lake_of_flushes(tmp_path)
    with leases.reading(lake, "replay 17"):
        (lease,) = leases.leases(lake)
        assert lease.reader.startswith("replay 17 (process ")
        assert abs(lease.since_ms - time.time() * 1000) < 60_000
        (told,) = maintain_lake(lake, retention_hours=24).readers
        assert told == lease
    assert leases.leases(lake) == []


def test_a_lake_that_is_not_there_needs_no_lease_and_gets_none(tmp_path: Path) -> None:
    with leases.reading(tmp_path / "lake", "replay"):
        assert not (tmp_path / "lake").exists()


def test_files_that_a_long_reader_may_need_outlive_the_retention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of_flushes(tmp_path)
    monkeypatch.setattr(leases, "_since_ms", lambda _: time.time_ns() // 1_000_000 - 40 * HOUR_S * 1000)
    maintain_lake(lake, retention_hours=24, open_day=True)
    replaced = set((lake / "raw_events").glob("append_date=*/*.parquet"))
    assert len(replaced) == 5
    left = lake / "raw_events" / "append_date=2023-11-14" / "left-by-a-crash.parquet"
    left.write_bytes(next(iter(replaced)).read_bytes())
    os.utime(left, (time.time() - 30 * HOUR_S,) * 2)
    with leases.reading(lake, "a replay of 40 h"):
        told: list[str] = []
        report = maintain_lake(lake, retention_hours=24, progress=told.append)
        assert report.retention_hours == 41
        assert "replaced files are kept for 41 h: a replay of 40 h" in told[0]
        assert left.exists()
    assert maintain_lake(lake, retention_hours=24).retention_hours == 24
    assert not left.exists()


def test_a_lease_that_was_not_renewed_belongs_to_a_dead_process(tmp_path: Path) -> None:
    lake = lake_of_flushes(tmp_path)
    with leases.reading(lake, "replay"):
        (path,) = (lake / leases.FOLDER).iterdir()
        age_all(lake / leases.FOLDER, leases.DEAD_AFTER_S / HOUR_S + 0.1)
        assert leases.leases(lake) == []
        path.write_text("{half")
        assert leases.leases(lake) == []


def test_a_lease_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED_S", 0.01)
    lake = lake_of_flushes(tmp_path)
    with leases.reading(lake, "replay"):
        age_all(lake / leases.FOLDER, 1.0)
        wait_until(lambda: len(leases.leases(lake)) == 1, 30, "the lease was not renewed")


def test_a_reader_of_the_past_needs_files_since_then(tmp_path: Path) -> None:
    lake = lake_of_flushes(tmp_path)
    instant = datetime.now(UTC) - timedelta(hours=3)
    with leases.reading(pinned(lake, Pin(instant=instant)), "audit"):
        (lease,) = leases.leases(lake)
        assert lease.since_ms == round(instant.timestamp() * 1000)
        assert leases.hours_to_keep([lease], 1) == 4
    with leases.reading(pinned(lake, Pin({"raw_events": 1})), "audit"):
        (lease,) = leases.leases(lake)
        assert lease.since_ms <= time.time_ns() // 1_000_000
    with pytest.raises(LakeVersionError), leases.reading(pinned(lake, Pin({"raw_events": 99})), "audit"):
        pytest.fail("there is no such version")


def test_a_reader_without_leave_to_write_reads_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lake = lake_of_flushes(tmp_path)
    (lake / leases.FOLDER).write_text("a file, where the folder should be")
    with leases.reading(lake, "replay"):
        assert event_counts(lake, LOG).total() == 4
    assert "no lease can be written" in caplog.text


def test_a_step_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def step() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("the disk is away")

    with repeated(step, 0.01, "lease"):
        wait_until(lambda: len(tries) > 2, 30, "it was not tried again")
    assert "tried again in 0.01 s: the disk is away" in caplog.text


def test_nobody_maintains_a_lake_of_the_past(tmp_path: Path) -> None:
    lake = lake_of_flushes(tmp_path)
    with pytest.raises(LakePinnedError), exclusive(pinned(lake, Pin({"raw_events": 1}))):
        pytest.fail("it is pinned")


# The rows are what an object store is locked by; a folder serves as one here.


def test_of_many_that_take_the_row_lock_at_once_one_has_it(tmp_path: Path) -> None:
    rows = [lake_lock._LockRow(tmp_path / UPKEEP_LOCK.name, f"holder {number}") for number in range(4)]
    assert rows[0].take(60.0)
    rows[0].take(0.0)
    gate, taken = threading.Barrier(4), []

    def work(row: lake_lock._LockRow) -> None:
        gate.wait()
        taken.append(row.take(60.0))

    threads = [threading.Thread(target=work, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(True) == 1


def test_the_row_lock_is_held_until_it_is_let_go_or_runs_out(tmp_path: Path) -> None:
    first, second = (lake_lock._LockRow(tmp_path / UPKEEP_LOCK.name, name) for name in ("a", "b"))
    assert first.take(60.0)
    assert not second.take(60.0)
    assert first.take(60.0)  # renewed
    assert first.take(0.0)
    assert second.take(0.02)
    wait_until(lambda: first.take(60.0), 30, "the lock of the one that died holds on")


def test_a_remote_lake_is_locked_by_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_lock, "is_remote", lambda _: True)
    lake = LakeRoot(str(tmp_path))
    with exclusive(lake), pytest.raises(LakeBusyError), exclusive(lake):
        pytest.fail("somebody else has it")
    with exclusive(lake):
        pass
