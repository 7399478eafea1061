"""What a replay of a range will read: lanes in which users are whole, and 25 hours before the range."""

from pathlib import Path
from typing import Any

import pytest

from config.settings import load_settings
from replay.plan import WARM_UP_MS, Bounds, ReplayPlan, ReplayRequest, make_plan
from replay.ranges import Instant, Offsets
from replay.targets import Into
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog
from tests.fakes.appended_source import AppendedSource
from tests.logs import HOUR, NOON, event

TOLERANCE_MS = 300_000


def topics(clicks: int = 2, carts: int = 2) -> dict[str, TopicInfo]:
    return {
        CLICKS_TOPIC: TopicInfo(CLICKS_TOPIC, "b", clicks, "LogAppendTime"),
        CARTS_TOPIC: TopicInfo(CARTS_TOPIC, "a", carts, "LogAppendTime"),
    }


def hourly(infos: dict[str, TopicInfo], *, first_offset: int = 0) -> AppendedSource:
    """An event per hour in each partition, from NOON on, for three days."""
    logs = {
        PartitionLog(info.log_epoch, topic, partition): [(n, NOON + n * HOUR, event(n * HOUR)) for n in range(72)]
        for topic, info in infos.items()
        for partition in range(info.partition_count)
    }
    return AppendedSource(logs, first_offset=first_offset)


def planned(
    tmp_path: Path,
    begin: Any,
    *,
    into: Into = Into.NOTHING,
    infos: dict[str, TopicInfo] | None = None,
    first_offset: int = 0,
    users: tuple[str, ...] = (),
) -> ReplayPlan:
    infos = infos or topics()
    request = ReplayRequest("kafka", into, "x", "end", tuple(infos), users, "other" if into is Into.TOPIC else "")
    return make_plan(
        load_settings({"home": tmp_path}),
        request,
        Bounds(begin, None),
        infos,
        hourly(infos, first_offset=first_offset),
        tombstones=Tombstones(),
        stored_users=users or None,
    )


def test_it_warms_up_by_25_hours_and_the_tolerance(tmp_path: Path) -> None:
    plan = planned(tmp_path, Instant(NOON + 50 * HOUR))
    assert {part.first_offset for part in plan.ranges} == {50}
    # 25 h before is event 25; one appended up to 5 min earlier may have happened within them, so 25 is the first
    assert {part.warm_up_offset for part in plan.ranges} == {25}
    assert WARM_UP_MS == 25 * HOUR
    assert plan.complete_from_ms is None
    assert plan.record_count == 4 * (72 - 25)
    assert plan.warm_up_count == 4 * 25


def test_offsets_warm_up_from_when_they_were_appended(tmp_path: Path) -> None:
    begin = Offsets({(topic, 0): 60 for topic in topics()})
    plan = planned(tmp_path, begin)
    assert [(part.warm_up_offset, part.first_offset) for part in plan.ranges] == [(35, 60), (35, 60)]


def test_a_source_that_does_not_reach_back_says_from_when_on_values_are_complete(tmp_path: Path) -> None:
    plan = planned(tmp_path, Instant(NOON + 30 * HOUR), first_offset=20)
    assert {part.warm_up_offset for part in plan.ranges} == {20}
    assert plan.complete_from_ms == NOON + 20 * HOUR + TOLERANCE_MS + WARM_UP_MS
    assert "less than 25 hours" in plan.notes[0]


def test_the_beginning_of_a_log_is_complete_however_short_it_is(tmp_path: Path) -> None:
    plan = planned(tmp_path, Instant(NOON + HOUR))
    assert {part.warm_up_offset for part in plan.ranges} == {0}
    assert plan.complete_from_ms is None
    assert plan.notes == ()


def test_what_is_published_again_needs_no_warm_up(tmp_path: Path) -> None:
    plan = planned(tmp_path, Instant(NOON + 50 * HOUR), into=Into.TOPIC)
    assert plan.warm_up_count == 0


def test_a_lane_is_the_partition_of_one_number_in_every_topic(tmp_path: Path) -> None:
    plan = planned(tmp_path, None)
    assert [[(part.log.topic, part.log.partition) for part in lane] for lane in plan.lanes] == [
        [(CARTS_TOPIC, n), (CLICKS_TOPIC, n)] for n in range(2)
    ]


def test_topics_of_different_size_are_one_lane_and_that_is_said(tmp_path: Path) -> None:
    plan = planned(tmp_path, None, infos=topics(clicks=3, carts=2))
    assert len(plan.lanes) == 1
    assert "one process reads all" in plan.notes[0]


def test_named_users_are_looked_for_in_their_partitions_only(tmp_path: Path) -> None:
    plan = planned(tmp_path, None, users=("u1",))
    assert len(plan.lanes) == 1
    assert len(plan.ranges) == 2


@pytest.mark.parametrize("other", [Into.HISTORY, Into.TOPIC])
def test_another_target_is_another_run(other: Into, tmp_path: Path) -> None:
    plan, same, differs = planned(tmp_path, None), planned(tmp_path, None), planned(tmp_path, None, into=other)
    assert plan.run_id == same.run_id != differs.run_id
    assert plan.overlaps(same)
    assert not plan.overlaps(differs)
