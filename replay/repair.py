"""Repairs: states of one partition's users built anew from the lake, beside a running worker.

A repair is a fold of all that the lake holds of a user, built from nothing, one generation above what is stored. The
online store takes it only where it holds no greater version (features/versioning.py), so an event that live has
applied is never undone: a user whose stored version the lake does not reach yet is offered again when it does. For
users whose events never pause, Kafka tells what the lake lacks (replay/chase.py); if that does not help, the worker is
asked to hold the partition for as long as it takes.

A round, for some users at a time: fold what the lake holds, load what is stored, look whether somebody else has begun
to repair in another order, note what is offered, offer it, log what was taken. So of two repairs of one user at the
same time, one finds the generation taken, and looks again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from feature_repo.outcomes import record_outcomes
from feature_repo.states import StoredState
from features.state import decode, read_trailer
from features.versioning import VersionConflictError, WriteOutcome
from replay.chase import Chase
from replay.errors import NotRetainedError, RepairStuckError
from replay.lake_folds import FoldOrder, LakeFold, erasures_of
from replay.repair_states import RepairFences, is_same, note_of, repair_of
from replay.sources import EventSource, LakeSource, LogEntry
from schemas.errors import BrokerUnavailableError, RegistryUnavailableError
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake
from sinks.repairs import RepairSink
from sinks.rows import FeatureLogRow
from streams.ports import Clock, OnlineStates

__all__ = ["FoldOrder", "PartitionLog", "PartitionRepair", "RepairFences", "RepairPorts", "Repaired", "repair_users"]

logger = logging.getLogger(__name__)

USERS_AT_ONCE: Final = 2_000
POLL_S: Final = 0.2
HOLD_AFTER_S: Final = 3.0
CHASE_S: Final = 30.0
HOLD_S: Final = 5.0
WAIT_S: Final = 60.0


OpenTail = Callable[[PartitionLog, int], AbstractContextManager[Callable[[int], list[LogEntry]]]]


async def _nobody_erased() -> Tombstones:
    return Tombstones()


@dataclass(frozen=True, slots=True)
class RepairPorts:
    """What a repair reads and writes.

    Attributes:
        lake: where repairs are noted, and what is folded unless `open_source` says otherwise.
        online: where states are loaded and pushed.
        tombstones: tells whose events were erased and must not come back.
        open_source: gives what is folded, one for each partition; the lake if it is None.
        open_tail: follows Kafka from an offset on, for what live has applied and the source does not hold yet; None to
            wait for the source.
        chase_turn: one partition at a time races with live: two in one process would only slow each other down.
    """

    lake: Lake
    online: OnlineStates
    fences: RepairFences
    clock: Clock
    tombstones: Callable[[], Awaitable[Tombstones]] = _nobody_erased
    open_source: Callable[[], EventSource] | None = None
    open_tail: OpenTail | None = None
    chase_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def events(self) -> EventSource:
        """Return what is folded, for one thread at a time."""
        return LakeSource(self.lake) if self.open_source is None else self.open_source()


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done.

    Attributes:
        versions: the users whose state was replaced, and the version of the new one.
        agreed_count: users whose stored state was right already.
    """

    versions: Mapping[str, int]
    agreed_count: int


class RepairProgress(NamedTuple):
    """How far a repair has come.

    Attributes:
        event_count: events that were folded so far, some of them more than once.
        pending_count: users that are folded and not done.
    """

    event_count: int
    done_count: int
    pending_count: int


async def repair_users(
    log: PartitionLog,
    order: FoldOrder,
    ports: RepairPorts,
    *,
    users: Collection[str] | None = None,
    wait_s: float = WAIT_S,
) -> Repaired:
    """Give users of one partition the state that the lake folds to; safe beside a worker, and to stop and repeat.

    Args:
        order: LOG rebuilds what live has built; EVENT_TIME counts events that came back late, too.
        users: whom; None for all that the lake holds. Who has no event there is left alone.
        wait_s: how long to wait, without any progress, for the lake to reach what the online store holds.

    Raises:
        RepairStuckError: the lake does not reach what the online store holds of some users.
        LakeUnavailableError: the lake cannot be read or written.
        OnlineStoreError: the online store does not answer; what was repaired stays, so call again.
    """
    repair = PartitionRepair(log, order, ports, users=users, wait_s=wait_s)
    await repair.run()
    return repair.repaired()


class PartitionRepair:
    """One repair of one partition; `run` may be called again, for what the lake has got since."""

    def __init__(
        self,
        log: PartitionLog,
        order: FoldOrder,
        ports: RepairPorts,
        *,
        users: Collection[str] | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self._log = log
        self._open_tail = ports.open_tail if order is FoldOrder.LOG else None
        self._ports = ports
        self._wait_s = wait_s
        self._fold = LakeFold(ports.events(), log, order, users=users)
        self._tombstones = Tombstones()
        self._sink = RepairSink(ports.lake, log, order.value)
        self._versions: dict[str, int] = {}
        self._agreed_count = 0
        self._only_partial = False
        self._earlier: list[FeatureLogRow] = []

    def repaired(self) -> Repaired:
        """Return what was done so far."""
        return Repaired(dict(self._versions), self._agreed_count)

    def progress(self) -> RepairProgress:
        """Tell how far it has come, also while it runs."""
        done_count = len(self._versions) + self._agreed_count
        return RepairProgress(self._fold.event_count, done_count, len(self._fold.states))

    async def run(self, until_offset: int = 0, *, only_partial: bool = False) -> None:
        """Repair until nobody is left; begin when the lake reaches `until_offset`.

        Args:
            until_offset: what live has applied for sure; a user without a state has no event between.
            only_partial: leave states alone that are not marked as partial.

        Raises:
            RepairStuckError: the lake did not get there in time.
            LakeUnavailableError, OnlineStoreError: call again.
        """
        self._only_partial = only_partial
        await self._heed_erasures()
        await self._reach(until_offset)
        hold_from_s: float | None = None
        held = False
        clock = self._ports.clock
        try:
            while not await self._round() or await self._chased():
                now_s = clock.monotonic_s()
                if hold_from_s is None:
                    hold_from_s = now_s + (HOLD_AFTER_S if self._open_tail is None else CHASE_S)
                elif now_s > hold_from_s + self._wait_s:
                    raise await self._stuck()
                elif now_s > hold_from_s:
                    held = True
                    await self._hold(round(HOLD_S * 1000))
                await asyncio.sleep(POLL_S)
                await asyncio.to_thread(self._fold.read_on)
        finally:
            if held:
                await self._hold(None)
        await self._log_earlier()

    async def _reach(self, until_offset: int) -> None:
        """Read until the lake reaches an offset."""
        moved_s: float | None = None
        while True:
            moved = await asyncio.to_thread(self._fold.read_on)
            if self._fold.position >= until_offset:
                return
            now_s = self._ports.clock.monotonic_s()
            if moved or moved_s is None:
                moved_s = now_s
            elif now_s - moved_s > self._wait_s:
                raise await self._stuck()
            await asyncio.sleep(POLL_S)

    async def _hold(self, for_ms: int | None) -> None:
        until_ms = 0 if for_ms is None else self._ports.clock.now_ms() + for_ms
        await self._ports.fences.hold(self._log.topic, self._log.partition, until_ms=until_ms)

    async def _round(self) -> bool:
        """Offer every folded state once; tell whether that was done, or all must be folded anew."""
        self._sink.new_round()
        states = self._fold.states
        pending = sorted(states, key=lambda user_id: read_trailer(states[user_id]).version)
        for first in range(0, len(pending), USERS_AT_ONCE):
            if not await self._offer(pending[first : first + USERS_AT_ONCE]):
                return False
        return True

    async def _offer(self, user_ids: Sequence[str]) -> bool:
        stored = await self._ports.online.load(self._log.topic, user_ids)
        # after the load: whoever repairs a user in another order has noted it before it was stored
        await asyncio.to_thread(self._fold.heed_corrections)
        if await self._heed_erasures():
            return False
        offers: dict[str, bytes] = {}
        for user_id in user_ids:
            folded, found = self._fold.states[user_id], stored.get(user_id)
            if found is not None and (is_same(folded, found.state) or self._may_stay(found.state)):
                self._agree(user_id, found)
            elif found is None or read_trailer(found.state).version <= read_trailer(folded).version:
                offers[user_id] = repair_of(folded, found)
        if offers:
            await self._push(offers)
        return True

    async def _chased(self) -> bool:
        """Catch up with live, by what Kafka holds behind the source; tell whether somebody is left."""
        if self._fold.states and self._open_tail is not None:
            chase = Chase(self._log, self._ports.online, self._ports.fences, self._fold, self._sink, self._ports.clock)
            try:
                async with self._ports.chase_turn:
                    with self._open_tail(self._log, self._fold.position) as read_to:
                        for row in await chase.run(read_to, self._heed_erasures):
                            self._versions[row.user_id] = row.version
            except (BrokerUnavailableError, RegistryUnavailableError, NotRetainedError) as error:
                logger.warning("what live has applied since its last flush is waited for, because %s", error)
                self._open_tail = None
        return bool(self._fold.states)

    async def _heed_erasures(self) -> bool:
        """Begin to fold anew if somebody was erased since the last look; tell whether."""
        found = await self._ports.tombstones()
        if found == self._tombstones:
            return False
        self._tombstones = found
        erased_in = erasures_of(found)
        self._fold.start_over(erased_in(self._log), erased_in)
        return True

    def _may_stay(self, stored: bytes) -> bool:
        return self._only_partial and not decode(stored).partial

    def _agree(self, user_id: str, found: StoredState) -> None:
        self._agreed_count += 1
        self._fold.forget(user_id)
        trailer = read_trailer(found.state)
        if trailer.generation and not trailer.built_from:
            # a repair; the one that stored it may have been killed before it logged it
            self._earlier.append(FeatureLogRow(user_id, trailer.version, found.state, found.servable_ms))

    async def _push(self, offers: Mapping[str, bytes]) -> None:
        now_ms = self._ports.clock.now_ms()
        notes = [note_of(user_id, state) for user_id, state in offers.items()]
        await asyncio.to_thread(self._sink.note, sorted(notes, key=lambda note: note.version), now_ms)
        servable_ms = self._ports.clock.now_ms()
        # of a conflict: live was faster; they stay, and are offered again when the lake has what live pushed
        with record_outcomes() as outcomes, suppress(VersionConflictError):
            await self._ports.online.push(self._log.topic, list(offers.items()), servable_ms)
        taken = [user for user in offers if outcomes.by_user.get(user) is WriteOutcome.WRITTEN]
        rows = [FeatureLogRow(user, read_trailer(offers[user]).version, offers[user], servable_ms) for user in taken]
        if rows:
            await asyncio.to_thread(self._sink.log_states, rows)
        for row in rows:
            self._versions[row.user_id] = row.version
            self._fold.forget(row.user_id)

    async def _log_earlier(self) -> None:
        earlier, self._earlier = self._earlier, []
        if earlier:
            await asyncio.to_thread(self._sink.log_missing, earlier)

    async def _stuck(self) -> RepairStuckError:
        fence = (await self._ports.fences.read(self._log.topic)).get(self._log.partition)
        applied = 0 if fence is None else fence.next_offset
        waiting = f"; {len(self._fold.states)} users wait for it" if self._fold.states else ""
        return RepairStuckError(
            f"{self._log.topic}-{self._log.partition}: the {self._fold.source_name} holds the log up to offset "
            f"{self._fold.position}, the online store up to {applied}{waiting}. That did not change for "
            f"{self._wait_s:g} s.",
            hint="Start a worker, or see why the one that runs does not flush; then run this again, it goes on where "
            "it stopped. If the lake was restored from an older copy, restore the newest one.",
        )
