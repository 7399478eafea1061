"""The gatekeeper of a worker: counts what it reads, halts a view whose data is broken, and tells why.

What decides follows from the log (quality/gates.py). Beside it stand the notes in Redis: what somebody accepted or
overrode, and the halt of any worker. They are read before a view is halted, so that a resume is never missed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from config.errors import ShopstreamError
from config.quality import GatePolicy
from feature_repo.errors import OnlineStoreError
from feature_repo.gate_store import Accepted, GateNotes, Halt
from quality.gates import SCHEMA_PART, Gate, GateRules, GateStatus, Tally
from quality.known_ids import KnownIds
from streams.decoding import DecodedBatch
from streams.gate_counting import Evidence, Failure, TopicCounting
from streams.metrics import WorkerMetrics
from streams.ports import Clock

logger = logging.getLogger(__name__)

NOTES_S: Final = 1.0
PUBLISH_S: Final = 1.0
TABLES_S: Final = 30.0
COUNTS_KEPT_MS: Final = 3_600_000
_SCALE: Final = {GateStatus.PASS: 0, GateStatus.FAIL: 1, GateStatus.UNKNOWN: -1, GateStatus.OVERRIDDEN: 2}


class Notes(Protocol):
    """What is noted about gates (feature_repo/gate_store.py)."""

    async def read(self, topic: str) -> GateNotes:
        """Return what is noted about a topic."""
        ...

    async def halt(self, halt: Halt) -> bool:
        """Note a halt; return False if one stands already."""
        ...

    async def publish(self, topic: str, worker: str, counts: Mapping[str, Any]) -> None:
        """Note what one worker has counted."""
        ...

    async def forget(self, topic: str, workers: Sequence[str]) -> None:
        """Remove the counts of workers."""
        ...


class Tables(Protocol):
    """Reference tables. Blocking."""

    def newest(self) -> Mapping[str, KnownIds | None]:
        """Return the table of each id, None where there is none; the same object while a table is the same."""
        ...


class Writers(Protocol):
    """Writer schemas. Blocking."""

    def is_expected(self, topic: str, schema_id: int) -> bool:
        """Tell whether records of a topic may be written with this schema."""
        ...

    def describe(self, schema_id: int) -> str:
        """Return the SHA-256 fingerprint of a schema."""
        ...


@dataclass(frozen=True, slots=True)
class GateNews:
    """What a gate decided, to be recorded and told.

    Attributes:
        gate: empty for all of them.
        step: `halted` or `alert`; `resumed`, where a person decided.
    """

    topic: str
    gate: str
    step: str
    detail: str
    evidence: Mapping[str, Any]
    at_ms: int


@dataclass
class _Topic:
    counting: TopicCounting
    notes: GateNotes = field(default_factory=GateNotes)
    accepted: Accepted | None = None
    read_s: float | None = None
    alerted: set[Gate] = field(default_factory=set)
    pending: Halt | None = None
    told_ms: int | None = None
    since: dict[str, tuple[str, int]] = field(default_factory=dict)
    known_ids: set[int] = field(default_factory=set)
    is_dirty: bool = False


class WorkerGates:
    """The gates of all topics on one worker; a `streams.ports.Gatekeeper`.

    Args:
        rules: what is asked, by topic (`streams.gate_counting.rules_of`).
        notes: what is noted beside the fences.
        worker: names this process among the workers.
        epochs: log epoch of each topic.
        tellers: each records a decision, or tells somebody; blocking, and called in a thread. One that fails does not
            keep the others from it. A halt is told by every worker that sees it, and must be taken once only.
    """

    def __init__(
        self,
        rules: Mapping[str, GateRules],
        notes: Notes,
        *,
        worker: str,
        epochs: Mapping[str, str],
        tables: Tables,
        writers: Writers,
        tellers: Sequence[Callable[[GateNews], None]],
        metrics: WorkerMetrics,
        clock: Clock,
    ) -> None:
        self._topics = {topic: _Topic(TopicCounting(its)) for topic, its in rules.items()}
        self._is_asking_tables = any(its.is_on(Gate.REFERENCES) for its in rules.values())
        self._notes = notes
        self._worker = worker
        self._epochs = epochs
        self._tables = tables
        self._writers = writers
        self._tellers = tuple(tellers)
        self._metrics = metrics
        self._clock = clock
        self._tables_s: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_publishing = False

    async def judge(self, topic: str, works: Sequence[DecodedBatch]) -> str | None:
        """Look at what one fetch brought; return in words why the topic must halt, None to go on."""
        state = self._topics[topic]
        await self._look_around(topic, state, works)
        # counted again from where they were if somebody has accepted them meanwhile
        failed = state.counting.look(works)
        self._publish_soon(state)
        if not failed:
            if state.alerted:
                self._end_alerts(state)
            if state.notes.halt is None and state.pending is None:
                return None
        if await self._read(topic, state):
            failed = state.counting.look(works)
        if state.pending is not None:
            await self._note(state, state.pending)
        for failure in failed.values():
            self._decide(topic, state, failure)
        if state.pending is not None:
            await self._note(state, state.pending)
        halt = state.notes.halt or state.pending
        if halt is None:
            return None
        if halt.since_ms != state.told_ms:
            # also that of another worker, or of one that was killed before it could tell: it is known by its time
            state.told_ms = halt.since_ms
            self._told(GateNews(topic, halt.gate, "halted", halt.detail, halt.evidence, halt.since_ms))
        return f"{halt.gate}: {halt.detail}"

    def _decide(self, topic: str, state: _Topic, failure: Failure) -> None:
        verdict, gate = failure.verdict, failure.verdict.gate
        if self._is_overridden(state, gate):
            return
        if state.counting.rules.policy(gate) is GatePolicy.HALT:
            if state.notes.halt is None and state.pending is None:
                since_ms = self._clock.now_ms()
                state.pending = Halt(topic, gate, since_ms, verdict.detail, self._evidence(state, failure))
                logger.error("gate %s halts %s: %s", gate, topic, verdict.detail)
        elif gate not in state.alerted:
            state.alerted.add(gate)
            logger.error("gate %s of %s fails, by policy it only alerts: %s", gate, topic, verdict.detail)
            evidence = self._evidence(state, failure)
            self._told(GateNews(topic, gate, "alert", verdict.detail, evidence, self._clock.now_ms()))

    def _is_overridden(self, state: _Topic, gate: str) -> bool:
        override = state.notes.overrides.get(gate)
        return override is not None and state.counting.arrived_ms < override.until_ms

    def _end_alerts(self, state: _Topic) -> None:
        state.alerted &= {verdict.gate for verdict in state.counting.verdicts() if verdict.status is GateStatus.FAIL}

    def _evidence(self, state: _Topic, failure: Failure) -> dict[str, Any]:
        verdict = failure.verdict
        seen = state.counting.evidence.get(verdict.part, Evidence()).document()
        said = {"part": verdict.part, "value": verdict.value, "threshold": verdict.threshold, "count": verdict.count}
        times = {"event_time_ms": failure.happened_ms, "append_time_ms": failure.arrived_ms}
        if verdict.part == SCHEMA_PART:
            ids = sorted(state.counting.unexpected)
            seen |= {"schemas": {str(number): self._writers.describe(number) for number in ids}}
        return {**said, **seen, **times, "worker": self._worker}

    async def _note(self, state: _Topic, halt: Halt) -> None:
        """Note a halt; while that fails it is held, and noted with the next batch."""
        try:
            if not await self._notes.halt(halt):
                logger.info("%s was halted by another worker or gate, too", halt.topic)
            state.notes = await self._notes.read(halt.topic)
        except OnlineStoreError as error:
            logger.error("the halt of %s is not noted yet: %s", halt.topic, error)  # noqa: TRY400  # a sentence will do
            return
        state.pending = None

    async def _look_around(self, topic: str, state: _Topic, works: Sequence[DecodedBatch]) -> None:
        """Learn of notes, reference tables and writer schemas, as far as that is due."""
        now_s = self._clock.monotonic_s()
        if state.read_s is None or now_s - state.read_s >= NOTES_S:
            await self._read(topic, state)
        if self._is_asking_tables:
            if self._tables_s is None:
                self._tables_s = now_s
                await self._read_tables()
            elif now_s - self._tables_s >= TABLES_S:
                self._tables_s = now_s
                self._start(self._read_tables())
        if state.counting.rules.is_on(Gate.SCHEMA):
            new = {row.schema_id for work in works for row in work.rows} - state.known_ids
            for schema_id in sorted(new):
                await self._learn(topic, state, schema_id)

    async def _learn(self, topic: str, state: _Topic, schema_id: int) -> None:
        try:
            is_expected = await asyncio.to_thread(self._writers.is_expected, topic, schema_id)
        except ShopstreamError as error:  # asked again with the next batch; the records themselves were decoded
            logger.warning("schema %d of %s could not be compared: %s", schema_id, topic, error)
            return
        state.known_ids.add(schema_id)
        if not is_expected:
            state.counting.unexpected |= {schema_id}

    async def _read(self, topic: str, state: _Topic) -> bool:
        """Read the notes; return True if what was counted is accepted since, and forgotten."""
        state.read_s = self._clock.monotonic_s()
        try:
            state.notes = await self._notes.read(topic)
        except OnlineStoreError as error:
            logger.warning("the notes about the gates of %s cannot be read, the last ones hold: %s", topic, error)
            return False
        accepted = state.notes.accepted
        if accepted is None or accepted == state.accepted or accepted.epoch != self._epochs[topic]:
            return False
        state.accepted = accepted
        state.pending = None
        state.alerted.clear()
        state.counting.begin_anew(accepted.offsets)
        logger.warning(
            "gates of %s look at what comes after the resume: %s", topic, accepted.reason or "no reason given"
        )
        return True

    async def _read_tables(self) -> None:
        try:
            tables = await asyncio.to_thread(self._tables.newest)
        except ShopstreamError as error:
            logger.warning("the reference tables cannot be read, the last ones hold: %s", error)
            return
        for state in self._topics.values():
            state.counting.tables = tables

    def _told(self, news: GateNews) -> None:
        for tell in self._tellers:
            self._start(self._told_in_a_thread(tell, news))

    async def _told_in_a_thread(self, tell: Callable[[GateNews], None], news: GateNews) -> None:
        try:
            await asyncio.to_thread(tell, news)
        except ShopstreamError as error:  # the halt itself stands in Redis
            logger.error("gate %s of %s: this was not recorded (%s): %s", news.gate, news.topic, error, news.detail)  # noqa: TRY400

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _publish_soon(self, state: _Topic) -> None:
        state.is_dirty = True
        if not self._is_publishing:
            self._is_publishing = True
            asyncio.get_running_loop().call_later(PUBLISH_S, lambda: self._start(self._publish()))

    async def _publish(self) -> None:
        self._is_publishing = False
        for topic, state in self._topics.items():
            if not state.is_dirty:
                continue
            state.is_dirty = False
            counts = self._counts(topic, state)
            stale = [
                name
                for name, its in state.notes.counts.items()
                if counts["at_ms"] - its.get("at_ms", 0) > COUNTS_KEPT_MS
            ]
            try:
                await self._notes.publish(topic, self._worker, counts)
                await self._notes.forget(topic, stale)
            except OnlineStoreError as error:
                logger.warning("the counts of the gates of %s are not published: %s", topic, error)

    def _counts(self, topic: str, state: _Topic) -> dict[str, Any]:
        """Return what this worker publishes, and set its metrics."""
        counting = state.counting
        for verdict in counting.verdicts():
            status = GateStatus.OVERRIDDEN if self._is_overridden(state, verdict.gate) else verdict.status
            self._metrics.gate_status.labels(topic, verdict.gate).set(_SCALE[status])
            if verdict.value is not None:
                self._metrics.gate_value.labels(topic, verdict.gate).set(verdict.value)
            if state.since.get(verdict.gate, ("",))[0] != verdict.status:
                state.since[verdict.gate] = (verdict.status, counting.arrived_ms)
        return {
            "at_ms": self._clock.now_ms(),
            "event_time_ms": counting.happened_ms,
            "append_time_ms": counting.arrived_ms,
            "tally": counting.tally().document(),
            "missing": counting.missing(),
            "since": state.since,
            "evidence": {part: found.document() for part, found in counting.evidence.items()},
            "unexpected": sorted(counting.unexpected),
        }


def published_tally(counts: Mapping[str, Any]) -> Tally:
    """Return the tally of what a worker published.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    return Tally.of(counts["tally"])
