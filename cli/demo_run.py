"""One run of the demo: a stack of its own, traffic, a worker, readers, and what the checker needs afterwards."""

import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.demo_waiting import DemoError, Waiting
from cli.worker_process import worker_process
from config.errors import ShopstreamError
from config.quality import GatePolicy
from config.settings import Settings, load_settings
from features.catalog import VIEWS
from schemas.event import Event
from schemas.producer import Delivery
from serving.reader import FeatureReader
from stack.embedded import EmbeddedStack, Endpoints
from streams.observing import GroupLags, WorkerReport, read_workers
from traffic.pacing import Pacer
from traffic.rees46 import ImportReport, Rees46File
from traffic.sending import TrafficSummary, open_sender
from traffic.sent_log import SentLog
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import TimedEvent

START_TIMEOUT_S = 90.0
PROBE_POLL_S = 0.02
PROBE_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class DemoOptions:
    """What to send.

    Attributes:
        rate: events per second, `seconds` long; not used with `rees46`.
        late, duplicates, broken: shares of the simulated events.
        rees46: a file of real traffic, sent at full speed.
    """

    rate: float
    seconds: float
    seed: int
    late: float
    duplicates: float
    broken: float
    currency: str
    rees46: Path | None


@dataclass(slots=True)
class Live:
    """What is known while the demo runs, for the live view."""

    stage: str = ""
    started_s: float = field(default_factory=time.monotonic)
    sent_count: int = 0
    freshness_ms: list[float] = field(default_factory=list)
    workers: WorkerReport = field(default_factory=WorkerReport)


@dataclass(frozen=True)
class DemoResult:
    """What a run leaves to be checked.

    Attributes:
        settings: those of the demo's own stack, which still runs.
        catch_up_s: from the last acknowledged event until the worker had read, stored and committed all of them.
        busy_s: from the first event sent until the same moment.
    """

    settings: Settings
    log: SentLog
    summary: TrafficSummary
    odd_rows: ImportReport | None
    workers: WorkerReport
    freshness_ms: list[float]
    catch_up_s: float
    busy_s: float


class FreshnessProbe:
    """Picks acknowledged events one after the other and reads their user through Feast until each is included.

    Args:
        reader: what serving uses.
    """

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader
        self._latest: Delivery | None = None
        self._user_id = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshness", daemon=True)
        self.failure: Exception | None = None
        self.samples_ms: list[float] = []

    def start(self) -> None:
        """Start to measure, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; raises what the thread failed with."""
        self._stopped.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def offer(self, user_id: str, delivery: Delivery) -> None:
        """Tell of an acknowledged event; the newest one offered is measured next."""
        self._user_id, self._latest = user_id, delivery

    def _run(self) -> None:
        try:
            while not self._stopped.wait(PROBE_POLL_S):
                delivery, user_id, self._latest = self._latest, self._user_id, None
                if delivery is not None:
                    self._measure(user_id, delivery)
        except ShopstreamError as error:
            self.failure = error

    def _measure(self, user_id: str, delivery: Delivery) -> None:
        deadline_s = time.monotonic() + PROBE_TIMEOUT_S
        while time.monotonic() < deadline_s:
            answer = self._reader.read([user_id])[0]
            view = answer.views[VIEWS[delivery.topic].view]
            if view.version is not None and view.version > delivery.offset:
                self.samples_ms.append(time.time_ns() / 1e6 - delivery.append_time_ms)
                return
            if self._stopped.wait(PROBE_POLL_S):
                return
        raise DemoError(
            f"The event of {user_id} at {delivery.topic}-{delivery.partition}:{delivery.offset} was not readable "
            f"{PROBE_TIMEOUT_S:.0f} s after it was acknowledged."
        )


class _ProbedLog(SentLog):
    """A sent log that offers every acknowledged event to the probe, once there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.probe: FreshnessProbe | None = None

    def note(self, timed: TimedEvent, delivery: Delivery) -> None:
        super().note(timed, delivery)
        if self.probe is not None and delivery.error is None and isinstance(timed.payload, Event):
            self.probe.offer(timed.payload.user_id, delivery)


@contextmanager
def demo_stack(settings: Settings, tell: Callable[[str], None]) -> Iterator[Settings]:
    """Run a stack of the demo's own under `<home>/demo`, from nothing; it is stopped at the end, its data stay.

    Raises:
        DemoError: another demo runs in the same home.
    """
    with _own_stack(settings) as stack:
        stack.down()  # of a demo that was killed
        shutil.rmtree(_demo_home(settings))
        _demo_home(settings).mkdir()
        yield from _running(stack, settings, tell)


def has_left_data(settings: Settings) -> bool:
    """Tell whether a demo has left its data under this home."""
    return (_demo_home(settings) / "lake").is_dir()


@contextmanager
def left_stack(settings: Settings, tell: Callable[[str], None]) -> Iterator[Settings]:
    """Run the stack of the last demo again, with the data that it has left; it is stopped at the end.

    Raises:
        DemoError: no demo has left data in this home, or one runs there.
    """
    home = _demo_home(settings)
    if not has_left_data(settings):
        raise DemoError(f"No demo has left data under {home}.", hint="Run `shopstream demo` first.")
    tell(f"Starting the stack of the last demo, under {home}")
    with _own_stack(settings) as stack:
        yield from _running(stack, settings, tell)


def _demo_home(settings: Settings) -> Path:
    return (settings.home / "demo").absolute()


@contextmanager
def _own_stack(settings: Settings) -> Iterator[EmbeddedStack]:
    """Have the demo's folder, and the stack in it, for oneself."""
    home = _demo_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    with (home.parent / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(
                f"Another demo runs under {home}.", hint="Wait for it, or choose another folder with --home."
            ) from None
        yield EmbeddedStack(home, settings.cache_dir)


def _running(stack: EmbeddedStack, settings: Settings, tell: Callable[[str], None]) -> Iterator[Settings]:
    endpoints = stack.up(progress=tell)
    try:
        yield demo_settings(_demo_home(settings), settings, endpoints)
    finally:
        stack.down()


def demo_settings(home: Path, settings: Settings, endpoints: Endpoints) -> Settings:
    """Return settings that point at the demo's own stack, whatever else is set."""
    return load_settings(
        {
            "home": home,
            "cache_dir": settings.cache_dir,
            "kafka": {"bootstrap_servers": endpoints.kafka},
            "registry": {"url": endpoints.registry},
            "redis": {"url": endpoints.redis},
            "lake": {"path": home / "lake"},
            "feast": {"registry_path": home / "feast" / "registry.db"},
        }
    )


def _of_the_past(settings: Settings) -> Settings:
    """Return settings for traffic that happened long ago: that it is not fresh is no fault."""
    gates = settings.gates.model_copy(update={"freshness_policy": GatePolicy.OFF})
    return settings.model_copy(update={"gates": gates})


class DemoRun:
    """Runs traffic through a worker on a stack that is up.

    Args:
        live: is kept up to date for the live view.
    """

    def __init__(self, settings: Settings, options: DemoOptions, live: Live, tell: Callable[[str], None]) -> None:
        self._settings = settings if options.rees46 is None else _of_the_past(settings)
        self._options = options
        self._live = live
        self._tell = tell

    def run(self) -> DemoResult:
        """Send, wait until all is read, stored and committed, and stop the worker.

        Raises:
            DemoError: the worker ended or did not finish in time.
        """
        from feature_repo import load_feast

        self._tell("Registering schemas")
        with ExitStack() as opened:
            log = _ProbedLog()
            sender = opened.enter_context(open_sender(self._settings, log, broken=self._options.broken > 0))
            self._tell("Starting a worker, which applies the feature definitions")
            process = opened.enter_context(worker_process(self._settings, self._worker_log()))
            load_feast()  # takes seconds, as it does in the worker meanwhile
            waiting = Waiting(process, self._worker_log())
            waiting.until(
                lambda: bool(read_workers(self._settings).read), "the worker had no partitions", START_TIMEOUT_S
            )
            reader = FeatureReader.from_settings(self._settings, for_inspection=True)
            opened.callback(reader.close)
            log.probe = probe = FreshnessProbe(reader)
            events, pacer, report = self._source()
            self._live.freshness_ms = probe.samples_ms
            probe.start()
            stop_view = self._watch_workers()
            self._tell("Sending traffic")
            started_s = time.monotonic()
            try:
                summary = sender.run(events, pacer, self._sent)
                sent_s = time.monotonic()
                self._tell("Waiting until all is read, stored and committed")
                lags = GroupLags(self._settings)
                waiting.until(lambda: lags.total() == 0, "the worker had not committed every record")
                done_s = time.monotonic()
            finally:
                stop_view()
                probe.stop()
            workers = read_workers(self._settings)
        if process.returncode != 0:
            raise waiting.ended()
        return DemoResult(
            settings=self._settings,
            log=log,
            summary=summary,
            odd_rows=report,
            workers=workers,
            freshness_ms=probe.samples_ms,
            catch_up_s=done_s - sent_s,
            busy_s=done_s - started_s,
        )

    def _source(self) -> tuple[Iterator[TimedEvent], Pacer, ImportReport | None]:
        options = self._options
        if options.rees46 is not None:
            file = Rees46File(options.rees46, options.currency, None)
            return file.events(), Pacer(clock=time.monotonic, sleep=time.sleep, speed=None), file.report
        config = SimulatorConfig(
            seed=options.seed,
            start_ms=time.time_ns() // 1_000_000,
            rate=options.rate,
            late_share=options.late,
            duplicate_share=options.duplicates,
            broken_share=options.broken,
            currency=options.currency,
        )
        events = Simulator(config, max(1, round(options.rate * options.seconds))).events()
        return events, Pacer(clock=time.monotonic, sleep=time.sleep), None

    def _sent(self, count: int) -> None:
        self._live.sent_count = count

    def _watch_workers(self) -> Callable[[], None]:
        stopped = threading.Event()

        def watch() -> None:
            while not stopped.wait(1.0):
                self._live.workers = read_workers(self._settings)

        thread = threading.Thread(target=watch, name="live view", daemon=True)
        thread.start()

        def stop() -> None:
            stopped.set()
            thread.join()

        return stop

    def _worker_log(self) -> Path:
        return self._settings.home / "worker.log"
