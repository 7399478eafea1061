"""A replay of the lake as it was holds what the lake had then, not only what it has now."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.settings import load_settings
from replay.execution import LakePin
from replay.plan import ReplayRequest
from replay.range_replay import RangeReplay, Running
from replay.targets import Into
from schemas.event import CLICKS_TOPIC
from schemas.topics import TopicInfo
from sinks.lake import LakeSink
from sinks.leases import hours_to_keep, leases
from tests.rows import flush


@pytest.mark.parametrize(("hours_ago", "kept_hours"), [(None, 24), (40, 41)])
def test_files_are_kept_from_the_moment_that_is_read(tmp_path: Path, hours_ago: int | None, kept_hours: int) -> None:
    lake = tmp_path / "lake"
    LakeSink(lake).write([flush([0, 1, 2], topic_id="tid")])
    settings = load_settings({"home": tmp_path / "home", "lake": {"path": lake}})
    topics = {CLICKS_TOPIC: TopicInfo(CLICKS_TOPIC, "tid", 4, "LogAppendTime")}
    request = ReplayRequest("lake", Into.NOTHING, "beginning", "end", (CLICKS_TOPIC,), (), "")
    plan = RangeReplay(settings, request, topics, Running()).plan()
    pin = None if hours_ago is None else LakePin({}, datetime.now(UTC) - timedelta(hours=hours_ago))
    with RangeReplay(settings, request, topics, Running(), pin=pin).begun(plan):
        (lease,) = leases(lake)
        assert lease.reader.startswith("replay ")
        assert hours_to_keep([lease], 24) == kept_hours
    assert leases(lake) == []
