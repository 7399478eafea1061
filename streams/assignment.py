"""Where a worker starts in each partition that it is given."""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from config.definition import DEFINITION_VERSION
from feature_repo.fence import Fence, PartitionStatus
from schemas.topics import TopicInfo
from sinks.lake_reads import PartitionLog
from sinks.log_moves import LogMoves
from streams.errors import LogEpochError
from streams.ports import Clock, Fences, Offsets, Positions, TopicPartition
from streams.progress import PartitionProgress

logger = logging.getLogger(__name__)


_NO_MOVES: Final = LogMoves()


async def plan_start(
    partitions: Sequence[TopicPartition],
    offsets: Offsets,
    fences: Fences,
    clock: Clock,
    moves: LogMoves = _NO_MOVES,
) -> tuple[dict[TopicPartition, PartitionProgress], dict[TopicPartition, int]]:
    """Decide the first offset and the status of each partition.

    A worker starts at the smaller of the committed offset (what every sink has) and the fence (what the online store
    has), so a Redis that was restored from an older copy is caught up. A lost fence where offsets were committed means
    a lost Redis: the partition is REBUILDING until a replay has repaired its states. So it is when a definition version
    begins where an earlier one had committed, and where a log took over from another and has no fence: its states begin
    with those of the former one. Such a log is never read below where it begins.

    Args:
        moves: which logs took over from others.

    Returns:
        The progress of each partition, and how many records retention removed unread, where that is not 0.

    Raises:
        LogEpochError: a fence belongs to another log of the same name.
    """
    topics = sorted({tp.topic for tp in partitions})
    logs = await offsets.logs(topics)
    positions = await offsets.positions(partitions)
    known = {topic: await fences.read(topic) for topic in topics}
    starts: dict[TopicPartition, PartitionProgress] = {}
    expired: dict[TopicPartition, int] = {}
    for topic in topics:
        _check_epoch(topic, logs[topic], known[topic].values())
    for tp in partitions:
        fence = known[tp.topic].get(tp.partition)
        committed, earliest, end, inherited = positions[tp]
        begins = moves.first_offset(PartitionLog(logs[tp.topic].log_epoch, *tp))
        status, since_ms = _status(tp, fence, positions[tp], begins, clock)
        wanted = _first_offset(fence, inherited if committed is None else committed)
        if begins is not None:
            wanted = max(begins, wanted or 0)
        if wanted is not None and wanted < earliest:
            expired[tp] = earliest - wanted
            logger.error(
                "%s-%d: %d records from offset %d on were removed by retention before they were read; "
                "going on at offset %d. Backfill from another copy if they matter.",
                tp.topic, tp.partition, expired[tp], wanted, earliest,
            )  # fmt: skip
        starts[tp] = PartitionProgress(
            tp,
            logs[tp.topic],
            status,
            next_offset=max(earliest, wanted or 0),
            committed_offset=committed,
            end_offset=end,
            since_ms=since_ms,
            is_fenced=fence is not None,
            halted_since_ms=0 if fence is None else fence.halted_since_ms,
        )
    return starts, expired


def _check_epoch(topic: str, log: TopicInfo, fences: Iterable[Fence]) -> None:
    """Refuse a log whose states are of another; whichever partitions this worker got: some may be new in it."""
    for fence in fences:
        if fence.epoch != log.log_epoch:
            raise LogEpochError.of(topic, was=fence.epoch, now=log.log_epoch)


def _status(
    tp: TopicPartition, fence: Fence | None, positions: Positions, begins: int | None, clock: Clock
) -> tuple[PartitionStatus, int]:
    committed, earliest = positions.committed or 0, positions.earliest
    if fence is not None and fence.is_halted and fence.status is PartitionStatus.LIVE and fence.next_offset < earliest:
        tell_expired_while_halted(tp, fence.next_offset, earliest)
        return PartitionStatus.REBUILDING, clock.now_ms()
    if fence is not None and fence.status is PartitionStatus.LIVE and fence.next_offset < min(committed, earliest):
        logger.error(
            "%s-%d: the online store was restored from a copy of offset %d, and the topic retains nothing before %d. "
            "The partition is REBUILDING until `shopstream replay --into online` gives it what only the lake holds.",
            tp.topic, tp.partition, fence.next_offset, earliest,
        )  # fmt: skip
        return PartitionStatus.REBUILDING, clock.now_ms()
    if fence is not None:
        return fence.status, fence.since_ms
    if committed:
        logger.error(
            "%s-%d: offsets were committed up to %d but the online store has no fence: it was emptied. "
            "The partition is REBUILDING: new states are partial until `shopstream replay --into online` repairs them.",
            tp.topic, tp.partition, committed,
        )  # fmt: skip
        return PartitionStatus.REBUILDING, clock.now_ms()
    if begins is not None:
        logger.error(
            "%s-%d: its log took over from another, and the online store has no fence: it was emptied. "
            "The partition is REBUILDING: new states are partial until `shopstream replay --into online` repairs them.",
            tp.topic, tp.partition,
        )  # fmt: skip
        return PartitionStatus.REBUILDING, clock.now_ms()
    if positions.inherited:
        logger.warning(
            "%s-%d: definition version %d begins at offset %d, which an earlier version had committed. The partition "
            "is REBUILDING: its states are partial until `shopstream replay --into online` gives them what was before.",
            tp.topic, tp.partition, DEFINITION_VERSION, positions.inherited,
        )  # fmt: skip
        return PartitionStatus.REBUILDING, clock.now_ms()
    return PartitionStatus.LIVE, clock.now_ms()


def tell_expired_while_halted(tp: TopicPartition, applied: int, earliest: int) -> None:
    """Log that a halt has lasted longer than the topic retains its records."""
    logger.error(
        "%s-%d: it was halted at offset %d, and the topic retains nothing before %d. The lake has what was read "
        "meanwhile: the partition is REBUILDING until `shopstream replay --into online` gives it to the states.",
        tp.topic, tp.partition, applied, earliest,
    )  # fmt: skip


def _first_offset(fence: Fence | None, committed: int | None) -> int | None:
    if committed is None:
        return None  # nothing is known to be in every sink: from the beginning
    return committed if fence is None else min(committed, fence.next_offset)
