"""How drift stands: what windows are compared with, what the newest of them say, and what became of requests."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config.metrics import DRIFT_METRICS
from config.settings import Settings
from quality.drift import Outcome
from sinks.lake_root import lake_of
from sinks.retraining import Retraining, RetrainingRequest
from training.drift_reference import DriftReference, reference_in_force
from training.drift_windows import DRIFT, JudgedWindow, judged_windows

METRICS_FILE: Final = "drift.prom"
WINDOWS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class DriftStatus:
    """How it stands at one moment.

    Attributes:
        reference: in force; None if there is none.
        windows: of the newest `WINDOWS_MAX` those that were compared with it, oldest first.
        windows_in_row: how many must alarm in a row.
        requests: newest step of each request for a retraining, those that were suppressed included, oldest first.
        in_flight: the request that is under way.
        silenced_until_ms: by the wall clock; None if it is not.
        cooldown_ms: event time between two requests of one cause.
    """

    reference: DriftReference | None
    windows: Sequence[JudgedWindow]
    windows_in_row: int
    requests: Sequence[RetrainingRequest]
    in_flight: RetrainingRequest | None
    silenced_until_ms: int | None
    cooldown_ms: int

    @classmethod
    def read(cls, settings: Settings) -> "DriftStatus":
        """Read it from the lake; blocking.

        Raises:
            LakeUnavailableError: the lake cannot be read.
        """
        lake, retraining = lake_of(settings), Retraining.from_settings(settings)
        reference = reference_in_force(lake)
        mine = [] if reference is None else [
            window for window in judged_windows(lake, WINDOWS_MAX) if window.reference_id == reference.reference_id
        ]  # fmt: skip
        return cls(
            reference,
            mine,
            settings.drift.windows_in_row,
            retraining.newest(),
            retraining.in_flight(),
            retraining.silenced_until_ms(),
            settings.drift.cooldown_ms,
        )

    @property
    def newest(self) -> JudgedWindow | None:
        """The newest window."""
        return self.windows[-1] if self.windows else None

    @property
    def in_row(self) -> int:
        """How many windows up to the newest alarmed in a row."""
        return self.newest.decision.in_row if self.newest else 0

    @property
    def is_drifted(self) -> bool:
        """Whether those are as many as it takes."""
        return self.newest is not None and self.newest.decision.is_due

    @property
    def cooldown_until_ms(self) -> int | None:
        """Event time up to which drift gives no further cause; None if it does."""
        ends = [
            request.window_end_ms
            for request in self.requests
            if request.cause == DRIFT and request.requested_ms is not None and request.window_end_ms is not None
        ]
        until_ms = max(ends, default=0) + self.cooldown_ms
        is_over = not ends or self.newest is None or self.newest.verdict.end_ms >= until_ms
        return None if is_over else until_ms

    @property
    def words(self) -> str:
        """How it stands, in one sentence."""
        if self.reference is None:
            return "There is no reference, so nothing is judged: run `shopstream drift calibrate`."
        return (
            f"No window has been judged against the reference {self.reference.reference_id} yet."
            if self.newest is None
            else standing_words(self.newest)
        )

    def payload(self, windows: int) -> dict[str, Any]:
        """Return it as one JSON object.

        Args:
            windows: how many of the newest are told.
        """
        return {
            "drifted": self.is_drifted,
            "words": self.words,
            "in_row": self.in_row,
            "windows_in_row": self.windows_in_row,
            "reference": self.reference and self.reference.summary(),
            "windows": [window.document() for window in self.windows[-windows:]],
            "in_flight": self.in_flight and request_document(self.in_flight),
            "silenced_until_ms": self.silenced_until_ms,
            "cooldown_until_ms": self.cooldown_until_ms,
            "requests": [request_document(request) for request in self.requests],
        }


def standing_words(newest: JudgedWindow) -> str:
    """Say in a sentence how it stands with a window and those before it."""
    if newest.decision.is_due:
        return f"Drifted: {newest.decision.words}."
    if newest.decision.in_row:
        return f"Not drifted yet: {newest.decision.words}."
    if newest.verdict.outcome is Outcome.UNJUDGED:
        return f"The newest window is not judged: {newest.verdict.why}."
    return "Not drifted: nothing moved beyond its threshold in the newest window."


def request_document(request: RetrainingRequest) -> dict[str, Any]:
    """Return a request as JSON has it, without its evidence, which is long."""
    document = request.document()
    del document["evidence"]
    return document


def write_metrics(status: DriftStatus, path: Path, *, waiting: int, failing: Mapping[str, bool]) -> None:
    """Write the metrics of `config.metrics.DRIFT_METRICS` as a text file, whole or not at all.

    Args:
        waiting: deliveries that their receivers have not taken.
        failing: of each part of the watch, whether it fails.

    Raises:
        OSError: it cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    gauges = {spec.name: Gauge(spec.name, spec.description, spec.labels, registry=registry) for spec in DRIFT_METRICS}
    newest = status.newest
    plain = {
        "reference_created_seconds": status.reference.created_ms / 1000 if status.reference else 0,
        "judged_until_seconds": newest.verdict.end_ms / 1000 if newest else 0,
        "in_row": status.in_row,
        "is_due": status.is_drifted,
        "silenced_until_seconds": (status.silenced_until_ms or 0) / 1000,
        "outbox": waiting,
        "watched_seconds": _now_ms() / 1000,
    }
    outcomes = Counter(window.verdict.outcome for window in status.windows)
    labelled: dict[str, Mapping[str, float]] = {
        "windows": {outcome.value: outcomes[outcome] for outcome in Outcome},
        "psi": {name: score.psi for name, score in newest.verdict.scores.items()} if newest else {},
        "requests": Counter(request.step.value for request in status.requests),
        "part_failing": failing,
    }
    for name, value in plain.items():
        gauges[f"shopstream_drift_{name}"].set(value)
    for name, values in labelled.items():
        for label, value in values.items():
            gauges[f"shopstream_drift_{name}"].labels(label).set(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
