"""Bugs, planted one at a time in the production code: each must break a promise of the simulation."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from msgspec import structs

import feature_repo.on_demand
import features.apply
import replay.lake_folds
import replay.parity_ways
import streams.assignment
import streams.folding
import streams.loop
import streams.ownership
from feature_repo.fence import FenceMove
from features.finalize import finalize
from features.retention import LATENESS_MS
from features.state import Trailer, read_trailer
from features.versioning import VersionConflictError, WriteOutcome
from replay.sources import entries_of
from sinks.exact_append import ExactAppender
from sinks.rows import FeatureLogRow
from streams.errors import SinkFailedError
from streams.flushing import Flusher
from streams.halting import HaltWatch
from streams.loop import BatchLoop
from tests.fakes import lake as lake_fake
from tests.fakes import online as online_fake

Plant = Callable[[ExitStack], None]
_PLANTS: dict[str, Plant] = {}
_REPLAY_PLANTS: set[str] = set()


def _mutant(plant: Plant) -> Plant:
    _PLANTS[plant.__name__.strip("_").replace("_", " ")] = plant
    return plant


def _replay_mutant(plant: Plant) -> Plant:
    """Plant a bug in a replay, which parity must find."""
    _REPLAY_PLANTS.add(plant.__name__.strip("_").replace("_", " "))
    return _mutant(plant)


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Have a bug for the time of the block."""
    with ExitStack() as stack:
        _PLANTS[name](stack)
        yield


def _replace(stack: ExitStack, target: Any, name: str, new: Any) -> None:
    stack.enter_context(patch.object(target, name, new))


@_mutant
def _commit_before_flush(stack: ExitStack) -> None:
    def committable(self: BatchLoop) -> dict[Any, int]:
        return {
            tp: progress.next_offset
            for tp, progress in self.partitions.items()
            if progress.next_offset > (progress.committed_offset or 0)
        }

    _replace(stack, BatchLoop, "committable", committable)


@_mutant
def _redelivered_at_the_version_too(stack: ExitStack) -> None:
    """`<=` for `<` in the version check."""
    take = features.apply._take

    def mutant(state: Any, event: Any, offset: int) -> Any:
        return features.apply.Outcome.REDELIVERED if 0 < state.version == offset else take(state, event, offset)

    _replace(stack, features.apply, "_take", mutant)


@_mutant
def _the_greater_version_wins(stack: ExitStack) -> None:
    def decide(stored: Trailer | None, new: Trailer) -> WriteOutcome:
        is_newer = stored is None or (new.generation, new.version) > (stored.generation, stored.version)
        return WriteOutcome.WRITTEN if is_newer else WriteOutcome.ALREADY_INCLUDED

    _replace(stack, online_fake, "decide", decide)


@_mutant
def _what_is_refused_counts_as_written(stack: ExitStack) -> None:
    async def push(self: BatchLoop, topic: str, folds: Any) -> None:
        try:
            await self._push_once(topic, folds)
        except VersionConflictError:
            return

    _replace(stack, BatchLoop, "_push", push)


@_mutant
def _the_cache_is_kept_over_a_revocation(stack: ExitStack) -> None:
    opened = BatchLoop.open

    def open_(self: BatchLoop, partitions: Any, seek_epoch: int) -> None:
        kept = dict(getattr(self, "kept", {}))
        opened(self, partitions, seek_epoch)
        for topic, cache in kept.items():
            if topic in self._caches:
                self._caches[topic] = cache

    def release(self: BatchLoop) -> None:
        self.kept = {**getattr(self, "kept", {}), **self._caches}  # type: ignore[attr-defined]
        self.partitions.clear()

    _replace(stack, BatchLoop, "open", open_)
    _replace(stack, BatchLoop, "release", release)


@_mutant
def _the_fence_is_skipped_at_assignment(stack: ExitStack) -> None:
    _replace(stack, streams.assignment, "_first_offset", lambda fence, committed: committed)


@_mutant
def _nobody_looks_whether_states_were_lost(stack: ExitStack) -> None:
    _replace(stack, FenceMove, "is_lost", lambda self, fence: fence is None)
    _replace(stack, streams.loop, "is_older", lambda found, known: False)


@_mutant
def _duplicates_are_applied(stack: ExitStack) -> None:
    _replace(stack, features.apply, "is_remembered", lambda state, key: False)


@_mutant
def _lateness_over_both_topics(stack: ExitStack) -> None:
    fold = features.apply.fold
    newest: dict[str, int] = {}

    def mutant(blob: bytes | None, log: Any, *, partial: bool = False) -> Any:
        kept = []
        for offset, event in log:
            if event.event_time_ms >= newest.get(event.user_id, 0) - LATENESS_MS:
                kept.append((offset, event))
            newest[event.user_id] = max(newest.get(event.user_id, 0), event.event_time_ms)
        folded = fold(blob, kept or log, partial=partial)
        return folded._replace(
            outcomes=[*folded.outcomes, *[features.apply.Outcome.LATE] * (len(log) - len(folded.outcomes))]
        )

    _replace(stack, streams.folding, "fold", mutant)


@_mutant
def _a_batch_that_failed_is_acked(stack: ExitStack) -> None:
    process = BatchLoop._process

    async def mutant(self: BatchLoop, topic: str, batches: Any) -> None:
        try:
            await process(self, topic, batches)
        except Exception:  # noqa: BLE001 - that is the bug
            for batch in batches:
                progress = self.partitions[batch.tp]
                progress.next_offset = batch.next_offset
                if progress.first_buffered is None:
                    progress.first_buffered = batch.records[0].offset

    _replace(stack, BatchLoop, "_process", mutant)


@_mutant
def _an_append_does_not_compare(stack: ExitStack) -> None:
    _replace(stack, ExactAppender, "_not_held", lambda self, rows, held, handle: rows)


@_mutant
def _gaps_are_not_filled(stack: ExitStack) -> None:
    not_held = ExactAppender._not_held

    def mutant(self: ExactAppender, rows: Any, held: int, handle: Any) -> Any:
        handle = _HoldsAll(handle)
        return not_held(self, rows, held, handle)

    _replace(stack, ExactAppender, "_not_held", mutant)


class _HoldsAll:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def held_positions(self, rows: Any) -> Any:
        return rows.column("offset")


@_mutant
def _a_stale_handle_is_accepted(stack: ExitStack) -> None:
    commit = lake_fake.MemoryTable.commit
    _replace(
        stack,
        lake_fake.MemoryTable,
        "commit",
        lambda self, snapshot, rows, last_offsets: commit(self, self.commit_count, rows, last_offsets),
    )


@_mutant
def _the_seek_epoch_is_not_compared(stack: ExitStack) -> None:
    current = BatchLoop._is_current

    def mutant(self: BatchLoop, batch: Any) -> bool:
        progress = self.partitions.get(batch.tp)
        return current(self, batch if progress is None else replace(batch, seek_epoch=progress.seek_epoch))

    _replace(stack, BatchLoop, "_is_current", mutant)


@_mutant
def _letters_are_published_after_the_commit(stack: ExitStack) -> None:
    flush = Flusher.flush

    async def mutant(self: Flusher) -> None:
        letters, self._letters = self._letters, _Nowhere()
        try:
            await flush(self)
        finally:
            self._letters = letters

    _replace(stack, Flusher, "flush", mutant)


class _Nowhere:
    async def write(self, letters: Any, /) -> None:
        return


@_mutant
def _flushed_offset_taken_after_the_buffer_was_refilled(stack: ExitStack) -> None:
    flush = Flusher.flush

    async def mutant(self: Flusher) -> None:
        progresses = [progress for progress in self._partitions.values() if progress.first_buffered is not None]
        await flush(self)
        for progress in progresses:
            progress.flushed_offset = progress.next_offset

    _replace(stack, Flusher, "flush", mutant)


@_mutant
def _what_a_failed_flush_took_is_forgotten(stack: ExitStack) -> None:
    """A sink that does not take a flush is taken for one that did."""
    flush = Flusher.flush

    async def mutant(self: Flusher) -> None:
        try:
            await flush(self)
        except SinkFailedError:
            return

    _replace(stack, Flusher, "flush", mutant)


@_mutant
def _a_version_stored_before_the_crash_is_not_logged(stack: ExitStack) -> None:
    def rows(folds: Any, servable_ms: int) -> list[Any]:
        return [
            FeatureLogRow(user, read_trailer(item.state).version, item.state, servable_ms)
            for user, item in folds.items()
            if item.is_changed
        ]

    _replace(stack, streams.loop, "feature_log_rows", rows)


@_mutant
def _the_fence_moves_before_the_push(stack: ExitStack) -> None:
    push = BatchLoop._push

    async def mutant(self: BatchLoop, topic: str, folds: Any) -> None:
        for number in {item.partition for item in folds.values()}:
            progress = next(p for tp, p in self.partitions.items() if tp == (topic, number))
            end = 1 + max(item.log[-1][0] for item in folds.values() if item.partition == number)
            move = FenceMove(progress.log.log_epoch, progress.next_offset, end)
            await self._sinks.fences.move(topic, {number: move})
        await push(self, topic, folds)

    _replace(stack, BatchLoop, "_push", mutant)


@_mutant
def _a_lost_redis_is_taken_for_a_new_one(stack: ExitStack) -> None:
    status = streams.assignment._status

    def mutant(tp: Any, fence: Any, positions: Any, *others: Any) -> Any:
        return status(tp, fence, positions._replace(committed=None), *others)

    _replace(stack, streams.assignment, "_status", mutant)


@_mutant
def _a_drain_does_not_wait_for_what_is_in_flight(stack: ExitStack) -> None:
    async def drain(self: BatchLoop, *, flush: bool) -> None:
        self.close()
        if flush:
            await self.flusher.flush()

    _replace(stack, BatchLoop, "drain", drain)


@_mutant
def _a_fence_that_is_lost_during_the_assignment_is_put_back(stack: ExitStack) -> None:
    plan = streams.assignment.plan_start

    async def mutant(*arguments: Any) -> Any:
        starts, expired = await plan(*arguments)
        return starts, dict.fromkeys(starts, 0) | expired

    _replace(stack, streams.ownership, "plan_start", mutant)


@_mutant
def _flushing_goes_on_after_a_flush_that_failed(stack: ExitStack) -> None:
    never = property(lambda self: False, lambda self, value: None)
    stack.enter_context(patch.object(Flusher, "_is_unfinished", never, create=True))


@_mutant
def _a_halted_partition_is_committed_as_far_as_it_was_read(stack: ExitStack) -> None:
    flush = Flusher.flush

    async def mutant(self: Flusher) -> None:
        read = {tp: progress.next_offset for tp, progress in self._partitions.items()}
        await flush(self)
        for tp, progress in self._partitions.items():
            progress.flushed_offset = max(progress.flushed_offset, read.get(tp, 0))

    _replace(stack, Flusher, "flush", mutant)


@_mutant
def _a_resume_does_not_read_again(stack: ExitStack) -> None:
    async def rewind(self: BatchLoop, starts: Any) -> dict[Any, int]:
        for tp in starts:
            self.partitions[tp].halted_since_ms = 0
            self.partitions[tp].applied_offset = self.partitions[tp].next_offset
        return {}

    _replace(stack, BatchLoop, "rewind", rewind)


@_mutant
def _what_was_fetched_before_a_rewind_is_taken(stack: ExitStack) -> None:
    rewound, current = BatchLoop.rewound, BatchLoop._is_current
    former: dict[int, set[Any]] = {}

    def mutant(self: BatchLoop, partitions: Any, seek_epoch: int) -> None:
        former.setdefault(seek_epoch, set()).update(partitions)
        rewound(self, partitions, seek_epoch)

    def is_current(self: BatchLoop, batch: Any) -> bool:
        progress = self.partitions.get(batch.tp)
        is_old = progress is not None and batch.tp in former.get(progress.seek_epoch or 0, ())
        return current(self, replace(batch, seek_epoch=progress.seek_epoch) if is_old and progress else batch)

    _replace(stack, BatchLoop, "rewound", mutant)
    _replace(stack, BatchLoop, "_is_current", is_current)


@_mutant
def _what_is_buffered_is_not_flushed_before_a_rewind(stack: ExitStack) -> None:
    process = BatchLoop.rewind

    async def rewind(self: BatchLoop, starts: Any) -> dict[Any, int]:
        for tp in starts:
            self.partitions[tp].take()
        return await process(self, starts)

    _replace(stack, BatchLoop, "rewind", rewind)


@_mutant
def _letters_of_a_halted_partition_are_written(stack: ExitStack) -> None:
    buffer = BatchLoop._buffer

    def mutant(self: BatchLoop, work: Any, servable_ms: int | None) -> None:
        buffer(self, work, servable_ms)
        if servable_ms is None:
            self.partitions[work.batch.tp].letters.extend(work.letters)

    _replace(stack, BatchLoop, "_buffer", mutant)


@_mutant
def _a_halt_by_somebody_else_is_overlooked(stack: ExitStack) -> None:
    _replace(stack, HaltWatch, "heed", lambda self, progress, fence: False)


@_mutant
def _the_tripping_batch_is_applied(stack: ExitStack) -> None:
    late: dict[str, str | None] = {}

    async def mutant(self: HaltWatch, topic: str, works: Any) -> None:
        assert self._gatekeeper is not None
        reason, late[topic] = late.get(topic), await self._gatekeeper.judge(topic, works)
        if reason:
            await self._fences.halt(topic, 1)

    _replace(stack, HaltWatch, "judge", mutant)


@_replay_mutant
def _a_replay_counts_duplicates(stack: ExitStack) -> None:
    folded = features.apply.fold

    def mutant(blob: bytes | None, log: Any, *, partial: bool = False) -> Any:
        named = [(at, structs.replace(event, event_id=f"{event.event_id}@{at}")) for at, event in log]
        return folded(blob, named, partial=partial)

    _replace(stack, replay.lake_folds, "fold", mutant)


@_replay_mutant
def _a_replay_skips_the_last_event_of_a_piece(stack: ExitStack) -> None:
    _replace(stack, replay.parity_ways, "entries_of", lambda piece: entries_of(piece)[:-1])


@_replay_mutant
def _readers_are_given_another_value_than_the_state_says(stack: ExitStack) -> None:
    def mutant(states: Any, as_of_ms: int | None) -> Any:
        values: dict[str, Any] = {**finalize(states, as_of_ms)}
        return {**values, "cart_value_minor_1h": values["cart_value_minor_1h"] // 100}

    _replace(stack, feature_repo.on_demand, "finalize", mutant)


@_replay_mutant
def _kafka_is_read_as_if_what_was_refused_had_been_taken(stack: ExitStack) -> None:
    init = replay.parity_ways.UpToLive.__init__

    def mutant(self: Any, source: Any, live: Any, users: Any = None, left_out: Any = ()) -> None:
        init(self, source, live, users)

    _replace(stack, replay.parity_ways.UpToLive, "__init__", mutant)


REPLAY_MUTANTS: Final = frozenset(_REPLAY_PLANTS)
MUTANTS: Final = tuple(_PLANTS)
