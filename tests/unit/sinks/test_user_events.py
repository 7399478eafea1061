"""The events of a partition's users are read back whole, in either order."""

from pathlib import Path

import pytest

from schemas.event import CLICKS_TOPIC, Event, Record
from sinks import user_events
from sinks.lake import LakeSink
from sinks.lake_reads import PartitionLog
from sinks.rows import PartitionFlush, RawRow
from sinks.user_events import (
    LakeReach,
    event_counts,
    events_in_log_order,
    events_in_time_order,
    first_record,
    lake_position,
    lake_reach,
)
from tests.rows import NOON_MS, flush, letter

LOG = PartitionLog("tid:4", CLICKS_TOPIC, 0)


def write(lake: Path, offsets: range, *, user: str = "a", partition: int = 0, epoch: str = "tid:4") -> None:
    rows = [
        RawRow(
            Record(CLICKS_TOPIC, partition, offset, NOON_MS + offset, b"k", b"v"),
            Event(event_id=f"e{offset}", kind="click", user_id=user, event_time_ms=NOON_MS - offset, product_id="p"),
            1,
            NOON_MS,
        )
        for offset in offsets
    ]
    topic_id = epoch.partition(":")[0]
    LakeSink(lake).write([PartitionFlush(CLICKS_TOPIC, topic_id, epoch, partition, offsets[0], offsets[-1], raw=rows)])


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write(tmp_path, range(3, 8))
    write(tmp_path, range(8, 12), user="b")
    write(tmp_path, range(12, 14))
    write(tmp_path, range(20), partition=1)
    write(tmp_path, range(20), epoch="older:4")
    return tmp_path


def test_in_log_order_whatever_the_pieces(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at_once in (3, 5, 1_000):
        monkeypatch.setattr(user_events, "OFFSETS_AT_ONCE", at_once)
        monkeypatch.setattr(user_events, "ROWS_AT_ONCE", 2)
        found = [entry for piece in events_in_log_order(lake, LOG, 4, 13) for entry in piece]
        assert [offset for offset, _ in found] == list(range(4, 13))
        assert [event.user_id for _, event in found] == [*"aaaa", *"bbbb", "a"]
        assert found[0][1] == Event(event_id="e4", kind="click", user_id="a", event_time_ms=NOON_MS - 4, product_id="p")


def test_in_time_order_some_users(lake: Path) -> None:
    found = [entry for piece in events_in_time_order(lake, LOG, 13, users={"a", "nobody"}) for entry in piece]
    assert [offset for offset, _ in found] == [12, 7, 6, 5, 4, 3]


def test_counts(lake: Path) -> None:
    assert event_counts(lake, LOG) == {"a": 7, "b": 4}
    assert event_counts(lake, LOG, users=["b", "nobody"]) == {"b": 4}


def test_from_where_to_where_the_lake_holds_a_partition(tmp_path: Path) -> None:
    assert (lake_reach(tmp_path, LOG), lake_position(tmp_path, LOG)) == (None, 0)
    sink = LakeSink(tmp_path)
    sink.write([flush([5, 6], letters=[4])])
    assert lake_position(tmp_path, LOG) == 7
    sink.write([flush([], letters=[7, 8])])  # a flush without a raw event
    assert lake_position(tmp_path, LOG) == 9
    assert lake_reach(tmp_path, LOG) == LakeReach(4, letter(4).append_time_ms)


def test_the_first_record_from_an_instant_on_however_far_away_it_is(lake: Path) -> None:
    later_ms = NOON_MS + 3 * 86_400_000
    rows = [
        RawRow(
            Record(CLICKS_TOPIC, 0, offset, later_ms + offset, b"k", b"v"),
            Event(event_id=f"e{offset}", kind="click", user_id="a", event_time_ms=NOON_MS, product_id="p"),
            1,
            NOON_MS,
        )
        for offset in (20, 30)
    ]
    LakeSink(lake).write([PartitionFlush(CLICKS_TOPIC, "tid", LOG.log_epoch, 0, 20, 30, raw=rows)])
    assert first_record(lake, LOG) == LakeReach(3, NOON_MS + 3) == lake_reach(lake, LOG)
    assert first_record(lake, LOG, NOON_MS + 9) == LakeReach(9, NOON_MS + 9)
    assert first_record(lake, LOG, NOON_MS + 14) == LakeReach(20, later_ms + 20)
    assert first_record(lake, LOG, later_ms + 21) == LakeReach(30, later_ms + 30)
    assert first_record(lake, LOG, later_ms + 31) is None
    assert first_record(lake, LOG._replace(partition=3)) is None
