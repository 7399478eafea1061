"""What repairs leave in the lake, and what is read back of it."""

from pathlib import Path

from features.state import Trailer, with_trailer
from schemas.event import CLICKS_TOPIC
from sinks.lake_reads import PartitionLog, table_counts
from sinks.repairs import RepairNote, RepairSink, corrected_versions
from sinks.rows import FeatureLogRow

LOG = PartitionLog("id:4", CLICKS_TOPIC, 2)
STATE = bytes(40)


def row(user: str, version: int, servable_ms: int = 5) -> FeatureLogRow:
    return FeatureLogRow(user, version, with_trailer(STATE, Trailer(1, 0, version)), servable_ms)


def test_the_order_of_a_user_is_that_of_the_greatest_version_noted(tmp_path: Path) -> None:
    by_time, by_log = RepairSink(tmp_path, LOG, "event_time"), RepairSink(tmp_path, LOG, "log")
    by_time.note([RepairNote("a", 1, 7), RepairNote("b", 1, 9)], 1)
    by_time.new_round()
    by_time.note([RepairNote("a", 2, 8)], 2)
    by_log.note([RepairNote("a", 3, 20), RepairNote("c", 1, 21)], 3)
    elsewhere = RepairSink(tmp_path, LOG._replace(partition=3), "event_time")
    elsewhere.note([RepairNote("d", 1, 30)], 4)
    assert corrected_versions(tmp_path, LOG) == {"a": 8, "b": 9}
    assert corrected_versions(tmp_path / "none", LOG) == {}


def test_versions_may_go_back_between_rounds_but_an_append_that_is_repeated_adds_nothing(tmp_path: Path) -> None:
    sink = RepairSink(tmp_path, LOG, "log")
    sink.log_states([row("a", 5)])
    sink.log_states([row("b", 9)])
    sink.log_states([row("b", 9)])  # reported as failed, though it succeeded
    sink.new_round()
    sink.log_states([row("c", 3)])
    RepairSink(tmp_path, LOG, "log").log_states([row("a", 5)])  # another repair: another push
    assert table_counts(tmp_path)["feature_log"] == 4


def test_only_states_that_are_not_logged_are_added(tmp_path: Path) -> None:
    sink = RepairSink(tmp_path, LOG, "log")
    sink.log_states([row("a", 5), row("b", 9)])
    sink.log_missing([row("b", 9), row("a", 5), row("a", 5, servable_ms=6), row("c", 2)])
    assert table_counts(tmp_path)["feature_log"] == 4
