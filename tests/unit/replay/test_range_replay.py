"""A replay of a lake's range, from its request to its account: what it reads, refuses, and leaves alone."""

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, load_settings
from replay.errors import RangeError, UnknownUsersError
from replay.execution import LakePin
from replay.plan import ReplayRequest
from replay.range_replay import RangeReplay, Running, account
from replay.runs import Runs
from replay.targets import Into
from replay.topic_target import require_topic
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC
from schemas.topics import TopicInfo
from sinks.delta import opened
from sinks.errors import LakeUnavailableError
from sinks.lake import LakeSink
from sinks.leases import hours_to_keep, leases
from tests.rows import flush

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings of a lake with thirteen records of one partition, one of them a dead letter."""
    lake = tmp_path / "lake"
    for offsets in ([0, 1, 2], [3, 4, 6, 7], [8, 9, 10, 11, 12]):
        LakeSink(lake).write([flush(offsets, letters=[5] if 6 in offsets else [], topic_id="tid")])
    return load_settings({"home": tmp_path / "home", "lake": {"path": lake}})


def replay(settings: Settings, *, source: str = "lake", topic_id: str = "tid", **changes: Any) -> RangeReplay:
    topics = {CLICKS_TOPIC: TopicInfo(CLICKS_TOPIC, topic_id, 4, "LogAppendTime")}
    running = {name: changes.pop(name) for name in ("resume", "restart", "rate") if name in changes}
    pin = changes.pop("pin", None)
    asked = {"into": Into.NOTHING, "begin": "beginning", "end": "end", "users": ()} | changes
    request = ReplayRequest(source, asked["into"], asked["begin"], asked["end"], (CLICKS_TOPIC,), asked["users"], "")
    return RangeReplay(settings, request, topics, Running(**running), pin=pin)


def accounted(found: RangeReplay) -> dict[str, Any]:
    with found.begun(found.plan()) as run:
        assert found.run(run)
    return account(found.totals)


def test_every_record_of_the_range_is_accounted_for(settings: Settings) -> None:
    told = accounted(replay(settings))
    assert (told["records_read"], told["events"], told["dead_letters"], told["users"]) == (13, 12, 1, 1)
    assert told["applied"] + told["duplicate"] + told["late"] == 12
    told = accounted(replay(settings, begin="0=4", end="0=9"))
    assert (told["records_read"], told["events"], told["warm_up_events"], told["dead_letters"]) == (9, 4, 4, 1)


@pytest.mark.parametrize("into", [Into.NOTHING, Into.HISTORY])
def test_what_live_writes_is_left_alone(settings: Settings, into: Into) -> None:
    def versions() -> dict[str, int]:
        handles = {name: opened(settings.lake_path / name) for name in ("raw_events", "feature_log", "dead_letters")}
        return {name: handle.version() for name, handle in handles.items() if handle is not None}

    before = versions()
    assert accounted(replay(settings, into=into))["events"] == 12
    assert versions() == before


def test_no_replay_of_a_range_can_write_raw_events() -> None:
    """What a range imports, within replay/, names neither the worker's sink nor what trains or serves."""
    left, seen = ["replay.range_replay", "replay.history", "replay.topic_target", "replay.fold_target"], set[str]()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                assert "LakeSink" not in {alias.name for alias in node.names}, f"{name} imports the worker's sink"
                assert not node.module.startswith(("training", "quality", "serving")), f"{name} imports {node.module}"
                left += [node.module] if node.module.startswith("replay.") else []
    assert {"replay.lanes", "replay.execution", "replay.targets"} <= seen


def test_a_lake_that_lost_files_is_told_in_a_sentence(settings: Settings) -> None:
    found = replay(settings)
    plan = found.plan()
    next((settings.lake_path / "raw_events").rglob("part-*.parquet")).unlink()
    with pytest.raises(LakeUnavailableError, match="raw_events"), found.begun(plan) as run:
        found.run(run)


def test_a_user_without_an_event_is_refused(settings: Settings) -> None:
    assert accounted(replay(settings, users=("u1",)))["users"] == 1
    with pytest.raises(UnknownUsersError, match="nobody"):
        replay(settings, users=("nobody",)).plan()


def test_what_is_done_is_not_done_again_by_resume(settings: Settings) -> None:
    told = accounted(replay(settings))
    found = replay(settings, resume=True)
    with found.begun(found.plan()) as run:
        assert run.finished_ms is not None
        assert found.run(run)
        assert found.totals.counts.records == found.read_before
    assert account(found.totals) == told


def test_a_range_of_another_log_is_not_gone_on_with(settings: Settings) -> None:
    plan = replay(settings).plan()
    begun = type(plan)(ReplayRequest("kafka", Into.NOTHING, "beginning", "end", (CLICKS_TOPIC,)), 1, None, plan.lanes)
    with Runs(settings.home.absolute()).begun(begun, 1, resume=False, restart=False):
        pass
    assert replay(settings, source="kafka", resume=True).plan() == begun
    with pytest.raises(RangeError, match="created again"):
        replay(settings, source="kafka", resume=True, topic_id="another").plan()


@pytest.mark.parametrize("topic", [CLICKS_TOPIC, CARTS_TOPIC, DEAD_LETTERS_TOPIC])
def test_what_live_reads_or_writes_is_not_published_to(settings: Settings, topic: str) -> None:
    with pytest.raises(RangeError, match="what live reads or writes"):
        require_topic(settings, topic)


@pytest.mark.parametrize(("hours_ago", "kept_hours"), [(None, 24), (40, 41)])
def test_files_are_kept_from_the_moment_that_is_read(
    settings: Settings, hours_ago: int | None, kept_hours: int
) -> None:
    plan = replay(settings).plan()
    pin = None if hours_ago is None else LakePin({}, datetime.now(UTC) - timedelta(hours=hours_ago))
    with replay(settings, pin=pin).begun(plan):
        (lease,) = leases(settings.lake_path)
        assert lease.reader.startswith("replay ")
        assert hours_to_keep([lease], 24) == kept_hours
    assert leases(settings.lake_path) == []
