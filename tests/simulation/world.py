"""One run: a load, faults, the services, the workers, and what drives them until all is quiet."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final
from unittest.mock import patch

import schemas.codec
from config.settings import WorkerSettings
from schemas.decoding_plan import plan_for
from schemas.errors import UnknownSchemaIdError
from schemas.event import CLICKS_TOPIC
from schemas.loading import own_schema
from schemas.partitioner import partition_of
from sinks.tables import LAKE_TABLES
from streams.ports import TopicPartition
from tests.fakes.lake import MemoryLake
from tests.simulation import virtual_time
from tests.simulation.broker import Group, Logs
from tests.simulation.load import BASE_MS, LATE_SCHEMA_ID, SCHEMA_IDS, Fate, Load, make_load
from tests.simulation.parity import look_at_parity
from tests.simulation.promises import Promise, Truth, Violation
from tests.simulation.store import Copy, Store
from tests.simulation.verdict import verdict
from tests.simulation.weather import (
    AtPoint,
    AtTime,
    Fault,
    Halt,
    HangingCommit,
    KeptCache,
    Outage,
    Slowness,
    StoreLoss,
    make_faults,
)
from tests.simulation.worker import Life

QUIET_DEADLINE_S: Final = 400.0
HALT_SETTLED_S: Final = 6.0

_plan_for: Final = cache(plan_for)  # pure, and every worker that starts asks for it
_own_schema: Final = cache(own_schema)

Trace = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        violation: the first promise that was broken; None for a good run.
        record_count: records of its load.
        fault_count: faults of its plan.
        virtual_s: how long it took, in its own time.
        points: the named points that were passed.
        judged_anew_count: users with an event that was judged twice and differently, and not applied as it is stored.
        states_compared, values_compared: by parity, between live and both replays.
        digest: equal for equal runs.
    """

    seed: int
    violation: Violation | None
    record_count: int
    fault_count: int
    virtual_s: float
    judged_anew_count: int
    points: frozenset[str]
    states_compared: int
    values_compared: int
    digest: str


def simulate(seed: int, trace: Trace | None = None, *, parity: bool = False) -> RunResult:
    """Run one seed to its end; equal seeds give equal runs, in whichever process.

    Args:
        parity: compare the online store with replays of the log and of the lake, too.
    """
    logging.disable(logging.CRITICAL)
    state = random.getstate()
    random.seed(seed)  # the pauses between two tries are drawn by a library
    blocking = virtual_time.BlockingCode()
    try:
        with patch.object(schemas.codec, "plan_for", _plan_for):
            return virtual_time.run(_simulate(seed, blocking, trace, parity=parity))
    finally:
        blocking.close()
        random.setstate(state)
        logging.disable(logging.NOTSET)


async def _simulate(seed: int, blocking: virtual_time.BlockingCode, trace: Trace | None, *, parity: bool) -> RunResult:
    world = World(seed, blocking, trace)
    await world.live()
    states, values = 0, 0
    if parity and world.violation is None:
        compared = look_at_parity(world)
        states, values = compared.state_count, compared.value_count
    return RunResult(
        seed,
        world.violation,
        len(world.load.produced),
        len(world.faults),
        world.now_s,
        world.judged_anew_count,
        frozenset(world.points),
        states,
        values,
        f"{world.now_s:.6f} {sorted(world.outcomes.items())} {world.rng.random():.12f}",
    )


class Registry:
    """A schema source in which one schema is registered while the run is under way."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def fetch(self, schema_id: int) -> str:
        """Return the text of a schema."""
        topics = {number: topic for topic, number in SCHEMA_IDS.items()}
        if self._world.now_s >= self._world.load.late_schema_at_s:
            topics[LATE_SCHEMA_ID] = CLICKS_TOPIC
        if schema_id not in topics:
            raise UnknownSchemaIdError(schema_id)
        return _own_schema(topics[schema_id])


class World:
    """Everything of one run.

    Attributes:
        published: position of each dead letter that reached its topic.
        points: how often each named point was passed.
        judged: how records of the late schema were judged, by position: as an event (True), as a dead letter (False).
        judged_anew_count: users whose state lacks, or has, an event that was judged both ways (ADR 0012).
        outcomes: what the workers counted, over all their lives.
    """

    def __init__(self, seed: int, blocking: virtual_time.BlockingCode, trace: Trace | None) -> None:
        self.rng = Random(seed)
        self.blocking = blocking
        self._trace = trace
        self.loop = asyncio.get_running_loop()
        self.violation: Violation | None = None
        self.load: Load = make_load(self.rng)
        self.settings = self._settings()
        self.faults: tuple[Fault, ...] = make_faults(self.rng, self.load)
        kinds = {type(fault) for fault in self.faults}
        # a cache that is newer than a Redis that went back is what dropping it is for: nothing else helps there
        self.caches_are_kept = KeptCache in kinds and StoreLoss not in kinds
        self.truth = Truth(self.load)
        self.logs = Logs(self.load)
        self.group = Group(self.load, self.rng)
        self.lake = MemoryLake()
        self.store = Store(self.truth, self.partition_of, self.violate)
        self.registry = Registry(self)
        self.published: set[tuple[str, int, int]] = set()
        self.judged: dict[tuple[str, int, int], set[bool]] = {}
        self.judged_anew_count = 0
        self.outcomes: Counter[str] = Counter()
        self.lives: list[Life] = []
        self._life_count = 0
        self._wanted = self.rng.choice((1, 1, 2, 2, 3))
        self.points: Counter[str] = Counter()
        self._commits = 0
        self._weather = self._by_service()
        self._broken = asyncio.Event()
        self._copies: dict[float, Copy] = {}

    def _settings(self) -> WorkerSettings:
        rng = self.rng
        return WorkerSettings(
            flush_interval_ms=rng.choice((400, 1_000, 2_000)),
            flush_rows=rng.choice((5, 20, 50_000)),
            buffer_rows_max=rng.choice((6, 6, 15, 200_000)),
            cache_users=rng.choice((1, 3, 1_000)),
            batch_records=rng.choice((3, 10, 50)),
            sink_attempts=rng.choice((1, 2, 4, 4, 8)),
            stall_timeout_s=rng.choice((60.0, 180.0)),
        )

    @property
    def now_s(self) -> float:
        """Return virtual seconds since the start."""
        return self.loop.time()

    def partition_of(self, topic: str, user: str) -> TopicPartition:
        """Return where a user's log lies."""
        return TopicPartition(topic, partition_of(user.encode(), self.load.topics[topic].partition_count))

    def tell(self, what: str) -> None:
        """Add a line to the trace."""
        if self._trace is not None:
            self._trace(f"{self.now_s:9.3f} {what}")

    def violate(self, promise: Promise, detail: str, error: BaseException | None = None) -> None:
        """Note that a promise was broken; the run ends soon after the first."""
        if self.violation is None:
            self.violation = Violation(promise, detail)
            self.tell(f"VIOLATION: {self.violation}")
            self._broken.set()
            if error is not None and self._trace is not None:
                import traceback

                self._trace("".join(traceback.format_exception(error)))

    # -- time and weather ------------------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)

    def _by_service(self) -> dict[str, list[Outage | Slowness]]:
        found: dict[str, list[Outage | Slowness]] = {}
        for fault in self.faults:
            if isinstance(fault, Outage | Slowness):
                found.setdefault(fault.service, []).append(fault)
        return found

    def outage(self, service: str) -> Outage | None:
        """Return the outage that this call of a service falls into."""
        for fault in self._weather.get(service, ()):
            if isinstance(fault, Outage) and fault.first_s <= self.now_s < fault.end_s:
                return fault if self.rng.random() < fault.share else None
        return None

    def delay_s(self, service: str) -> float:
        """Return how long one way to a service takes."""
        for fault in self._weather.get(service, ()):
            if isinstance(fault, Slowness) and fault.first_s <= self.now_s < fault.end_s:
                return self.rng.uniform(0, fault.delay_s)
        return self.rng.uniform(0.001, 0.03) if self.rng.random() < 0.25 else 0.0

    def is_lake_troubled(self) -> bool:
        """Tell whether a table is slow or failing now, or a worker is to be stopped in the midst of a write."""
        return any(
            fault.first_s <= self.now_s < fault.end_s for table in LAKE_TABLES for fault in self._weather.get(table, ())
        ) or any(isinstance(fault, AtPoint) and fault.pause_s and "append" in fault.point for fault in self.faults)

    def at_point(self, point: str) -> AtPoint | None:
        """Count a named point, and return what happens there."""
        self.points[point] += 1
        for fault in self.faults:
            if isinstance(fault, AtPoint) and fault.point == point and fault.nth == self.points[point]:
                return fault
        return None

    def halts(self, topic: str) -> list[Halt]:
        """Return the halts of a topic that last now, by their plan."""
        return [
            fault
            for fault in self.faults
            if isinstance(fault, Halt) and fault.topic == topic and fault.at_s <= self.now_s < fault.end_s
        ]

    # -- the broker's answers --------------------------------------------------------------------------------------

    async def commit(self, life: Life, generation: int, offsets: Mapping[TopicPartition, int]) -> bool:
        """Take a commit of a worker; what it says must be true."""
        self._commits += 1
        await self.sleep(self.delay_s("broker"))
        await life.gate()
        before = {tp: self.group.committed.get(tp, 0) for tp in offsets}
        done = self.group.commit(life.member, generation, offsets)
        life.tell(f"commits {sorted((tp.topic, tp.partition, at) for tp, at in offsets.items())}: {done}")
        if done:
            for tp, offset in offsets.items():
                self._look_at_commit(tp, before[tp], offset)
        for fault in self.faults:
            if isinstance(fault, HangingCommit) and fault.nth == self._commits:
                await self.sleep(fault.for_s)
        await self.sleep(self.delay_s("broker"))
        await life.gate()
        return done

    def _look_at_commit(self, tp: TopicPartition, before: int, offset: int) -> None:
        topic_id = self.load.topics[tp.topic].topic_id
        raw = self.lake.tables["raw_events"].positions.get((topic_id, *tp), {})
        dead = self.lake.tables["dead_letters"].positions.get((topic_id, *tp), {})
        for made in self.truth.between(tp, before, offset):
            at = made.record.offset
            named = f"{tp.topic}-{tp.partition} was committed up to {offset}"
            if at not in raw and at not in dead:
                self.violate(Promise.COMMITS, f"{named}, but offset {at} is not in the lake")
            elif at in dead and at not in raw and (*tp, at) not in self.published:
                self.violate(Promise.COMMITS, f"{named}, but the letter of offset {at} was not published")
        if not self.store.was_lost:
            if offset > self.store.fences.reached(tp):
                self.violate(
                    Promise.COMMITS, f"{tp} was committed up to {offset}, past {self.store.fences.reached(tp)}"
                )
            for user, at in self.truth.sure_events(tp, before, offset):
                stored = self.store.states.rows.get((tp.topic, user))
                if stored is None:
                    self.violate(Promise.COMMITS, f"{tp} was committed up to {offset}, but {user} has no state ({at})")

    # -- what drives it --------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Run until all is quiet, and judge."""
        self.tell(f"settings {self.settings.model_dump(exclude_defaults=True)}")
        for fault in self.faults:
            self.tell(f"planned: {fault}")
        for _ in range(self._wanted):
            self._start()
        driving = [self.loop.create_task(self._produce())]
        driving += [self.loop.create_task(self._cause(fault)) for fault in self.faults]
        broken = self.loop.create_task(self._broken.wait())
        quiet = self.loop.create_task(self._until_quiet(driving))
        try:
            await asyncio.wait({broken, quiet}, return_when=asyncio.FIRST_COMPLETED)
            if quiet.done():
                quiet.result()
                await verdict(self)
        finally:
            for life in self.lives:
                self.outcomes += life.metrics.outcomes

    def _start(self) -> None:
        self._life_count += 1
        life = Life(self, self._life_count)
        life.tell("starts")
        self.lives.append(life)

    def running(self) -> list[Life]:
        """Return the workers that live."""
        return [life for life in self.lives if life.is_alive]

    def ended(self, life: Life) -> None:
        """Learn that a worker has ended; another one is started if too few are left."""
        self.loop.call_later(self.rng.uniform(0.3, 3.0), self._replace)

    def _replace(self) -> None:
        if len(self.running()) < self._wanted:
            self._start()

    async def _produce(self) -> None:
        for made in self.load.produced:
            await self.sleep(max(0.0, made.at_s - self.now_s))
            self.logs.append(made)
            for life in self.running():
                life.wake.set()

    async def _cause(self, fault: Fault) -> None:
        if isinstance(fault, AtTime):
            await self.sleep(fault.at_s)
            self._happen(fault)
        elif isinstance(fault, StoreLoss):
            copy: Copy = ({}, {})
            if fault.copied_s is not None:
                await self.sleep(fault.copied_s)
                copy = self.store.copy()
            await self.sleep(max(0.0, fault.at_s - self.now_s))
            # What was pushed, and is lost before its fence moves, is the one loss that no fence tells: the worker does
            # not promise to notice it. For a worker that is stopped in that instant, it lasts until it goes on.
            while not self.store.may_lose(copy) or any(life.unfenced for life in self.running()):
                await self.sleep(0.05)
            self.tell("Redis is emptied" if fault.copied_s is None else f"Redis is as it was at {fault.copied_s:.3f}")
            self.store.lose(copy)
        elif isinstance(fault, Halt):
            await self._halt(fault)
        elif isinstance(fault, Outage | Slowness):
            await self.sleep(fault.end_s)

    async def _halt(self, fault: Halt) -> None:
        await self.sleep(fault.at_s)
        if fault.by is None:
            self.tell(f"{fault.topic} is halted")
            self.store.fences.halt_blocking(fault.topic, BASE_MS)
        await self.sleep(max(0.0, fault.end_s - HALT_SETTLED_S - self.now_s))
        fetched = {tp: at for life in self.running() for tp, at in life.positions.items()}
        settles = fault.end_s - self.now_s >= HALT_SETTLED_S
        await self.sleep(fault.end_s - self.now_s)
        if settles and all(isinstance(other, Halt) for other in self.faults):
            self._look_at_halt(fault, fetched)
        if not self.halts(fault.topic):
            self.tell(f"{fault.topic} is resumed")
            self.store.fences.free_blocking(fault.topic)

    def _look_at_halt(self, fault: Halt, fetched: Mapping[TopicPartition, int]) -> None:
        """See at its end that of what was fetched raw rows have landed, and that other topics have gone on."""
        for made in self.load.produced:
            at, topic_id = made.record.offset, self.load.topics[made.tp.topic].topic_id
            if at >= fetched.get(made.tp, 0):
                continue
            raw = self.lake.tables["raw_events"].positions.get((topic_id, *made.tp), {})
            if made.fate is Fate.EVENT and at not in raw:
                self.violate(Promise.HALTS, f"{made.tp} {at} is not in raw_events at {fault}")
            if self._was_never_halted(made.tp.topic) and at >= self.store.fences.reached(made.tp):
                self.violate(Promise.HALTS, f"{made.tp} {at} is not applied, and only {fault.topic} is halted")

    def _was_never_halted(self, topic: str) -> bool:
        return not any(isinstance(fault, Halt) and fault.topic == topic for fault in self.faults)

    def _happen(self, fault: AtTime) -> None:
        if fault.what == "join":
            self._wanted += 1
            self._replace()
            return
        running = self.running()
        if not running:
            return
        life = running[fault.which % len(running)]
        life.tell(
            {"kill": "is killed", "pause": f"is stopped for {fault.pause_s:g} s", "stop": "is asked to stop"}[
                fault.what
            ]
        )
        if fault.what == "kill":
            life.die()
        elif fault.what == "pause":
            life.pause(fault.pause_s)
        else:
            self._wanted = max(1, self._wanted - 1)
            life.stop()

    async def _until_quiet(self, driving: list["asyncio.Task[None]"]) -> None:
        await asyncio.wait(driving)
        for task in driving:
            task.result()
        await self._until(self._is_committed)
        await self._stop_all()
        # a worker that waits for records does not look at Redis; its next start does
        self._wanted = 1
        self._start()
        await self._until(lambda: self._is_committed() and self._is_fenced() and self.lives[-1].is_started)
        await self._stop_all()

    async def _stop_all(self) -> None:
        self._wanted = 0
        for life in self.running():
            life.stop()
        await self._until(lambda: not self.running())

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition() and self.violation is None:
            await self.sleep(0.5)
            for topic in self.load.topics:  # a gatekeeper's answer was late, or an older copy of Redis was halted
                self.store.fences.free_blocking(topic)
            if self.now_s > QUIET_DEADLINE_S:
                lags = {tuple(tp): (self.group.committed.get(tp), self.logs.end(tp)) for tp in self.load.partitions}
                alive = [life.name for life in self.running()]
                self.violate(Promise.QUIET, f"after {self.now_s:.0f} s, (committed, end) is {lags}, alive: {alive}")

    def _is_committed(self) -> bool:
        return (
            not any(life.is_paused for life in self.lives)
            and bool(self.running())
            and all(self.group.committed.get(tp, 0) == self.logs.end(tp) for tp in self.load.partitions)
        )

    def _is_fenced(self) -> bool:
        return all(self.store.fences.reached(tp) == self.logs.end(tp) for tp in self.load.partitions)
