"""The lake in an object store: exact appends of two writers, upkeep, reading, time travel, and refusals."""

import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from config.errors import SettingsError
from config.settings import Settings, load_settings
from replay.sessions import make_sessions
from replay.sources import LakeSource
from sinks import leases
from sinks.delta import opened
from sinks.errors import LakeBusyError, LakeNotLocalError, LakePinnedError, LakeUnavailableError
from sinks.lake import LakeSink
from sinks.lake_lock import exclusive
from sinks.lake_reads import PartitionLog, offsets, table_counts
from sinks.lake_root import LakeRoot, Pin, lake_of, local_folder, pinned
from sinks.maintenance import maintain_lake
from sinks.tables import RAW_EVENTS
from sinks.user_events import event_counts
from tests.rows import flush
from tests.s3_server import KEY, REGION, SECRET, put, s3_server

LOG = PartitionLog("tid:4", "shop.clicks.v1", 0)
DAY = date(2023, 11, 14)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as address:
        assert put(address, "the-bucket") == 200
        yield address


def settings_of(server: str, prefix: str, **more: str) -> Settings:
    lake = {
        "path": f"s3://the-bucket/{prefix}", "s3_endpoint": server, "s3_region": REGION,
        "s3_access_key_id": KEY, "s3_secret_access_key": SECRET,
    }  # fmt: skip
    return load_settings({"lake": lake | more})


def lake_at(server: str, prefix: str) -> LakeRoot:
    lake = lake_of(settings_of(server, prefix))
    assert isinstance(lake, LakeRoot)
    return lake


def test_of_many_who_put_one_key_that_must_not_be_there_one_succeeds(server: str) -> None:
    for number in range(5):
        gate = threading.Barrier(6)
        statuses: list[int] = []

        def work(key: str, gate: threading.Barrier, statuses: list[int]) -> None:
            gate.wait()
            statuses.append(put(server, f"the-bucket/{key}", key.encode(), If_None_Match="*"))

        threads = [threading.Thread(target=work, args=(f"key-{number}", gate, statuses)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 412, 412, 412, 412, 412]


def test_two_workers_who_write_the_same_log_write_each_row_once(server: str) -> None:
    lake = lake_at(server, "two-writers")
    failures: list[LakeUnavailableError] = []

    def work(stretch: int) -> None:
        sink = LakeSink(lake)
        for first in range(0, 12, stretch):
            rows = range(first, first + stretch)
            while True:
                try:
                    sink.write([flush(rows, features=rows)])
                    break
                except LakeUnavailableError as error:  # the other was first too often: the same flush again
                    failures.append(error)
                    assert len(failures) < 20

    threads = [threading.Thread(target=work, args=(stretch,)) for stretch in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert offsets(lake, RAW_EVENTS) == {("shop.clicks.v1", 0): list(range(12))}
    assert table_counts(lake)["feature_log"] == 12


def test_upkeep_reading_and_time_travel(server: str) -> None:
    lake = lake_at(server, "kept")
    sink = LakeSink(lake)
    for offset in range(3):
        sink.write([flush([offset])])
    source = LakeSource(lake)
    assert source.position(LOG) == 3
    assert [entry[0] for piece in source.in_log_order(LOG, 0, 3) for entry in piece] == [0, 1, 2]
    with leases.reading(lake, "a replay"):
        report = maintain_lake(lake, retention_hours=24)
        (reader,) = report.readers
        assert reader.reader.startswith("a replay (process ")
    assert leases.leases(lake) == []
    (raw,) = report.tables
    assert (raw.name, raw.before.files, raw.after.files, raw.after.disk_files) == ("raw_events", 3, 1, 4)
    with exclusive(lake), pytest.raises(LakeBusyError):
        maintain_lake(lake, retention_hours=24)
    past = pinned(lake, Pin({"raw_events": 2}))
    assert [event_counts(place, LOG).total() for place in (past, lake)] == [2, 3]
    sink.write([flush([2, 3])])  # the handle of before the merge
    assert event_counts(lake, LOG).total() == 4


def test_sessions_are_made_there(server: str) -> None:
    lake = lake_at(server, "sessions")
    LakeSink(lake).write([flush([0, 3_600_000])])  # the append of the second is an hour later
    (day,) = make_sessions(lake, DAY, DAY, None).days
    assert day.sessions == 1
    handle = opened(lake / "sessions")
    assert handle is not None
    assert handle.to_pyarrow_table().column("user_id").to_pylist() == ["u1"]


def test_what_works_on_files_is_refused_with_the_way_out(server: str, tmp_path: Path) -> None:
    lake = lake_at(server, "refused")
    with pytest.raises(LakeNotLocalError, match=r"An erasure needs a lake in a local folder.*keep-the-lake-on-s3"):
        local_folder(lake, "An erasure")
    with pytest.raises(LakePinnedError):
        LakeSink(pinned(lake, Pin({"raw_events": 1}))).write([flush([0])])
    with pytest.raises(SettingsError, match="needs a lake in a local folder"):
        _ = settings_of(server, "refused").lake_path
    done = CliRunner().invoke(
        app, ["--home", str(tmp_path), "--set", "lake.path=s3://the-bucket/refused", "--set",
              "privacy.key=a key of the tests, long enough", "lake", "erase", "u1", "--yes"],
    )  # fmt: skip
    assert isinstance(done.exception, LakeNotLocalError)
