"""What a scenario is: one fault, injected on the real stack, and the account of what it cost.

A scenario runs in a `World`: topics, a Feast project, a lake and a consumer group that nobody else has.
"""

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from config.settings import Settings, load_settings
from schemas.event import EVENT_TOPICS
from stack.embedded import EmbeddedStack, Endpoints
from streams.observing import GroupLags, WorkerReport, read_workers
from tests.faults.crash_plan import CrashPlan
from tests.faults.load import Load, background_load, send, simulated
from tests.faults.verdict import Verdict, judge
from tests.faults.workers import HostedWorker, WorkerHost
from tests.fresh_topics import recreate_topics
from tests.waiting import wait_until
from traffic.sent_log import SentLog
from traffic.timed import TimedEvent

PARTITIONS: Final = 4
READY_DEADLINE_S: Final = 120.0
DRAIN_DEADLINE_S: Final = 240.0
BACKLOG: Final = 500
CRASHED: Final = 1  # a worker's exit code when it cannot go on and wants to be restarted

# Small batches and frequent flushes: every point is passed often.
WORKER: Final[dict[str, Any]] = {
    "flush_interval_ms": 200,
    "flush_rows": 2_000,
    "buffer_rows_max": 4_000,
    "batch_records": 100,
    "linger_ms": 5,
    "stall_timeout_s": 60.0,
    "commit_timeout_s": 30.0,
}


@dataclass(frozen=True)
class Arena:
    """Where scenarios run, one after the other.

    Attributes:
        stack: the stack, when it is this run's own: its services may be killed. None when others use it, too.
        home: home of that stack.
        folder: for worlds and logs.
        is_full: whether each scenario takes the time that its full form needs.
    """

    endpoints: Endpoints
    cache_dir: Path
    folder: Path
    host: WorkerHost
    is_full: bool
    home: Path | None = None
    stack: EmbeddedStack | None = None

    @contextmanager
    def world(self, **worker: Any) -> Iterator["World"]:
        """Make a world with fresh topics; with the block its workers end. Its folder stays when the block fails.

        Args:
            worker: settings of the worker on top of `WORKER`.
        """
        own = uuid.uuid4().hex[:12]
        settings = load_settings(
            {
                "home": self.folder / own,
                "cache_dir": self.cache_dir,
                "kafka": {"bootstrap_servers": self.endpoints.kafka, "partitions": PARTITIONS},
                "registry": {"url": self.endpoints.registry},
                "redis": {"url": self.endpoints.redis},
                "feast": {"project": f"faults_{own}"},
                "worker": {"group_id": f"faults-{own}", **WORKER, **worker},
                "gates": {"freshness_policy": "off"},
            }
        )
        settings.home.mkdir(parents=True)
        recreate_topics(settings)
        world = World(settings, self.host)
        try:
            yield world
        finally:
            world.end()
        shutil.rmtree(settings.home, ignore_errors=True)


@dataclass
class World:
    """Topics, a Feast project, a lake and a group, with what was sent to them and the workers that read it.

    Attributes:
        log: what the broker has acknowledged.
        workers: every worker that was started, oldest first.
        restarts: how often `supervise` has started a worker that had stopped by itself.
    """

    settings: Settings
    host: WorkerHost
    log: SentLog = field(default_factory=SentLog)
    workers: list[HostedWorker] = field(default_factory=list)
    restarts: int = 0

    # -- traffic ---------------------------------------------------------------------------------------------------

    def send(self, events: Iterable[TimedEvent]) -> None:
        """Send events at full speed; they are acknowledged on return."""
        send(self.settings, events, self.log)

    def load(self, events: Iterable[TimedEvent]) -> AbstractContextManager[Load]:
        """Send events at their rate while a block runs."""
        return background_load(self.settings, events, self.log)

    # -- workers ---------------------------------------------------------------------------------------------------

    def start(
        self,
        *,
        instance: str = "",
        crash: CrashPlan | None = None,
        file_bytes_max: int | None = None,
        **worker: Any,
    ) -> HostedWorker:
        """Start a worker.

        Args:
            instance: name for static membership: a worker that is killed and started under the same name gets its
                partitions back at once; without one the group waits for the session timeout.
            worker: settings of this worker only.
        """
        changed = self.settings.worker.model_copy(update={**worker, "instance_id": instance})
        settings = self.settings.model_copy(update={"worker": changed})
        log = self.settings.home / f"worker-{len(self.workers)}.log"
        started = self.host.start(settings, log, crash=crash, file_bytes_max=file_bytes_max)
        self.workers.append(started)
        return started

    def start_ready(self, *, instance: str = "", **worker: Any) -> HostedWorker:
        """Start a worker, and wait until it and those that run already own all partitions between them."""
        running = sum(other.runs for other in self.workers)
        started = self.start(instance=instance, **worker)
        self.wait_ready(running + 1)
        return started

    def wait_ready(self, count: int = 1) -> None:
        """Wait until so many workers own all partitions between them."""
        wanted = PARTITIONS * len(EVENT_TOPICS)

        def ready() -> bool:
            report = self.report()
            assert sum(worker.runs for worker in self.workers) >= count, self.tails()
            return report.worker_count == count and len(report.read) == wanted

        wait_until(ready, READY_DEADLINE_S, lambda: f"not {count} workers own all partitions: {self.tails()}")

    def wait_committed(self, supervised: "Supervisor | None" = None) -> None:
        """Wait until the group has committed all that was sent.

        Args:
            supervised: starts workers again that stop by themselves meanwhile.
        """
        lags = GroupLags(self.settings)

        def committed() -> bool:
            if supervised is None:
                assert any(worker.runs for worker in self.workers), self.tails()
            else:
                supervised.mend()
            return lags.total() == 0

        wait_until(committed, DRAIN_DEADLINE_S, lambda: f"a lag of {lags.total()} stays: {self.tails()}")

    def commit_everywhere(self) -> None:
        """Send until something of each partition is committed; by then the worker knows the schemas of both topics."""
        lags = GroupLags(self.settings)
        while not all(lag.committed for lag in lags.read()):
            self.send(simulated(BACKLOG))
            self.wait_committed()

    def report(self) -> WorkerReport:
        """Return what the running workers tell."""
        return read_workers(self.settings)

    def tails(self) -> str:
        """Return the end of the newest workers' logs."""
        return "\n".join(worker.tail(1_500) for worker in self.workers[-2:])

    def assert_read_once(self) -> None:
        """Assert that what all workers say to have read adds up to what was sent: none of it came twice to anybody.

        None of them may have been killed, and all must have ended.
        """
        read: Counter[str] = Counter()
        for worker in self.workers:
            read += worker.records()
        assert read["redelivered"] == 0, read
        assert sum(read.values()) == self.log.acknowledged_count, (read, self.log.acknowledged_count)

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self) -> Verdict:
        """Wait until all is committed, stop the workers in order, and judge what is there."""
        self.wait_committed()
        for worker in self.workers:
            if worker.runs:
                assert worker.stop() == 0, worker.tail()
        return self.judge()

    def judge(self) -> Verdict:
        """Compare what was sent with what is there."""
        return judge(self.settings, self.log)

    def end(self) -> None:
        """Kill what still runs."""
        for worker in self.workers:
            if worker.runs:
                worker.kill()


@dataclass
class Supervisor:
    """Keeps a worker running as an operator's supervisor does: starts it again when it has stopped with exit code 1.

    Attributes:
        instance: name for static membership.
        reasons: the last line of each worker that stopped by itself.
    """

    world: World
    instance: str = ""
    worker: HostedWorker = field(init=False)
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.worker = self.world.start(instance=self.instance)

    def mend(self) -> None:
        """Start the worker again if it has stopped by itself; any end but exit code 1 is a failure."""
        code = self.worker.exit_code()
        if code is None:
            return
        assert code == CRASHED, f"exit code {code}: {self.worker.tail()}"
        self.reasons.append((self.worker.tail().strip().splitlines() or [""])[-1])
        self.world.restarts += 1
        self.worker = self.world.start(instance=self.instance)

    def until_progress(self) -> None:
        """Wait until the group commits more than it has by now."""
        lags = GroupLags(self.world.settings)

        def committed() -> int:
            return sum(lag.committed or 0 for lag in lags.read())

        before = committed()

        def progressed() -> bool:
            self.mend()
            return committed() > before

        wait_until(progressed, DRAIN_DEADLINE_S, lambda: f"nothing is committed any more: {self.world.tails()}")


@dataclass(frozen=True)
class Outcome:
    """What a scenario has to tell.

    Attributes:
        injected: how often the fault was injected.
        kills: how many of these were a kill -9 of a worker.
        notes: what else was seen: redelivered records, restarts, pauses, memory.
    """

    injected: int
    verdict: Verdict
    kills: int = 0
    notes: str = ""


@dataclass(frozen=True)
class Scenario:
    """One fault.

    Attributes:
        name: words and dots, for `ONLY=`; unique.
        injects: what is done, in a line.
        run: does it, asserts what is particular to it, and returns the account.
        harms_services: needs a stack of its own (`Arena.stack`).
        in_full: belongs to the full form.
        is_short: belongs to the short form.
    """

    name: str
    injects: str
    run: Callable[[Arena], Outcome]
    harms_services: bool = False
    in_full: bool = True
    is_short: bool = False


@dataclass(frozen=True)
class Row:
    """The account of one scenario, as it is printed and kept."""

    fault: str
    injected: int
    kills: int
    records: int
    lost: int
    duplicated: int
    mismatched: int
    seconds: float
    notes: str
    failure: str = ""

    @classmethod
    def failed(cls, scenario: Scenario, failure: str) -> "Row":
        """Return the row of a scenario that did not come to its end."""
        return cls(scenario.name, 0, 0, 0, 0, 0, 0, 0.0, scenario.injects, failure)

    @property
    def is_exact(self) -> bool:
        """Tell whether nothing is wrong."""
        return not (self.lost or self.duplicated or self.mismatched or self.failure)


def run_scenario(scenario: Scenario, arena: Arena) -> Row:
    """Run a scenario; what it asserts and what fails is raised."""
    started_s = time.monotonic()
    outcome = scenario.run(arena)
    verdict = outcome.verdict
    return Row(
        fault=scenario.name,
        injected=outcome.injected,
        kills=outcome.kills,
        records=verdict.records,
        lost=verdict.lost,
        duplicated=verdict.duplicated,
        mismatched=verdict.mismatched,
        seconds=round(time.monotonic() - started_s, 1),
        notes="; ".join(note for note in (outcome.notes, *verdict.examples) if note),
    )
