"""A replay of a range from its request to its account: resolved, estimated, run, gone on with."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from config.settings import Settings
from features.apply import take
from features.finalize import finalize
from features.state import TopicState
from replay.errors import RangeError, UnknownUsersError
from replay.execution import LakePin, ReplayJob, Totals, opened_source, run_here, run_in_processes
from replay.fold_target import FoldTarget
from replay.lanes import SAVE_EVERY_S, LaneProgress
from replay.plan import Bounds, ReplayPlan, ReplayRequest, make_plan
from replay.ranges import PartitionRange, parse_bound
from replay.repair_selection import stored_ids
from replay.runs import Run, Runs
from replay.sources import EventSource
from replay.targets import NEEDS, Chunk, Into, Part
from replay.topic_target import require_topic
from schemas.privacy import Pseudonyms
from schemas.topics import TopicInfo
from sinks.erasures import read_tombstones
from sinks.lake_root import Lake, lake_of
from sinks.leases import reading

SAMPLE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Running:
    """How a replay is run; none of it changes its result.

    Attributes:
        rate: most records a second, over all processes; None for no limit.
        workers: processes.
        resume: go on with a run that was stopped.
        restart: forget what an earlier run of the same range did.
        save_every_s: the least time between two checkpoints of a lane.
    """

    rate: float | None = None
    workers: int = 1
    resume: bool = False
    restart: bool = False
    save_every_s: float = SAVE_EVERY_S


class RangeReplay:
    """One replay of a range.

    Args:
        topics: those of the request, described by the broker.
        pin: as of when the lake is read; None for now.

    Attributes:
        totals: how far it is, also while it runs.
        read_before: records that an earlier, stopped run had read.
    """

    def __init__(
        self,
        settings: Settings,
        request: ReplayRequest,
        topics: Mapping[str, TopicInfo],
        running: Running,
        *,
        pin: LakePin | None = None,
    ) -> None:
        self._settings = settings
        self._request = request
        self._topics = topics
        self._running = running
        self._pin = pin
        self._runs = Runs(settings.home.absolute())
        self.totals = Totals()
        self.read_before = 0

    def plan(self) -> ReplayPlan:
        """Resolve the range; a run that is gone on with keeps the offsets that it was begun with.

        Raises:
            RangeError, NotRetainedError, UnknownUsersError: it cannot be replayed; the error says why.
            ShopstreamError: the source does not answer.
        """
        if self._running.resume and not self._running.restart:
            begun = self._runs.newest(self._request)
            if begun is not None:
                self._refuse_other_logs(begun.plan)
                return begun.plan
        request, now_ms = self._request, _now_ms()
        if request.into is Into.TOPIC:
            require_topic(self._settings, request.to_topic)
        topic = request.topics[0] if len(request.topics) == 1 else None
        bounds = Bounds(
            parse_bound(request.begin, "--from", topic, now_ms), parse_bound(request.end, "--to", topic, now_ms)
        )
        privacy = self._settings.privacy
        stored = stored_ids(request.users, Pseudonyms.in_use(privacy)) if request.users else None
        with self._source() as source:
            plan = make_plan(
                self._settings,
                request,
                bounds,
                self._topics,
                source,
                tombstones=read_tombstones(lake_of(self._settings), Pseudonyms.with_key_of(privacy)),
                stored_users=stored,
            )
            if stored:
                _require_users(plan, source, stored)
        return plan

    def estimate_s(self, plan: ReplayPlan) -> float | None:
        """Say how long it takes, from half a second of the same work on its largest partition; None for nothing.

        Raises:
            ShopstreamError: the source does not answer.
        """
        if not plan.record_count:
            return None
        largest = max(plan.ranges, key=lambda part: part.record_count)
        with self._source() as source:
            per_process = _sample(source, largest, self._request.into)
        rate = per_process * min(self._running.workers, len(plan.lanes))
        return plan.record_count / min(rate, self._running.rate or rate)

    @contextmanager
    def begun(self, plan: ReplayPlan) -> Iterator[Run]:
        """Begin, or go on; see `Runs.begun`. What the lake holds, now or at the pin, is not deleted meanwhile."""
        running = self._running
        with (
            self._runs.begun(plan, _now_ms(), resume=running.resume, restart=running.restart) as run,
            reading(self._lake(), f"replay {plan.run_id}"),
        ):
            yield run

    def run(
        self, run: Run, report: Callable[[], None] = lambda: None, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Read until the end of the range; tell whether it came there, or was `stopped`. Blocking.

        Args:
            report: called now and then; `totals` tell how far it is.

        Raises:
            ShopstreamError: something does not answer; what was done is saved.
        """
        running, plan = self._running, run.plan
        for number, saved in run.lanes().items():
            if saved is not None:
                self.totals.add(LaneProgress(number, saved.counts, dict(saved.target_counts), saved.is_done))
        self.read_before = self.totals.counts.records
        job = ReplayJob(
            self._settings,
            plan,
            run.folder,
            running.rate,
            running.save_every_s,
            run.begun_ms,
            self._pin,
        )

        def heard(progress: LaneProgress | None) -> None:
            if progress is not None:
                self.totals.add(progress)
            report()

        left = [number for number, saved in run.lanes().items() if saved is None or not saved.is_done]
        if running.workers == 1 or len(left) == 1:
            run_here(job, left, heard, stopped)
        elif left:
            run_in_processes(job, left, heard, stopped, count=running.workers)
        is_done = all(saved is not None and saved.is_done for saved in run.lanes().values())
        if is_done and run.finished_ms is None:
            run.finish(_now_ms())
        return is_done

    def _refuse_other_logs(self, plan: ReplayPlan) -> None:
        """Offsets of a plan mean nothing in a topic that has another log by now; the lake keeps the former ones."""
        for part in plan.ranges if plan.request.source == "kafka" else ():
            log, info = part.log, self._topics[part.log.topic]
            if log.log_epoch != info.log_epoch:
                raise RangeError(
                    f"{log.topic} was created again, or got more partitions, since this replay was begun: its offsets "
                    "are of another log.",
                    hint="Begin anew with --restart, or read it from the lake: --source lake.",
                )

    def _lake(self) -> Lake:
        return lake_of(self._settings) if self._pin is None else self._pin.lake(self._settings)

    def _source(self) -> AbstractContextManager[EventSource]:
        return opened_source(self._settings, self._request.source, self._pin)


def account(totals: Totals) -> dict[str, Any]:
    """Return what was read and written, as JSON."""
    counts = totals.counts
    return {
        "records_read": counts.records,
        "events": counts.events,
        "warm_up_events": counts.warm_up_events,
        "dead_letters": counts.dead_letters,
        "erased": counts.erased,
        **totals.target_counts,
    }


def _require_users(plan: ReplayPlan, source: EventSource, users: list[str]) -> None:
    known: set[str] = set()
    for part in plan.ranges:
        known.update(source.counts(part.log, users=users))
    unknown = [user for user in users if user not in known]
    if unknown:
        raise UnknownUsersError(unknown, source.name)


def _sample(source: EventSource, part: PartitionRange, into: Into) -> float:
    """Read, and do what a target does most of, for half a second; return records per second."""
    target = FoldTarget([part.log])
    states: dict[str, TopicState] = {}
    needs = NEEDS[into]
    first = position = part.warm_up_offset
    began_s = time.perf_counter()
    for number, piece in enumerate(source.read(part.log, first, part.end_offset, originals=needs.originals)):
        if number == 0 and piece.end_offset < part.end_offset:
            first = position = piece.end_offset
            began_s = time.perf_counter()  # it waited for a connection, or for files
            continue
        if into is Into.HISTORY:
            for offset, event in zip(piece.offsets, piece.events, strict=True):
                states[event.user_id] = state = take(states.get(event.user_id), event, offset)[0]
                finalize({part.log.topic: state}, event.event_time_ms)
        elif needs.warm_up:
            target.write(Chunk(number, [Part(part.log, piece, 0)]))
        position = piece.end_offset
        if time.perf_counter() - began_s > SAMPLE_S:
            break
    target.save()
    return max(1, position - first) / (time.perf_counter() - began_s)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
