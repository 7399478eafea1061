"""A run is begun once, gone on with when that is asked for, and never by two at a time."""

from pathlib import Path

import pytest

from replay.errors import ReplayBegunError, ReplayError, ReplayRunningError
from replay.plan import ReplayPlan, ReplayRequest
from replay.ranges import PartitionRange
from replay.runs import Checkpoint, LaneCounts, LaneFile, Runs
from replay.targets import Into
from schemas.event import CLICKS_TOPIC
from sinks.lake_reads import PartitionLog


def plan(into: Into = Into.HISTORY, first: int = 0, end: int = 100) -> ReplayPlan:
    request = ReplayRequest("lake", into, "beginning", f"0={end}", (CLICKS_TOPIC,))
    log = PartitionLog("id:1", CLICKS_TOPIC, 0)
    return ReplayPlan(request, 1, None, ((PartitionRange(log, first, first, end),),))


def checkpoint(position: int, *, is_done: bool = False) -> Checkpoint:
    return Checkpoint((position,), (0,), LaneCounts(records=position), {}, b"state", is_done)


def test_a_run_that_stopped_is_gone_on_with_only_when_that_is_asked_for(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    with runs.begun(plan(), 1, resume=False, restart=False) as run:
        LaneFile(run.folder, 0).write(checkpoint(40))
    with (
        pytest.raises(ReplayBegunError, match="after 40 of 100 records"),
        runs.begun(plan(), 2, resume=False, restart=False),
    ):
        pass
    with runs.begun(plan(), 3, resume=True, restart=False) as run:
        assert run.is_resumed
        assert run.begun_ms == 1
        assert run.lanes()[0] == checkpoint(40)
    with runs.begun(plan(), 4, resume=False, restart=True) as run:
        assert not run.is_resumed
        assert run.begun_ms == 4
        assert run.lanes() == {0: None}


def test_a_request_in_words_finds_the_range_that_it_meant_when_it_was_begun(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.newest(plan().request) is None
    with runs.begun(plan(), 1, resume=False, restart=False):
        pass
    found = runs.newest(plan().request)
    assert found is not None
    assert found.plan == plan()


def test_two_at_a_time_are_refused_also_where_ranges_only_overlap(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    with runs.begun(plan(), 1, resume=False, restart=False):
        for other in (plan(), plan(first=50, end=150)):
            with pytest.raises(ReplayRunningError, match="under way"), runs.begun(other, 2, resume=True, restart=False):
                pass
        with runs.begun(plan(first=100, end=200), 2, resume=False, restart=False):
            pass
        with runs.begun(plan(Into.NOTHING), 2, resume=False, restart=False):
            pass


def test_what_is_done_may_be_done_again_but_is_not_published_again_by_itself(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    for into in (Into.HISTORY, Into.TOPIC):
        with runs.begun(plan(into), 1, resume=False, restart=False) as run:
            LaneFile(run.folder, 0).write(checkpoint(100, is_done=True))
            run.finish(2)
    with runs.begun(plan(), 3, resume=True, restart=False) as run:
        assert run.finished_ms == 2
    with runs.begun(plan(), 3, resume=False, restart=False) as run:
        assert run.finished_ms is None
        assert run.lanes() == {0: None}
    with pytest.raises(ReplayBegunError, match="already"), runs.begun(plan(Into.TOPIC), 3, resume=False, restart=False):
        pass
    with runs.begun(plan(Into.TOPIC), 3, resume=False, restart=True) as run:
        assert run.begun_ms == 3


def test_a_home_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "replay").write_text("a file where the folder should be")
    with (
        pytest.raises(ReplayError, match="cannot be written"),
        Runs(tmp_path).begun(plan(), 1, resume=False, restart=False),
    ):
        pass
