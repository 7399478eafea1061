"""The watch of drift: goes round what keeps data and models in step, each part by itself, until it is ended."""

import logging
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from config.errors import ShopstreamError
from config.settings import Settings

if TYPE_CHECKING:
    from sinks.outbox import Outbox
    from sinks.outbox_sender import OutboxSender
    from streams.observing import GroupLags
    from training.drift_reference import HaltedSpan
    from training.drift_windows import Cause, CheckReport

GATES: Final = "gates"
WINDOWS: Final = "windows"
OUTBOX: Final = "outbox"
TRAINING: Final = "training"
ROLLOUT: Final = "rollout"
STATUS: Final = "status"
PARTS: Final = (GATES, WINDOWS, OUTBOX, TRAINING, ROLLOUT, STATUS)

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RedGates:
    """What gates say against a retraining.

    Attributes:
        halts: views that are halted.
        words: what is wrong with the data, of each red gate.
    """

    halts: "Sequence[HaltedSpan]" = ()
    words: Sequence[str] = ()


@dataclass
class Round:
    """What one round did.

    Attributes:
        judged: windows, as JSON has them.
        waiting: deliveries that their receivers have not taken.
        trained: report of a training; None if there was none.
        steps: of models.
        failures: by part, in a sentence.
    """

    judged: list[dict[str, Any]] = field(default_factory=list)
    waiting: int = 0
    trained: dict[str, Any] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def is_eventful(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.judged or self.trained or self.steps or self.failures)

    def payload(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "windows": self.judged,
            "waiting": self.waiting,
            "trained": self.trained,
            "steps": self.steps,
            "failures": self.failures,
        }


class Watch:
    """Goes round; what fails is told once, and tried again with the next round.

    Args:
        tell: told what happens, a sentence at a time.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._failing: dict[str, str] = {}
        self._outbox: Outbox | None = None
        self._sender: OutboxSender | None = None
        self._lags: GroupLags | None = None
        self._waiting: set[tuple[str, str]] = set()

    def close(self) -> None:
        """Stop delivering; what waits stays on the disk."""
        if self._sender is not None:
            self._sender.close()

    def round(self) -> Round:
        """Look at each part once; blocking, and harmless when it is ended in its middle."""
        done = Round()
        # whoever does not know how gates stand must not judge: windows are judged once
        red = self._part(done, GATES, lambda: red_gates(self._settings))
        if red is not None:
            self._part(done, WINDOWS, lambda: self._check(done, red))
        self._part(done, OUTBOX, lambda: self._deliver(done))
        if self._settings.training.runner == "local":
            self._part(done, TRAINING, lambda: self._train(done))
        self._part(done, ROLLOUT, lambda: self._guard(done))
        self._part(done, STATUS, lambda: self._write_metrics(done))
        return done

    def _part(self, done: Round, name: str, work: Callable[[], T]) -> T | None:
        try:
            result = work()
        except ShopstreamError as error:
            self._fails(done, name, str(error))
            return None
        except Exception as error:
            if name not in self._failing:
                logger.exception("%s of the watch failed", name)
            self._fails(done, name, f"{type(error).__name__}: {error}")
            return None
        if self._failing.pop(name, None) is not None:
            self._tell(f"{name} works again")
        return result

    def _fails(self, done: Round, name: str, why: str) -> None:
        done.failures[name] = why
        if self._failing.get(name) != why:
            self._tell(f"{name} failed, and is tried again: {why}")
        self._failing[name] = why

    def _check(self, done: Round, red: RedGates) -> None:
        from streams.observing import GroupLags
        from training.errors import DriftBusyError

        if self._lags is None:
            self._lags = GroupLags(self._settings)
        with suppress(DriftBusyError):  # somebody else does the same
            report = check_windows(self._settings, red, behind(self._settings, self._lags))
            done.judged = [window.document() for window in report.windows]
            for window in report.windows:
                self._tell(window_words(window.document()))

    def _deliver(self, done: Round) -> None:
        from sinks.delivering import outbox_of
        from sinks.outbox_sender import OutboxSender

        if self._outbox is None or self._sender is None:
            self._outbox = outbox_of(self._settings)
            self._sender = OutboxSender(self._outbox)
        waiting = {(delivery.kind, delivery.id) for delivery in self._outbox.waiting()}
        if waiting - self._waiting:  # what has waited before is tried again by the sender itself
            self._sender.wake()
        self._waiting, done.waiting = waiting, len(waiting)

    def _train(self, done: Round) -> None:
        from training.local_runner import run_requested

        report = run_requested(self._settings, self._tell)
        done.trained = None if report is None else report.payload()

    def _guard(self, done: Round) -> None:
        from serving.rollout import guard

        for step in guard(self._settings):
            done.steps.append({"model": step.model, "step": step.step.value, "reason": step.reason})
            self._tell(f"model {step.model} is {step.step.value.replace('_', ' ')}: {step.reason}")

    def _write_metrics(self, done: Round) -> None:
        from training.drift_status import METRICS_FILE, DriftStatus, write_metrics

        failing = {part: part in self._failing for part in PARTS if part != STATUS}
        path = self._settings.home / "metrics" / METRICS_FILE
        write_metrics(DriftStatus.read(self._settings), path, waiting=done.waiting, failing=failing)


def watch(settings: Settings, interval_s: float, *, tell: Callable[[str], None], took: Callable[[Round], None]) -> bool:
    """Go round again and again, until SIGTERM or Ctrl-C; return False if another process of this home watches already.

    Args:
        interval_s: between the end of a round and the next.
        tell: told what happens, a sentence at a time.
        took: given each round in which something happened.
    """
    from streams.watching import watching_alone

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # in the middle of a training, too
    try:
        with watching_alone(settings.home) as is_alone:
            if not is_alone:
                return False
            tell(f"begins, and goes round every {interval_s:g} s until it is ended")
            with closing(Watch(settings, tell)) as rounds:
                while True:
                    done = rounds.round()
                    if done.is_eventful:
                        took(done)
                    time.sleep(interval_s)
    except KeyboardInterrupt:
        return True
    finally:
        signal.signal(signal.SIGTERM, before)


def check_windows(
    settings: Settings, red: RedGates, behind: Collection[int], tell: Callable[[str], None] = lambda _line: None
) -> "CheckReport":
    """Judge what is closed, and ask for a retraining where that is due.

    Args:
        behind: partitions that windows wait for.

    Raises:
        DriftBusyError: another process is at it.
        ShopstreamError: the lake, the feature store or the outbox cannot be used.
    """
    from sinks.retraining import Retraining
    from training.drift_windows import check

    retraining = Retraining.from_settings(settings)

    def request(cause: "Cause") -> dict[str, Any]:
        return retraining.request(
            cause=cause.cause,
            window_start_ms=cause.window_start_ms,
            window_end_ms=cause.window_end_ms,
            detail=cause.detail,
            evidence=dict(cause.evidence),
            red=red.words,
        )

    return check(settings, red=red.halts, request=request, behind=behind, tell=tell)


def behind(settings: Settings, lags: "GroupLags") -> set[int]:
    """Return the partitions of the judged kind that the workers have not read to their ends.

    Raises:
        BrokerUnavailableError: Kafka does not answer.
    """
    from training.event_labels import topic_of

    topic = topic_of(settings.drift.label_kind)
    return {lag.tp.partition for lag in lags.read() if lag.tp.topic == topic and lag.lag_records}


def red_gates(settings: Settings) -> RedGates:
    """Return what gates say against a retraining now.

    Raises:
        SettingsError, OnlineStoreError: it cannot be known.
    """
    from quality.gates import GateStatus
    from streams.gate_report import standings
    from training.drift_reference import HaltedSpan

    halts, words = [], []
    for topic in standings(settings):
        halt = topic.notes.halt
        if halt is not None:
            halts.append(HaltedSpan(topic.topic, halt.gate, halt.since_ms, None, halt.evidence.get("event_time_ms")))
            words.append(f"{topic.topic} is halted by its gate {halt.gate}: {halt.detail}")
        for gate, standing in topic.gates.items():
            is_told = halt is not None and gate == halt.gate
            if standing.verdict is not None and standing.verdict.status is GateStatus.FAIL and not is_told:
                words.append(f"gate {gate} of {topic.topic} is red: {standing.verdict.detail}")
        if topic.halted and halt is None:
            words.append(f"{topic.topic} is halted")
    return RedGates(halts, words)


def window_words(window: dict[str, Any]) -> str:
    """Say in a line what was found about a window."""
    from config.words import moment

    asked = "; ".join(f"retraining {answer['outcome']}" for answer in window["requests"])
    told = f"{moment(window['window_start_ms'])}: {window['outcome']}, {window['words']}"
    return f"{told} ({asked})" if asked else told
