"""Rebuild of partitions whose states were lost: every user's state from the lake, then the partition is LIVE again.

A worker goes on meanwhile. It takes a partition's status from its fence with every batch, so the order is:

1. repair all users of the lake, up to what the worker had applied when this began;
2. set the partition LIVE; from the next batch on no state is born partial;
3. wait until the batch that was under way is done, and repair what it bore.

A state that is partial is never FRESH to readers, whatever the partition's status. And a worker that stored partial
states though the partition was LIVE by then marks it REBUILDING again, so that nothing stays unnoticed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from config.errors import ShopstreamError
from feature_repo.fence import Fence, PartitionStatus
from replay.completeness import COMPLETE_AFTER_MS, shortage
from replay.errors import LakeTooShortError, LostAgainError
from replay.lake_folds import LogPart, earlier_parts, event_counts_of, never
from replay.repair import WAIT_S, FoldOrder, PartitionRepair, RepairFences, RepairPorts, RepairProgress
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog
from sinks.user_events import LakeReach

__all__ = [
    "COMPLETE_AFTER_MS",
    "PartitionPlan",
    "PartitionResult",
    "Rebuild",
    "RebuildFences",
    "another_log",
]

PARTITIONS_AT_ONCE: Final = 4
SETTLE_S: Final = 2.0
SWITCHES_MAX: Final = 10
POLL_S: Final = 0.1


class RebuildFences(RepairFences, Protocol):
    """Fences whose status can be changed."""

    async def set_status(self, topic: str, partition: int, status: PartitionStatus, *, since_ms: int) -> None:
        """Change the status of a fence; its offset stays."""
        ...

    async def advance(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """What a rebuild will do with one partition.

    Attributes:
        fence: what the online store says; None when it was emptied and no worker has started since.
        reach: where the lake's part of the log begins; None when it holds nothing.
        end_offset: how far the lake holds it now.
        problem: why it cannot be rebuilt; empty if it can.
    """

    log: PartitionLog
    fence: Fence | None
    reach: LakeReach | None
    end_offset: int
    event_count: int
    user_count: int
    problem: str = ""

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "topic": self.log.topic,
            "partition": self.log.partition,
            "status": "lost" if self.fence is None else self.fence.status.value,
            "first_offset": None if self.reach is None else self.reach.first_offset,
            "end_offset": self.end_offset,
            "events": self.event_count,
            "users": self.user_count,
            "problem": self.problem or None,
        }


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """What a rebuild did.

    Attributes:
        repaired_count: users whose state was replaced.
        agreed_count: users whose state was right.
        status: the partition's, at the end.
    """

    log: PartitionLog
    repaired_count: int
    agreed_count: int
    status: PartitionStatus

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "topic": self.log.topic,
            "partition": self.log.partition,
            "repaired": self.repaired_count,
            "agreed": self.agreed_count,
            "status": self.status.value,
        }


class Rebuild:
    """Rebuilds partitions. Memory grows with their users; the states of `PARTITIONS_AT_ONCE` are held at a time.

    Args:
        future_tolerance_ms: by how much an event time may pass the append time.
        wait_s: how long to wait, without progress, for the lake to reach what the online store holds.
    """

    def __init__(
        self, ports: RepairPorts, fences: RebuildFences, *, future_tolerance_ms: int, wait_s: float = WAIT_S
    ) -> None:
        self._ports = ports
        self._fences = fences
        self._future_tolerance_ms = future_tolerance_ms
        self._wait_s = wait_s
        self._repairs: list[PartitionRepair] = []

    def progress(self) -> RepairProgress:
        """Tell how far all that was begun has come."""
        totals = zip(*(repair.progress() for repair in self._repairs), strict=True)
        return RepairProgress(*(sum(each) for each in totals)) if self._repairs else RepairProgress(0, 0, 0)

    async def plan(self, topics: Mapping[str, TopicInfo], *, everything: bool = False) -> list[PartitionPlan]:
        """Look for the partitions to rebuild; nothing is changed.

        Args:
            everything: also those that are LIVE.

        Raises:
            LakeUnavailableError: the lake cannot be read.
            OnlineStoreError: Redis does not answer.
        """
        plans = []
        tombstones = await self._ports.tombstones()
        for topic, info in topics.items():
            fences = await self._fences.read(topic)
            for partition in range(info.partition_count):
                log, fence = PartitionLog(info.log_epoch, topic, partition), fences.get(partition)
                if fence is None or everything or fence.status is PartitionStatus.REBUILDING:
                    planned = await asyncio.to_thread(self._plan, log, fence, tombstones)
                    if planned.fence is not None or planned.reach is not None:
                        plans.append(planned)
        return plans

    def _plan(self, log: PartitionLog, fence: Fence | None, tombstones: Tombstones) -> PartitionPlan:
        source = self._ports.events()
        reach, end_offset, former = source.reach(log), source.position(log), source.former(log)
        first_offset = 0 if former is None else former.first_offset
        counts = event_counts_of([*earlier_parts(former), LogPart(source, log, first_offset, end_offset, never)])
        planned = PartitionPlan(log, fence, reach, end_offset, counts.total(), len(counts))
        if fence is not None and fence.epoch != log.log_epoch:
            return replace(planned, problem=another_log(log, fence))
        if reach is None and fence is not None and fence.next_offset > first_offset:
            held = "the lake holds" if source.name == "lake" else "Kafka retains"
            return replace(planned, problem=f"{log.topic}-{log.partition}: {held} nothing of it")
        problem = shortage(
            source, log, tombstones,
            now_ms=self._ports.clock.now_ms(), future_tolerance_ms=self._future_tolerance_ms,
        )  # fmt: skip
        return replace(planned, problem=problem)

    async def rebuild_all(self, plans: Sequence[PartitionPlan]) -> list[PartitionResult | ShopstreamError]:
        """Rebuild partitions, some at a time; return what became of each, or why it could not be rebuilt."""
        room = asyncio.Semaphore(PARTITIONS_AT_ONCE)

        async def rebuild(planned: PartitionPlan) -> PartitionResult | ShopstreamError:
            async with room:
                try:
                    return await self.rebuild(planned)
                except ShopstreamError as error:
                    return error

        return await asyncio.gather(*map(rebuild, plans))

    async def rebuild(self, planned: PartitionPlan) -> PartitionResult:
        """Rebuild one partition; it may be stopped at any point, and done again.

        Raises:
            LakeTooShortError: the plan names a problem.
            RepairStuckError: the lake does not reach what the online store holds.
            LostAgainError: the online store lost it meanwhile.
            LakeUnavailableError, OnlineStoreError: call again.
        """
        if planned.problem:
            hint = "Restore the lake's oldest part, read another source (--source), or wait."
            raise LakeTooShortError(f"{planned.problem}.", hint="" if "--from-epoch" in planned.problem else hint)
        log = planned.log
        repair = PartitionRepair(log, FoldOrder.LOG, self._ports, wait_s=self._wait_s)
        self._repairs.append(repair)
        fence = planned.fence or await self._begin(planned)
        for _ in range(SWITCHES_MAX):
            await repair.run(fence.next_offset)
            fence = await self._same(log, fence)
            if fence.status is PartitionStatus.REBUILDING:
                now_ms = self._ports.clock.now_ms()
                await self._fences.set_status(log.topic, log.partition, PartitionStatus.LIVE, since_ms=now_ms)
            fence = await self._settled(log, fence)
            await repair.run(fence.next_offset, only_partial=True)
            fence = await self._fence(log, fence)
            if fence.status is not PartitionStatus.REBUILDING:
                break
        done = repair.repaired()
        return PartitionResult(log, len(done.versions), done.agreed_count, fence.status)

    async def _begin(self, planned: PartitionPlan) -> Fence:
        """Give an emptied partition a fence: all that the lake holds will be in the states."""
        topic, partition = planned.log.topic, planned.log.partition
        fence = Fence(planned.log.log_epoch, planned.end_offset, PartitionStatus.REBUILDING, self._ports.clock.now_ms())
        await self._fences.advance(topic, partition, fence)
        return (await self._fences.read(topic))[partition]  # a worker may have been first

    async def _settled(self, log: PartitionLog, before: Fence) -> Fence:
        """Wait until the batch that was under way has moved the fence; if there was none, for a moment."""
        clock = self._ports.clock
        ends_s = clock.monotonic_s() + SETTLE_S
        while True:
            fence = await self._fence(log, before)
            if fence.next_offset > before.next_offset or clock.monotonic_s() > ends_s:
                return fence
            await asyncio.sleep(POLL_S)

    async def _same(self, log: PartitionLog, before: Fence) -> Fence:
        fence = await self._fence(log, before)
        if (fence.status, fence.since_ms) != (before.status, before.since_ms):
            raise self._lost(log)
        return fence

    async def _fence(self, log: PartitionLog, before: Fence) -> Fence:
        fence = (await self._fences.read(log.topic)).get(log.partition)
        if fence is None or fence.epoch != before.epoch or fence.next_offset < before.next_offset:
            raise self._lost(log)
        return fence

    def _lost(self, log: PartitionLog) -> LostAgainError:
        return LostAgainError(
            f"{log.topic}-{log.partition}: the online store was emptied or restored, or another rebuild ended, while "
            "this one ran.",
            hint="Run it again: states that are right are left alone.",
        )


def another_log(log: PartitionLog, fence: Fence) -> str:
    """Say that what is stored is of another log than the topic is now, and what to do."""
    return (
        f"{log.topic}-{log.partition}: the stored states are of another log ({fence.epoch}); the topic is "
        f"{log.log_epoch} now. Move them: `shopstream replay --into online --from-epoch={fence.epoch}`"
    )
