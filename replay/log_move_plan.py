"""What a move of a topic to a new log epoch will do (replay/log_move.py): which log it follows, and where it begins."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from feature_repo.fence import Fence
from feature_repo.replacing import Replacement
from replay.completeness import shortage
from replay.errors import MoveRefusedError
from replay.repair import RepairPorts
from replay.sources import LakeSource
from schemas.privacy import PSEUDONYM_PREFIX
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog
from sinks.log_moves import count_of, read_log_moves


class MoveFences(Protocol):
    """Fences that can be replaced by those of another log."""

    async def read(self, topic: str) -> dict[int, Fence]:
        """Return the fences of a topic's partitions."""
        ...

    async def succeed(self, topic: str, from_epoch: str, fences: Mapping[int, Fence]) -> bool:
        """Put the fences of a new log in place of those of the former one, all in one instant."""
        ...


class MoveStates(Protocol):
    """States that can be replaced whatever their version."""

    async def replace(self, topic: str, rows: Sequence[Replacement], servable_ms: int) -> frozenset[str]:
        """Replace states; return the users of whom another one was stored than the one that was read."""
        ...

    def users(self) -> Iterator[list[str]]:
        """Yield every user who has a state, some at a time; blocking."""
        ...


@dataclass(frozen=True, slots=True)
class MovePorts:
    """What a move reads and writes.

    Attributes:
        repair: the lake, the states as they are loaded, the clock and the tombstones.
        is_worker_live: tells whether a worker is a member of the group; blocking.
        ends: next offset of each partition of a topic, as the broker has it; blocking.
        future_tolerance_ms: by how much an event time may pass the append time.
    """

    repair: RepairPorts
    fences: MoveFences
    states: MoveStates
    is_worker_live: Callable[[], bool]
    ends: Callable[[str], Mapping[int, int]]
    future_tolerance_ms: int


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What a move will do with one topic.

    Attributes:
        first_offsets: where the new log begins, by partition.
        has_fences: whether the online store knows the former log; it does not if it was emptied since.
        unread_count: records after the former log's part that lie in its partitions: a worker has not read them.
        problem: why it cannot be moved; empty if it can.
    """

    topic: str
    from_epoch: str
    to_epoch: str
    first_offsets: Mapping[int, int]
    has_fences: bool
    event_count: int = 0
    user_count: int = 0
    unread_count: int = 0
    problem: str = ""

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "topic": self.topic,
            "from_epoch": self.from_epoch,
            "to_epoch": self.to_epoch,
            "first_offsets": {str(partition): offset for partition, offset in self.first_offsets.items()},
            "events": self.event_count,
            "users": self.user_count,
            "unread": self.unread_count,
            "problem": self.problem or None,
        }


class MovePlanner:
    """Plans moves; changes nothing."""

    def __init__(self, ports: MovePorts) -> None:
        self._ports = ports
        self._lake = ports.repair.lake
        self._source = LakeSource(ports.repair.lake)

    async def plan(self, topics: Mapping[str, TopicInfo], from_epochs: Collection[str] = ()) -> list[MovePlan]:
        """Look for topics whose states are of another log than the topic is now; nothing is changed.

        Args:
            from_epochs: only topics whose states are of these logs; empty for all.

        Raises:
            MoveRefusedError: a log that was named is none of any topic's.
            LakeUnavailableError, OnlineStoreError, BrokerUnavailableError: something does not answer.
        """
        plans = []
        for topic, info in topics.items():
            planned = await self._plan(topic, info, from_epochs)
            if planned is not None:
                plans.append(planned)
        unknown = set(from_epochs) - {planned.from_epoch for planned in plans}
        if unknown:
            raise MoveRefusedError(
                f"No topic has stored states of the log {', '.join(sorted(unknown))} and is another log now.",
                hint="The worker's message names the log, and so does `shopstream replay --into online --dry-run`. "
                "Was it moved already? Then nothing is left to do.",
            )
        return plans

    async def _plan(self, topic: str, info: TopicInfo, from_epochs: Collection[str]) -> MovePlan | None:
        fences = await self._ports.fences.read(topic)
        former = {fence.epoch for fence in fences.values()} - {info.log_epoch}
        if not fences:
            former = await asyncio.to_thread(self._known_to_the_lake, topic, info.log_epoch, from_epochs)
        if from_epochs:
            former &= set(from_epochs)
        if len(former) != 1:
            return None
        (from_epoch,) = former
        first_offsets = await asyncio.to_thread(self._first_offsets, topic, from_epoch, info)
        planned = MovePlan(topic, from_epoch, info.log_epoch, first_offsets, bool(fences))
        if any(fence.is_halted for fence in fences.values()):
            # the lake holds events that no gate has let pass, and lacks the letters that lie among them
            return replace(planned, problem=f"{topic}: it is halted by a gate. Resume it first")
        was_applied = any(fence.next_offset for fence in fences.values() if fence.epoch == from_epoch)
        tombstones = await self._ports.repair.tombstones()
        return await asyncio.to_thread(self._measured, planned, tombstones, was_applied=was_applied)

    def _known_to_the_lake(self, topic: str, log_epoch: str, from_epochs: Collection[str]) -> set[str]:
        """Return which named logs the lake holds of a topic: of an online store that was emptied nothing tells it."""
        known = set()
        for epoch in set(from_epochs) - {log_epoch}:
            logs = [PartitionLog(epoch, topic, partition) for partition in range(count_of(epoch))]
            if any(self._source.reach(log) is not None for log in logs):
                known.add(epoch)
        return known

    def _first_offsets(self, topic: str, from_epoch: str, info: TopicInfo) -> dict[int, int]:
        """Return where the new log begins: where that was noted, or behind what the lake holds of the former one."""
        noted = read_log_moves(self._lake).into(topic, info.log_epoch)
        if noted:
            return {partition: row.first_offset for partition, row in sorted(noted.items())}
        is_same_topic = from_epoch.rpartition(":")[0] == info.topic_id
        offsets = dict.fromkeys(range(info.partition_count), 0)
        if is_same_topic:
            for partition in range(min(count_of(from_epoch), info.partition_count)):
                new = PartitionLog(info.log_epoch, topic, partition)
                reach = self._source.reach(new)  # a worker may have read of the new log before it noticed
                end = self._source.position(new)
                offsets[partition] = end if reach is None else min(end, reach.first_offset)
        return offsets

    def _measured(self, planned: MovePlan, tombstones: Tombstones, *, was_applied: bool) -> MovePlan:
        logs = [
            PartitionLog(planned.from_epoch, planned.topic, partition)
            for partition in range(count_of(planned.from_epoch))
        ]
        counts = sum((self._source.counts(log) for log in logs), Counter[str]())
        is_same_topic = planned.from_epoch.rpartition(":")[0] == planned.to_epoch.rpartition(":")[0]
        ends = self._ports.ends(planned.topic) if is_same_topic else {}
        unread = sum(max(0, ends.get(log.partition, 0) - planned.first_offsets.get(log.partition, 0)) for log in logs)
        problem = self._problem(planned, logs, counts, tombstones)
        if not problem and was_applied and all(self._source.reach(log) is None for log in logs):
            problem = f"{planned.topic}: the lake holds nothing of {planned.from_epoch}"
        return replace(
            planned, event_count=counts.total(), user_count=len(counts), unread_count=unread, problem=problem
        )

    def _problem(
        self, planned: MovePlan, logs: Sequence[PartitionLog], users: Collection[str], tombstones: Tombstones
    ) -> str:
        topic = planned.topic
        if self._ports.is_worker_live():
            return f"{topic}: a worker runs. Stop all workers first"
        noted = {row.from_epoch for row in read_log_moves(self._lake).into(topic, planned.to_epoch).values()}
        if noted - {planned.from_epoch}:
            return f"{topic}: the lake says that its log follows {', '.join(noted)}, not {planned.from_epoch}"
        if any(user_id.startswith(PSEUDONYM_PREFIX) for user_id in users):
            return (
                f"{topic}: its users are pseudonymised, so nobody can tell which partition each belongs to. Start over "
                "from the log instead (docs/how-to/operate-the-worker.md)"
            )
        now_ms = self._ports.repair.clock.now_ms()
        missing = (
            shortage(self._source, log, tombstones, now_ms=now_ms, future_tolerance_ms=self._ports.future_tolerance_ms)
            for log in logs
        )
        return next(filter(None, missing), "")
