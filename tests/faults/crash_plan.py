"""When and where a worker under test kills itself: what runs inside the worker."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from config.settings import Settings
from sinks.delta import DeltaAppender
from sinks.lake import LakeSink
from sinks.lake_root import Lake
from sinks.tables import LakeTable
from streams.adapters import ThreadedLake
from streams.faust_app import FeatureApp
from streams.loop import BatchLoop, Sinks
from streams.ports import Batch, TopicPartition
from tests.crash_points import COMMIT_POINTS, CRASH_POINTS, WatchedAppender, watched

FIRST: Final = "first"
MIDDLE: Final = "middle"
LAST: Final = "last"
MOMENTS: Final = (FIRST, MIDDLE, LAST)

_PER_BATCH: Final = ("load", "fence read", "push", "fence move")


@dataclass(frozen=True)
class CrashPlan:
    """Where a worker kills itself with SIGKILL, or stops itself with SIGSTOP.

    Attributes:
        point: one of `tests.crash_points.CRASH_POINTS`.
        moment: `first`, `middle` or `last` batch (or flush) of what waits when the worker starts. The middle is reached
            when half of that has been read, the last when all of it has been.
        stops: send SIGSTOP instead, once: the worker goes on from there when somebody continues it.
    """

    point: str
    moment: str
    stops: bool = False

    def __post_init__(self) -> None:
        if self.point not in CRASH_POINTS or self.moment not in MOMENTS:
            raise ValueError(f"no such crash: {self}")


class Crash:
    """Is told each point that is passed, and sends this process a signal at the planned one: SIGKILL or SIGSTOP."""

    def __init__(self, plan: CrashPlan) -> None:
        self._plan = plan
        self._is_done = False
        self._loop: BatchLoop | None = None
        self._in_flight = 0
        self._waiting_at_start = 0

    def watch(self, loop: BatchLoop) -> None:
        """Follow how far a loop has come."""
        self._loop = loop
        process, opened = loop.process, loop.open

        async def counted(batches: Sequence[Batch]) -> None:
            count = sum(len(batch.records) for batch in batches)
            self._in_flight += count
            try:
                await process(batches)
            finally:
                self._in_flight -= count

        def open_(partitions: Mapping[TopicPartition, Any], seek_epoch: int) -> None:
            opened(partitions, seek_epoch)
            self._waiting_at_start = self._lag()

        loop.process, loop.open = counted, open_  # type: ignore[method-assign]

    def reached(self, name: str) -> None:
        """Note that a point is passed."""
        if name == self._plan.point and not self._is_done and self._is_due():
            self._is_done = True
            os.kill(os.getpid(), signal.SIGSTOP if self._plan.stops else signal.SIGKILL)

    def _is_due(self) -> bool:
        if self._plan.moment == FIRST:
            return True
        if self._loop is None or not self._loop.partitions:
            return False  # a fence is read before anything is owned, too
        per_batch = any(self._plan.point.endswith(effect) for effect in _PER_BATCH)
        left = self._lag() - (self._in_flight if per_batch else 0)
        return left <= (self._waiting_at_start // 2 if self._plan.moment == MIDDLE else 0)

    def _lag(self) -> int:
        assert self._loop is not None
        return sum(progress.lag_records for progress in self._loop.partitions.values())


def through(settings: Settings, reached: Callable[[str], None]) -> Callable[[Sinks], Sinks]:
    """Return what puts points around every effect of a worker's sinks."""

    def open_table(root: Lake, table: LakeTable) -> WatchedAppender:
        return WatchedAppender(DeltaAppender(root, table), table.name, reached)

    def wrapped(sinks: Sinks) -> Sinks:
        lake = ThreadedLake(LakeSink(settings.lake_path, open_table=open_table))
        return watched(Sinks(online=sinks.online, fences=sinks.fences, lake=lake, letters=sinks.letters), reached)

    return wrapped


def watch_commits(app: FeatureApp, reached: Callable[[str], None]) -> None:
    """Put points before a commit is sent and after Kafka has answered it."""
    owner = app.ownership
    committable, committed = owner.committable, owner.committed
    before, after = COMMIT_POINTS

    def asked() -> Mapping[TopicPartition, int]:
        offsets = committable()
        if offsets:
            reached(before)
        return offsets

    def answered(offsets: Mapping[TopicPartition, int]) -> None:
        reached(after)
        committed(offsets)

    owner.committable, owner.committed = asked, answered  # type: ignore[method-assign]
