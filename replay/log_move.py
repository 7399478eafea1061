"""Moves the states of a topic to a new log epoch: the topic got more partitions, or was created again.

Offsets of two logs are not comparable, so the states cannot simply be read on. What a user's state held of the former
log becomes the beginning of the user's log in the new one: the same content, and as version where the new log begins.

1. `log_moves` in the lake tells from now on where the new log begins and which one it follows. Written once: a run that
   follows one that was killed goes by what is there;
2. each user's state is folded from the lake, of both logs, and put in place of the stored one, if that is still the one
   that was read;
3. states of users whom the lake does not know are removed: their versions would hide records of the new log;
4. the fences of the new log take the place of those of the former one, all in one instant.

Until then no worker starts: what it finds are fences of another log. It may be killed anywhere and run again.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from config.errors import ShopstreamError
from feature_repo.fence import Fence, PartitionStatus
from feature_repo.replacing import Replacement
from features.state import read_trailer
from replay.errors import MoveOvertakenError, MoveRefusedError
from replay.lake_folds import FoldOrder, LakeFold, erasures_of
from replay.log_move_plan import MovePlan, MovePorts
from replay.repair import USERS_AT_ONCE, RepairProgress
from replay.repair_states import is_same, note_of, repair_of
from replay.sources import LakeSource
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog
from sinks.log_moves import MoveRow, note_log_move
from sinks.repairs import RepairSink
from sinks.rows import FeatureLogRow

HOW_TO: Final = "See docs/how-to/move-to-more-partitions.md."


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What a move did.

    Attributes:
        moved_count: users whose state was replaced.
        agreed_count: users whose state was there already, from a run before.
        removed_count: states of users whom the lake does not know.
    """

    topic: str
    from_epoch: str
    to_epoch: str
    moved_count: int
    agreed_count: int
    removed_count: int

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "topic": self.topic,
            "from_epoch": self.from_epoch,
            "to_epoch": self.to_epoch,
            "moved": self.moved_count,
            "agreed": self.agreed_count,
            "removed": self.removed_count,
        }


class LogMove:
    """Moves topics, one after the other. Memory grows with the users: the ids of all, the states of a partition."""

    def __init__(self, ports: MovePorts) -> None:
        self._ports = ports
        self._lake = ports.repair.lake
        self._source = LakeSource(ports.repair.lake)
        self._event_count = 0
        self._moved_count = 0
        self._agreed_count = 0
        self._pending_count = 0

    def progress(self) -> RepairProgress:
        """Tell how far it has come, also while it runs."""
        return RepairProgress(self._event_count, self._moved_count + self._agreed_count, self._pending_count)

    async def move(self, planned: MovePlan) -> MoveResult:
        """Move one topic; it may be stopped at any point, and done again.

        Raises:
            MoveRefusedError: the plan names a problem.
            MoveOvertakenError: another run has finished it, or the online store was emptied meanwhile.
            LakeUnavailableError, OnlineStoreError: call again.
        """
        if planned.problem:
            raise MoveRefusedError(f"{planned.problem}.", hint=HOW_TO)
        topic, clock = planned.topic, self._ports.repair.clock
        self._moved_count = self._agreed_count = 0
        rows = [
            MoveRow(topic, planned.from_epoch, planned.to_epoch, partition, offset, clock.now_ms())
            for partition, offset in planned.first_offsets.items()
        ]
        moves = await asyncio.to_thread(note_log_move, self._lake, rows)
        users: set[str] = set()
        fences = {}
        for partition, row in sorted(moves.into(topic, planned.to_epoch).items()):
            position = await self._move_partition(planned, PartitionLog(planned.to_epoch, topic, partition), users)
            next_offset = max(row.first_offset, position)
            fences[partition] = Fence(planned.to_epoch, next_offset, PartitionStatus.LIVE, clock.now_ms())
        removed_count = await self._remove_others(planned, users)
        await self._check_former(planned)
        if not await self._ports.fences.succeed(topic, planned.from_epoch, fences):
            raise _overtaken(planned)
        return MoveResult(
            topic, planned.from_epoch, planned.to_epoch, self._moved_count, self._agreed_count, removed_count
        )

    async def move_all(self, plans: Sequence[MovePlan]) -> list[MoveResult | ShopstreamError]:
        """Move topics; return what became of each, or why it could not be moved."""
        outcomes: list[MoveResult | ShopstreamError] = []
        for planned in plans:
            try:
                outcomes.append(await self.move(planned))
            except ShopstreamError as error:
                outcomes.append(error)
        return outcomes

    async def _move_partition(self, planned: MovePlan, log: PartitionLog, users: set[str]) -> int:
        """Replace the states of a partition's users; return how far the lake holds its log."""
        while True:
            tombstones = await self._ports.repair.tombstones()
            erased_in = erasures_of(tombstones)
            fold = LakeFold(self._source, log, FoldOrder.LOG, is_erased=erased_in(log), erased_in=erased_in)
            await asyncio.to_thread(fold.read_on)
            self._event_count += fold.event_count
            self._pending_count = len(fold.states)
            if await self._replace_all(planned, log, fold.states, tombstones):
                users.update(fold.states)
                return fold.position

    async def _replace_all(
        self, planned: MovePlan, log: PartitionLog, states: Mapping[str, bytes], tombstones: Tombstones
    ) -> bool:
        """Replace states; tell whether that was done, or all must be folded anew because somebody was erased."""
        sink = RepairSink(self._lake, log, FoldOrder.LOG.value)
        in_order = sorted(states, key=lambda user_id: read_trailer(states[user_id]).version)
        stored_before: list[FeatureLogRow] = []
        for first in range(0, len(in_order), USERS_AT_ONCE):
            pending = in_order[first : first + USERS_AT_ONCE]
            while pending:
                found = await self._ports.repair.online.load(log.topic, pending)
                await self._check_former(
                    planned
                )  # after the load: what was loaded no worker of the new log has written
                if await self._ports.repair.tombstones() != tombstones:
                    return False
                rows = []
                for user_id in pending:
                    state, stored = states[user_id], found.get(user_id)
                    if stored is not None and is_same(state, stored.state):
                        version = read_trailer(state).version
                        stored_before.append(FeatureLogRow(user_id, version, stored.state, stored.servable_ms))
                    else:
                        rows.append(Replacement(user_id, stored.state if stored else None, repair_of(state, stored)))
                self._agreed_count += len(pending) - len(rows)
                self._pending_count -= len(pending)
                pending = await self._replace(log, sink, rows)
                self._pending_count += len(pending)
        if stored_before:  # by a run that may have been killed before it logged them
            await asyncio.to_thread(sink.log_missing, stored_before)
        return True

    async def _replace(self, log: PartitionLog, sink: RepairSink, rows: Sequence[Replacement]) -> list[str]:
        """Note, replace and log states; return the users of whom somebody has changed the state since it was read."""
        if not rows:
            return []
        now_ms = self._ports.repair.clock.now_ms()
        states = {row.user_id: row.state for row in rows if row.state is not None}
        await asyncio.to_thread(sink.note, [note_of(user_id, state) for user_id, state in states.items()], now_ms)
        changed = await self._ports.states.replace(log.topic, rows, now_ms)
        taken = [
            FeatureLogRow(user_id, read_trailer(state).version, state, now_ms)
            for user_id, state in states.items()
            if user_id not in changed
        ]
        if taken:
            await asyncio.to_thread(sink.log_states, taken)
        self._moved_count += len(taken)
        return [row.user_id for row in rows if row.user_id in changed]

    async def _remove_others(self, planned: MovePlan, users: Collection[str]) -> int:
        """Remove the states of users whom the lake does not know; return how many."""
        topic, removed_count = planned.topic, 0
        stored_users = self._ports.states.users()
        while (part := await asyncio.to_thread(next, stored_users, None)) is not None:
            pending = [user_id for user_id in part if user_id not in users]
            while pending:
                found = await self._ports.repair.online.load(topic, pending)
                await self._check_former(planned)
                rows = [Replacement(user_id, stored.state, None) for user_id, stored in found.items()]
                changed = await self._ports.states.replace(topic, rows, 0)
                removed_count += len(rows) - len(changed)
                pending = sorted(changed)
        return removed_count

    async def _check_former(self, planned: MovePlan) -> None:
        """See that the fences still are those of the former log: then no worker of the new one has begun."""
        fences = await self._ports.fences.read(planned.topic)
        epochs = {fence.epoch for fence in fences.values()}
        if (planned.from_epoch in epochs) if planned.has_fences else not epochs:
            return
        raise _overtaken(planned)


def _overtaken(planned: MovePlan) -> MoveOvertakenError:
    return MoveOvertakenError(
        f"{planned.topic}: the fences in the online store changed while its states were moved from "
        f"{planned.from_epoch}: another run has finished it, or the store was emptied or restored.",
        hint="Run `shopstream replay --into online --dry-run`: it tells what is left to do.",
    )
