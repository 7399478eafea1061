"""Where a worker starts."""

import asyncio

import pytest

from feature_repo.fence import Fence, PartitionStatus
from schemas.event import CLICKS_TOPIC
from schemas.topics import TopicInfo
from sinks.log_moves import LogMoves, MoveRow
from streams.assignment import plan_start
from streams.errors import LogEpochError
from streams.ports import Positions, TopicPartition
from streams.progress import PartitionProgress
from tests.fakes.online import InMemoryFences
from tests.fakes.streams import FixedOffsets, ManualClock

TP = TopicPartition(CLICKS_TOPIC, 1)
LOG = TopicInfo(CLICKS_TOPIC, "id", 4, "LogAppendTime")


MOVED = LogMoves([MoveRow(CLICKS_TOPIC, "id:3", "id:4", 1, 6, 0)])


def start(
    positions: Positions, fence: Fence | None, *, other: Fence | None = None, moves: LogMoves | None = None
) -> tuple[PartitionProgress, int]:
    async def plan() -> tuple[PartitionProgress, int]:
        fences = InMemoryFences()
        for partition, held in ((1, fence), (2, other)):
            if held is not None:
                await fences.advance(CLICKS_TOPIC, partition, held)
        offsets = FixedOffsets(LOG, {TP: positions})
        starts, expired = await plan_start([TP], offsets, fences, ManualClock(), moves or LogMoves())
        return starts[TP], expired.get(TP, 0)

    return asyncio.run(plan())


def fence_at(offset: int, epoch: str = "id:4", status: PartitionStatus = PartitionStatus.LIVE) -> Fence:
    return Fence(epoch, offset, status, 7)


def test_a_new_group_starts_at_the_beginning() -> None:
    progress, expired = start(Positions(None, 3, 9), None)
    assert (progress.next_offset, progress.status, expired) == (3, PartitionStatus.LIVE, 0)


def test_a_group_that_never_committed_starts_at_the_beginning_whatever_the_fence_says() -> None:
    progress, _ = start(Positions(None, 0, 9), fence_at(5))
    assert progress.next_offset == 0


@pytest.mark.parametrize(("committed", "fence", "expected"), [(5, 8, 5), (8, 5, 5), (8, 8, 8)])
def test_it_starts_at_the_smaller_of_commit_and_fence(committed: int, fence: int, expected: int) -> None:
    progress, _ = start(Positions(committed, 0, 9), fence_at(fence))
    assert progress.next_offset == expected
    assert progress.committed_offset == committed


def test_a_lost_fence_means_rebuilding() -> None:
    progress, _ = start(Positions(5, 0, 9), None)
    assert (progress.next_offset, progress.status) == (5, PartitionStatus.REBUILDING)


@pytest.mark.parametrize(
    ("committed", "earliest", "expected"),
    [(9, 6, PartitionStatus.REBUILDING), (9, 5, PartitionStatus.LIVE), (5, 6, PartitionStatus.LIVE)],
)
def test_an_older_copy_than_the_topic_retains_means_rebuilding(
    committed: int, earliest: int, expected: PartitionStatus
) -> None:
    progress, _ = start(Positions(committed, earliest, 9), fence_at(5))
    assert (progress.next_offset, progress.status) == (max(5, earliest), expected)


def test_rebuilding_lasts_over_restarts() -> None:
    progress, _ = start(Positions(5, 0, 9), fence_at(5, status=PartitionStatus.REBUILDING))
    assert (progress.status, progress.since_ms) == (PartitionStatus.REBUILDING, 7)


def test_records_that_retention_removed_are_counted_not_skipped_in_silence() -> None:
    progress, expired = start(Positions(5, 7, 9), fence_at(5))
    assert (progress.next_offset, expired) == (7, 2)


@pytest.mark.parametrize("epoch", ["other:4", "id:3"])
def test_another_log_of_the_same_name_is_refused(epoch: str) -> None:
    with pytest.raises(LogEpochError, match="another log"):
        start(Positions(5, 0, 9), fence_at(5, epoch))


def test_a_definition_version_begins_where_an_earlier_one_had_committed_and_is_rebuilding() -> None:
    progress, _ = start(Positions(committed=None, earliest=2, end=9, inherited=6), None)
    assert (progress.next_offset, progress.status) == (6, PartitionStatus.REBUILDING)
    assert progress.committed_offset is None  # so that its own group commits


def test_a_definition_version_that_a_replay_has_built_goes_on_at_its_fence() -> None:
    progress, _ = start(Positions(committed=None, earliest=2, end=9, inherited=6), fence_at(5))
    assert (progress.next_offset, progress.status) == (5, PartitionStatus.LIVE)


def test_what_an_earlier_version_has_committed_counts_only_before_the_first_commit() -> None:
    progress, _ = start(Positions(committed=3, earliest=2, end=9, inherited=6), fence_at(4))
    assert progress.next_offset == 3


def test_another_log_is_refused_by_whoever_owns_only_its_new_partitions() -> None:
    with pytest.raises(LogEpochError, match="--from-epoch=id:3"):
        start(Positions(None, 0, 9), None, other=fence_at(5, "id:3"))


@pytest.mark.parametrize("committed", [None, 4])
def test_a_log_that_took_over_is_read_from_where_it_begins(committed: int | None) -> None:
    progress, expired = start(Positions(committed, 0, 9), fence_at(6), moves=MOVED)
    assert (progress.next_offset, progress.status, expired) == (6, PartitionStatus.LIVE, 0)


def test_a_log_that_took_over_and_was_committed_further_goes_on_there() -> None:
    progress, _ = start(Positions(8, 0, 9), fence_at(9), moves=MOVED)
    assert progress.next_offset == 8


def test_a_log_that_took_over_and_has_no_fence_is_rebuilding_though_nothing_was_committed() -> None:
    progress, _ = start(Positions(None, 0, 9), None, moves=MOVED)
    assert (progress.next_offset, progress.status) == (6, PartitionStatus.REBUILDING)
