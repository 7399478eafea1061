"""Repairs users whose events never pause: a race with live, by what Kafka holds behind the lake.

The lake is behind live by a flush. For a user with an event in every batch it never holds all that live has applied,
so a repair from it alone is always too old. Here the last records come from Kafka, up to the fence, and the state is
offered at once: some milliseconds in all, where live needs as long for a batch. Who loses the race runs again.

What takes long is done before: that nobody else repairs a user in another order, and that a repair is noted. Only a
repair raises a generation, so one that is as it was then needs no second look.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from feature_repo.outcomes import record_outcomes
from features.state import read_trailer
from features.versioning import VersionConflictError, WriteOutcome
from replay.lake_folds import LakeFold
from replay.repair_states import RepairFences, is_same, note_of, repair_of
from replay.sources import LogEntry
from sinks.lake_reads import PartitionLog
from sinks.repairs import RepairSink
from sinks.rows import FeatureLogRow
from streams.ports import Clock, OnlineStates

LAPS: Final = 100
USERS_MAX: Final = 2_000
REST_S: Final = 0.01


class Chase:
    """One chase after the users that a fold has left."""

    def __init__(
        self,
        log: PartitionLog,
        online: OnlineStates,
        fences: RepairFences,
        fold: LakeFold,
        sink: RepairSink,
        clock: Clock,
    ) -> None:
        self._log = log
        self._online = online
        self._fences = fences
        self._fold = fold
        self._sink = sink
        self._clock = clock

    async def run(
        self, read_to: Callable[[int], list[LogEntry]], erasures_changed: Callable[[], Awaitable[bool]]
    ) -> Sequence[FeatureLogRow]:
        """Race until nobody is left, or for some laps; who was repaired has left the fold.

        Args:
            read_to: returns the events from where the fold stands, or it stopped itself, to before an offset; blocking.
            erasures_changed: tells whether somebody was erased since the fold; it is begun anew then.

        Returns:
            The states that the online store took.
        """
        users = sorted(self._fold.states)[:USERS_MAX]
        generations = {
            user_id: read_trailer(found.state).generation
            for user_id, found in (await self._online.load(self._log.topic, users)).items()
        }
        await asyncio.to_thread(self._fold.heed_corrections)
        if await erasures_changed():
            return ()
        states = {
            user_id: self._fold.states[user_id] for user_id in generations if self._fold.ends_in_log_order(user_id)
        }
        taken: list[FeatureLogRow] = []
        noted: set[str] = set()
        for _ in range(LAPS):
            if not states:
                break
            taken += await self._lap(states, generations, noted, read_to)
            await asyncio.sleep(REST_S)  # live has the machine in between
        if taken:
            self._sink.new_round()
            await asyncio.to_thread(self._sink.log_states, sorted(taken, key=lambda row: row.version))
        return taken

    async def _lap(
        self,
        states: dict[str, bytes],
        generations: dict[str, int],
        noted: set[str],
        read_to: Callable[[int], list[LogEntry]],
    ) -> list[FeatureLogRow]:
        """Offer each state as of the fence; drop from `states` who is done, or is no longer as it was."""
        fence = (await self._fences.read(self._log.topic)).get(self._log.partition)
        if fence is None or fence.epoch != self._log.log_epoch:
            states.clear()
            return []
        entries = await asyncio.to_thread(read_to, fence.next_offset)
        states.update(self._fold.folded_further(states, entries))
        stored = await self._online.load(self._log.topic, list(states))
        offers = {}
        for user_id, state in list(states.items()):
            found = stored.get(user_id)
            if found is None or read_trailer(found.state).generation != generations[user_id]:
                del states[user_id]  # erased, lost or repaired by somebody else: that takes a closer look
            elif is_same(state, found.state):
                del states[user_id]  # right already: the next round finds it so
            elif read_trailer(found.state).version <= read_trailer(state).version:
                offers[user_id] = repair_of(state, found)
        return await self._offered(offers, states, noted) if offers else []

    async def _offered(
        self, offers: dict[str, bytes], states: dict[str, bytes], noted: set[str]
    ) -> list[FeatureLogRow]:
        new = [note_of(user_id, offers[user_id]) for user_id in offers.keys() - noted]
        if new:
            noted.update(note.user_id for note in new)
            in_order = sorted(new, key=lambda note: note.version)
            await asyncio.to_thread(self._sink.note, in_order, self._clock.now_ms())
            return []  # that took long: offer what is newer then
        servable_ms = self._clock.now_ms()
        with record_outcomes() as outcomes, suppress(VersionConflictError):
            await self._online.push(self._log.topic, list(offers.items()), servable_ms)
        rows = []
        for user_id, state in offers.items():
            if outcomes.by_user.get(user_id) is WriteOutcome.WRITTEN:
                rows.append(FeatureLogRow(user_id, read_trailer(state).version, state, servable_ms))
                del states[user_id]
                self._fold.forget(user_id)
        return rows
