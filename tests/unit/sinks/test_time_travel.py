"""Reading real Delta tables as they were: by version, by instant, and when that is gone."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from config.errors import SettingsError
from config.settings import load_settings
from sinks.delta import DeltaAppender, open_or_create, opened
from sinks.erasures import ErasureRow, note_erasures, read_erasures
from sinks.errors import LakeNotLocalError, LakePinnedError, LakeVersionError
from sinks.lake import LakeSink
from sinks.lake_reads import PartitionLog, table_counts
from sinks.lake_root import Lake, LakeRoot, Pin, RootedTable, is_there, lake_of, local_folder, pinned
from sinks.maintenance import maintain_lake
from sinks.tables import RAW_EVENTS
from sinks.time_travel import version_instant
from sinks.user_events import event_counts, lake_position
from tests.rows import flush

LOG = PartitionLog("tid:4", "shop.clicks.v1", 0)


def written(lake: Path, flushes: int) -> list[datetime]:
    """Write flushes of one row each; return an instant after each."""
    sink = LakeSink(lake)
    instants = []
    for offset in range(flushes):
        sink.write([flush([offset])])
        instants.append(after_the_newest_commit(lake))
    return instants


def after_the_newest_commit(lake: Path) -> datetime:
    """Return an instant later than any commit so far, once the clock has passed it."""
    instant = datetime.now(UTC)
    while datetime.now(UTC) - instant < timedelta(milliseconds=2):
        pass
    return instant


def at(lake: Path, version: int) -> LakeRoot:
    return pinned(lake, Pin({"raw_events": version}))


def rows(lake: Lake) -> int:
    return event_counts(lake, LOG).total()


def test_a_version_and_an_instant_are_read_as_they_were(tmp_path: Path) -> None:
    instants = written(tmp_path, 4)  # version 0 is the empty table
    assert [rows(at(tmp_path, version)) for version in range(5)] == [0, 1, 2, 3, 4]
    assert [rows(pinned(tmp_path, Pin(instant=instant))) for instant in instants] == [1, 2, 3, 4]
    assert lake_position(at(tmp_path, 2), LOG) == 2
    assert lake_position(tmp_path, LOG) == 4
    assert table_counts(at(tmp_path, 3))["raw_events"] == 3
    moment = version_instant(RootedTable(str(tmp_path / "raw_events"), pin=2))
    assert instants[0] - timedelta(milliseconds=1) <= moment <= instants[1]


def test_before_a_table_was_made_there_is_none(tmp_path: Path) -> None:
    (first, *_) = written(tmp_path, 1)
    assert opened(pinned(tmp_path, Pin(instant=first - timedelta(hours=1))) / "raw_events") is None
    assert opened(pinned(tmp_path, Pin(instant=first)) / "no_such_table") is None


def test_a_version_that_was_never_written_is_refused_with_those_that_can_be_read(tmp_path: Path) -> None:
    written(tmp_path, 2)
    with pytest.raises(LakeVersionError) as caught:
        rows(at(tmp_path, 9))
    assert (
        "raw_events cannot be read at version 9: it was never written. The oldest version that can be read is 0"
        in str(caught.value)
    )
    assert "the newest is 2" in str(caught.value)
    with pytest.raises(LakeVersionError, match="The lake has no table raw_events"):
        rows(at(tmp_path / "elsewhere", 1))


def test_a_version_whose_files_were_deleted_names_the_oldest_that_is_left(tmp_path: Path) -> None:
    instants = written(tmp_path, 4)
    maintain_lake(tmp_path, retention_hours=168)  # one compaction
    merged = DeltaTable(tmp_path / "raw_events").version()
    DeltaTable(tmp_path / "raw_events").vacuum(0, dry_run=False, enforce_retention_duration=False)
    oldest = next(
        version
        for version in range(merged + 1)
        if DeltaTable(tmp_path / "raw_events", version=version).file_uris()
        and all(Path(file).exists() for file in DeltaTable(tmp_path / "raw_events", version=version).file_uris())
    )
    for lake in (at(tmp_path, 2), pinned(tmp_path, Pin(instant=instants[1]))):
        with pytest.raises(
            LakeVersionError, match=f"cleared away since. The oldest version that can be read is {oldest} of"
        ):
            rows(lake)
    assert rows(at(tmp_path, oldest)) == 4


def test_a_version_that_the_log_has_forgotten_names_the_oldest_that_is_left(tmp_path: Path) -> None:
    instants = written(tmp_path, 4)
    table = DeltaTable(tmp_path / "raw_events")
    table.create_checkpoint()
    for path in (tmp_path / "raw_events" / "_delta_log").iterdir():
        os.utime(path, (time.time() - 7_200,) * 2)
    DeltaTable(tmp_path / "raw_events").cleanup_metadata()
    for lake in (at(tmp_path, 2), pinned(tmp_path, Pin(instant=instants[1]))):
        with pytest.raises(LakeVersionError, match="The oldest version that can be read is 4 of"):
            rows(lake)
    assert rows(at(tmp_path, 4)) == 4
    assert rows(pinned(tmp_path, Pin(instant=datetime.now(UTC)))) == 4


def test_what_was_erased_since_stays_erased_whatever_moment_is_read(tmp_path: Path) -> None:
    (before, *_) = written(tmp_path, 1)
    note_erasures(tmp_path, [ErasureRow("r", "requested", "hash", "key", "tid:4", "shop.clicks.v1", 0, 7, 1)])
    assert len(read_erasures(pinned(tmp_path, Pin(instant=before)))) == 1


def test_nothing_is_written_through_a_pin(tmp_path: Path) -> None:
    written(tmp_path, 2)
    lake = at(tmp_path, 1)
    for write in (
        lambda: LakeSink(lake),
        lambda: DeltaAppender(lake, RAW_EVENTS),
        lambda: open_or_create(lake / "raw_events", RAW_EVENTS),
        lambda: note_erasures(pinned(tmp_path, Pin(instant=datetime.now(UTC))), []),
        lambda: local_folder(lake, "This"),
    ):
        with pytest.raises(LakePinnedError, match="it is read as of an earlier moment"):
            write()
    assert DeltaTable(tmp_path / "raw_events").version() == 2


def test_a_lake_is_where_the_settings_say(tmp_path: Path) -> None:
    local = load_settings({"lake": {"path": tmp_path}})
    assert lake_of(local) == tmp_path
    assert str(lake_of(local, Pin({"raw_events": 3})) / "raw_events") == str(tmp_path / "raw_events")
    remote = load_settings(
        {"lake": {"path": "s3://bucket/some/lake/", "s3_access_key_id": "me", "s3_secret_access_key": "hidden"}}
    )
    lake = lake_of(remote)
    assert isinstance(lake, LakeRoot)
    assert (str(lake), is_there(lake)) == ("s3://bucket/some/lake", True)
    table = lake / "raw_events"
    assert (str(table), table.name) == ("s3://bucket/some/lake/raw_events", "raw_events")
    assert table.storage_options["conditional_put"] == "etag"
    assert "hidden" not in repr(lake) + repr(table)
    with pytest.raises(LakeNotLocalError, match="A rehearsal needs a lake in a local folder"):
        local_folder(lake, "A rehearsal")
    with pytest.raises(SettingsError, match=r"needs a lake in a local folder, and lake.path is s3://bucket/some/lake"):
        _ = remote.lake_path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": "gs://bucket/lake"}, "lake.path must be a folder or s3://bucket/prefix"),
        ({"path": "s3:/bucket"}, "lake.path must be a folder or s3://bucket/prefix"),
        ({"path": "s3://me:hunter2@bucket/x"}, "lake.path must be a folder or s3://bucket/prefix"),
        ({"s3_access_key_id": "me"}, "must be set together"),
        ({"s3_session_token": "t"}, "without lake.s3_access_key_id"),
        ({"s3_endpoint": "127.0.0.1:9000"}, "lake.s3_endpoint must be http://host:port"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load_settings({"lake": given})
    assert "hunter2" not in str(caught.value)
