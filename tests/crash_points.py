"""Named points at which a worker may die, around every effect that it has on the outside.

Between two effects nothing changes but the worker's own memory, which dies with it. So these points are all the
places that can be told apart from outside; the simulation and the faults on the real stack share them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feature_repo.fence import Fence, FenceMove, Moved, PartitionStatus
from feature_repo.states import StoredState
from schemas.dead_letter import DeadLetter
from sinks.delta import TablePart
from sinks.lake import Appender
from sinks.rows import FlushReport, PartitionFlush, TableCounts
from streams.loop import Sinks
from streams.ports import Fences, Lake, Letters, OnlineStates

TABLE_POINTS: Final = tuple(
    f"{when} append to {table}"
    for table in ("raw_events", "feature_log", "dead_letters")
    for when in ("before", "after")
)
COMMIT_POINTS: Final = ("before commit", "after commit")
CRASH_POINTS: Final = (
    *(f"{when} {what}" for what in ("load", "fence read", "push", "fence move") for when in ("before", "after")),
    *TABLE_POINTS,
    *(f"{when} {what}" for what in ("lake", "letters") for when in ("before", "after")),
    *COMMIT_POINTS,
)

Reached = Callable[[str], None]


def watched(sinks: Sinks, reached: Reached) -> Sinks:
    """Return the same sinks, telling `reached` the name of each point before and after an effect.

    The points of the tables and of the commit lie elsewhere: see `WatchedAppender` and `COMMIT_POINTS`.
    """
    return Sinks(
        online=_Online(sinks.online, reached),
        fences=_Fences(sinks.fences, reached),
        lake=_Lake(sinks.lake, reached),
        letters=_Letters(sinks.letters, reached),
    )


@dataclass
class WatchedAppender:
    """An appender of one table with a point before and after."""

    appender: Appender
    table: str
    reached: Reached

    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        """Append."""
        self.reached(f"before append to {self.table}")
        counts = self.appender.append(parts)
        self.reached(f"after append to {self.table}")
        return counts


@dataclass
class _Online:
    online: OnlineStates
    reached: Reached

    async def load(self, topic: str, user_ids: Sequence[str]) -> dict[str, StoredState]:
        self.reached("before load")
        loaded = await self.online.load(topic, user_ids)
        self.reached("after load")
        return loaded

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        self.reached("before push")
        await self.online.push(topic, rows, servable_ms)
        self.reached("after push")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.online, name)


@dataclass
class _Fences:
    fences: Fences
    reached: Reached

    async def read(self, topic: str) -> dict[int, Fence]:
        self.reached("before fence read")
        found = await self.fences.read(topic)
        self.reached("after fence read")
        return found

    async def move(self, topic: str, moves: Mapping[int, FenceMove]) -> Moved:
        self.reached("before fence move")
        moved = await self.fences.move(topic, moves)
        self.reached("after fence move")
        return moved

    async def halt(self, topic: str, since_ms: int) -> int:
        return await self.fences.halt(topic, since_ms)

    async def advance(self, topic: str, partition: int, fence: Fence) -> None:
        await self.fences.advance(topic, partition, fence)

    async def place(self, topic: str, partition: int, fence: Fence) -> None:
        await self.fences.place(topic, partition, fence)

    async def set_status(self, topic: str, partition: int, status: PartitionStatus, *, since_ms: int) -> None:
        await self.fences.set_status(topic, partition, status, since_ms=since_ms)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fences, name)


@dataclass
class _Lake:
    lake: Lake
    reached: Reached

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        self.reached("before lake")
        report = await self.lake.write(flushes)
        self.reached("after lake")
        return report

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lake, name)


@dataclass
class _Letters:
    letters: Letters
    reached: Reached

    async def write(self, letters: Sequence[DeadLetter], /) -> None:
        self.reached("before letters")
        await self.letters.write(letters)
        self.reached("after letters")
