"""Running the lanes of a replay: in this process, or in some processes that take them one after the other."""

import gc
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Event as ThreadEvent
from typing import Any, Final, NamedTuple

from config.errors import ShopstreamError
from config.settings import Settings
from replay.errors import ReplayError
from replay.lanes import SAVE_EVERY_S, LanePorts, LaneProgress, LaneRun
from replay.plan import ReplayPlan
from replay.runs import LaneCounts, LaneFile
from replay.sources import EventSource, LakeSource
from replay.targets import NEEDS, open_target
from schemas.privacy import Pseudonyms
from sinks.erasures import read_tombstones
from sinks.lake_root import Lake, Pin, lake_of

_POLL_S: Final = 0.2
_ENDING_S: Final = 30.0
_OBJECTS_PER_COLLECTION: Final = 100_000


class LakePin(NamedTuple):
    """A `sinks.lake_root.Pin` that can be handed to another process."""

    versions: dict[str, int]
    instant: datetime | None

    @property
    def name(self) -> str:
        """Say it in words, the same for the same moment."""
        return str(Pin(self.versions, self.instant))

    def lake(self, settings: Settings) -> Lake:
        """Return the lake of the settings, as of then."""
        return lake_of(settings, Pin(self.versions, self.instant))


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """All that a process needs to run lanes of a replay.

    Attributes:
        folder: of the run, where its checkpoints are.
        rate: most records a second over all processes; None for no limit.
        save_every_s: the least time between two checkpoints of a lane.
        begun_ms: when the run was begun.
        pin: as of when the lake is read; None for now.
    """

    settings: Settings
    plan: ReplayPlan
    folder: Path
    rate: float | None = None
    save_every_s: float = SAVE_EVERY_S
    begun_ms: int = 0
    pin: LakePin | None = None


@dataclass(slots=True)
class Totals:
    """How far a replay has come, lane by lane."""

    lanes: dict[int, LaneProgress] = field(default_factory=dict)

    def add(self, progress: LaneProgress) -> None:
        """Take what a lane told last."""
        self.lanes[progress.number] = progress

    @property
    def counts(self) -> LaneCounts:
        """What was read so far."""
        return sum((lane.counts for lane in self.lanes.values()), LaneCounts())

    @property
    def target_counts(self) -> dict[str, int]:
        """The targets' numbers, added up."""
        found: dict[str, int] = {}
        for _, lane in sorted(self.lanes.items()):
            for name, count in lane.target_counts.items():
                found[name] = found.get(name, 0) + count
        return found


@contextmanager
def opened_source(settings: Settings, name: str, pin: LakePin | None = None) -> Iterator[EventSource]:
    """Open a source by its name; what is heavy is imported here.

    Args:
        pin: as of when the lake is read; None for now.
    """
    if name == "lake":
        yield LakeSource(lake_of(settings) if pin is None else pin.lake(settings))
        return
    from replay.kafka_source import KafkaSource
    from schemas.registry import RegistryClient

    with closing(RegistryClient(settings.require("registry").registry)) as registry:
        yield KafkaSource(settings, registry)


def run_here(
    job: ReplayJob, lanes: Sequence[int], report: Callable[[LaneProgress], None], stopped: Callable[[], bool]
) -> None:
    """Run lanes in this process, one after the other, until all are done or `stopped`.

    Raises:
        ShopstreamError: a lane failed; what was done of it is saved.
    """

    def pause(seconds: float) -> None:
        ends_s = time.monotonic() + seconds
        while not stopped() and (left_s := ends_s - time.monotonic()) > 0:
            never.wait(min(left_s, _POLL_S))

    never = ThreadEvent()
    with _ports(job, report, stopped, pause, lambda: job.rate) as ports:
        for number in lanes:
            if not stopped():
                _lane_run(job, number, ports).run()


def run_in_processes(
    job: ReplayJob,
    lanes: Sequence[int],
    report: Callable[[LaneProgress | None], None],
    stopped: Callable[[], bool],
    *,
    count: int,
) -> None:
    """Run lanes in so many processes, until all are done or `stopped`.

    Args:
        report: is told of every chunk, and of None now and then.

    Raises:
        ReplayError: a lane failed, or a process died; the others have saved what they did.
    """
    pool = _Pool(job, lanes, report, min(count, len(lanes)))
    try:
        pool.run(stopped)
    finally:
        pool.end()
    if pool.failures:
        raise pool.failures[0]


class _Pool:
    """The processes of one replay, from its parent's side."""

    def __init__(
        self, job: ReplayJob, lanes: Sequence[int], report: Callable[[LaneProgress | None], None], count: int
    ) -> None:
        self._rate = job.rate
        self._report = report
        self._left = deque(lanes)
        self.failures: list[ReplayError] = []
        context = multiprocessing.get_context("spawn")  # the Kafka client and Arrow have threads
        self._processes: dict[Connection, Any] = {}
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(job, theirs), name="shopstream-replay")
            process.start()
            theirs.close()
            self._processes[ours] = process

    def run(self, stopped: Callable[[], bool]) -> None:
        """Give lanes to who is free, until there are none, or one failed."""
        for connection in list(self._processes):
            self._next(connection)
        self._share_rate()
        told_to_stop = False
        while self._processes:
            for ready in wait(list(self._processes), timeout=_POLL_S):
                if isinstance(ready, Connection):
                    self._hear(ready)
            self._report(None)
            if not told_to_stop and (stopped() or self.failures):
                told_to_stop = True
                self._left.clear()
                self._tell(("stop",))

    def end(self) -> None:
        """Let every process end, and see that it did; one that does not is killed."""
        processes = list(self._processes.values())
        for connection in self._processes:
            connection.close()  # it takes this for the end of its parent
        for process in processes:
            process.join(_ENDING_S)
            if process.is_alive():
                process.kill()
                process.join()

    def _hear(self, connection: Connection) -> None:
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            self._gone(connection)
            return
        match message:
            case ("progress", LaneProgress() as progress):
                self._report(progress)
            case ("free",):
                self._next(connection)
            case ("failed", str(text), str(hint)):
                self.failures.append(ReplayError(text, hint=hint))

    def _next(self, connection: Connection) -> None:
        with suppress(BrokenPipeError):  # that it has died is heard next
            connection.send(("lane", self._left.popleft()) if self._left else ("end",))

    def _gone(self, connection: Connection) -> None:
        process = self._processes.pop(connection)
        connection.close()
        process.join(_ENDING_S)
        if process.exitcode:
            self.failures.append(
                ReplayError(
                    f"A process of the replay ended with code {process.exitcode}.",
                    hint="See what it printed; --resume goes on from its last checkpoint.",
                )
            )
        self._share_rate()

    def _share_rate(self) -> None:
        if self._rate is not None and self._processes:
            self._tell(("rate", self._rate / len(self._processes)))

    def _tell(self, message: tuple[Any, ...]) -> None:
        for connection in self._processes:
            with suppress(BrokenPipeError):
                connection.send(message)


def _work(job: ReplayJob, connection: Connection) -> None:
    """Run lanes as the parent gives them: the body of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and tells us
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)  # events are born by the ten thousand, and none is part of a cycle
    _Worker(job, connection).run()


class _Worker:
    """One process, from its own side."""

    def __init__(self, job: ReplayJob, connection: Connection) -> None:
        self._job = job
        self._connection = connection
        self._rate = job.rate
        self._is_stopped = False
        self._lanes: deque[int] = deque()
        self._has_ended = False
        self._report_at_s = 0.0

    def run(self) -> None:
        """Work until the parent says that nothing is left."""
        with _ports(self._job, self._progress, self._stopped, self._pause, lambda: self._rate) as ports:
            self._work(ports)

    def _work(self, ports: LanePorts) -> None:
        while not self._has_ended:
            self._listen(None)
            while self._lanes and not self._is_stopped:
                try:
                    _lane_run(self._job, self._lanes.popleft(), ports).run()
                except ShopstreamError as error:
                    self._send(("failed", error.message, error.hint or ""))
                self._send(("free",))
            if self._is_stopped:
                return

    def _progress(self, progress: LaneProgress) -> None:
        now_s = time.monotonic()
        if progress.is_done or now_s >= self._report_at_s or self._is_stopped:
            self._report_at_s = now_s + _POLL_S
            self._send(("progress", progress))

    def _stopped(self) -> bool:
        self._listen(0.0)
        return self._is_stopped

    def _pause(self, seconds: float) -> None:
        ends_s = time.monotonic() + seconds
        while not self._is_stopped and (left_s := ends_s - time.monotonic()) > 0:
            self._listen(left_s)

    def _listen(self, seconds: float | None) -> None:
        """Hear what the parent says, for so long; None until it says something."""
        try:
            while self._connection.poll(seconds):
                self._take(self._connection.recv())
                seconds = 0.0
        except (EOFError, ConnectionResetError):
            os._exit(1)  # the parent was killed: whoever resumes the replay goes on from the checkpoints

    def _take(self, message: Any) -> None:
        match message:
            case ("lane", int(number)):
                self._lanes.append(number)
            case ("rate", float(rate)):
                self._rate = rate
            case ("stop",):
                self._is_stopped = True
            case ("end",):
                self._has_ended = True

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._connection.send(message)
        except BrokenPipeError:
            os._exit(1)


def _lane_run(job: ReplayJob, number: int, ports: LanePorts) -> LaneRun:
    plan = job.plan
    return LaneRun(
        number,
        plan.lanes[number],
        LaneFile(job.folder, number),
        ports,
        users=None if plan.stored_users is None else frozenset(plan.stored_users),
        originals=NEEDS[plan.request.into].originals,
        save_every_s=job.save_every_s,
    )


@contextmanager
def _ports(
    job: ReplayJob,
    report: Callable[[LaneProgress], None],
    stopped: Callable[[], bool],
    pause: Callable[[float], None],
    rate: Callable[[], float | None],
) -> Iterator[LanePorts]:
    settings, info = job.settings, job.plan.info(job.begun_ms)
    pseudonyms = Pseudonyms.with_key_of(settings.privacy)
    with opened_source(settings, job.plan.request.source, job.pin) as source:
        yield LanePorts(
            source=source,
            open_target=lambda lane: open_target(settings, info, lane),
            tombstones=lambda: read_tombstones(lake_of(settings), pseudonyms),
            report=report,
            stopped=stopped,
            wait=pause,
            rate=rate,
        )
