"""The proof of drift detection: calibrate on history, judge what follows, count alarms and triggers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.settings import Settings, load_settings
from quality.drift import Outcome
from sinks.lake_root import lake_of
from tests.quality.world import Plan, note_halt, write
from training.drift_reference import reference_in_force, take_reference
from training.drift_windows import Cause, JudgedWindow, check


@dataclass
class Requests:
    """Takes requests for a retraining: one within the cooldown."""

    cooldown_ms: int
    granted: list[Cause] = field(default_factory=list)

    def __call__(self, cause: Cause) -> Mapping[str, Any]:
        if self.granted and cause.window_end_ms - self.granted[-1].window_end_ms < self.cooldown_ms:
            return {"suppressed": "the last request is not long enough ago"}
        self.granted.append(cause)
        return {"requested": f"{cause.cause}-{cause.window_start_ms}"}


@dataclass(frozen=True)
class Figures:
    """What came of one world.

    Attributes:
        stable: windows without a change that were judged.
        alarms: of those.
        triggers: requests for a retraining, by part of the world.
        windows_to_trigger: which of the shifted windows gave cause; None if none did.
        null_scores: share of missing categories in each broken window.
        broken: outcomes of those.
    """

    seed: int
    calibrated_on: int
    expected: float
    stable: int
    alarms: int
    unjudged: int
    triggers: Mapping[str, int]
    windows_to_trigger: int | None
    broken: list[str]
    null_scores: list[float]
    words: str
    alarming: list[str]
    seconds: Mapping[str, float]


def settings_in(folder: Path, **drift: Any) -> Settings:
    """Return settings of a world: features as they should have been, for events that lie in the past."""
    return load_settings({"home": folder, "training": {"mode": "as_corrected"}, "drift": drift})


def prove(folder: Path, plan: Plan, **drift: Any) -> Figures:
    """Make a world, calibrate on its history, and judge the rest."""
    settings = settings_in(folder, **drift)
    lake, seconds = folder / "lake", {}
    started_s = time.monotonic()
    write(lake, plan)
    note_halt(lake, plan)
    seconds["simulate"] = time.monotonic() - started_s
    started_s = time.monotonic()
    take_reference(settings, *plan.history_ms, None)
    seconds["calibrate"] = time.monotonic() - started_s
    requests = Requests(settings.drift.cooldown_ms)
    started_s = time.monotonic()
    report = check(settings, red=[], request=requests)
    seconds["judge"] = time.monotonic() - started_s
    again = check(settings, red=[], request=requests)
    if again.windows:
        raise AssertionError(f"a second check judged {len(again.windows)} windows again")
    found = reference_in_force(lake_of(settings))
    if found is None:
        raise AssertionError("no reference is in force")
    calibration = found.calibration
    return _figures(plan, list(report.windows), requests, calibration.windows, calibration.expected, seconds)


def _figures(
    plan: Plan,
    windows: list[JudgedWindow],
    requests: Requests,
    calibrated_on: int,
    expected: float,
    seconds: Mapping[str, float],
) -> Figures:
    verdicts = [window.verdict for window in windows]
    stable = [each for each in verdicts if each.end_ms <= plan.broken_ms[0]]
    broken = [each for each in verdicts if plan.broken_ms[0] <= each.start_ms < plan.broken_ms[1]]
    parts = {"stable": 0, "broken": 0, "mended": 0, "shifted": 0}
    for cause in requests.granted:
        at_ms = cause.window_start_ms
        parts[
            "stable"
            if at_ms < plan.broken_ms[0]
            else "broken"
            if at_ms < plan.broken_ms[1]
            else "mended"
            if at_ms < plan.shifted_ms[0]
            else "shifted"
        ] += 1
    shifted = [cause for cause in requests.granted if cause.window_start_ms >= plan.shifted_ms[0]]
    first = (shifted[0].window_end_ms - plan.shifted_ms[0]) // 3_600_000 if shifted else None
    return Figures(
        seed=plan.seed,
        calibrated_on=calibrated_on,
        expected=expected,
        stable=sum(each.outcome is not Outcome.UNJUDGED for each in stable),
        alarms=sum(each.outcome is Outcome.ALARM for each in stable),
        unjudged=sum(each.outcome is Outcome.UNJUDGED for each in stable),
        triggers=parts,
        windows_to_trigger=first,
        broken=[each.outcome.value for each in broken],
        null_scores=[each.scores["label_category_id"].null_share for each in broken],
        words=shifted[0].detail if shifted else "",
        alarming=[each.words for each in stable if each.outcome is Outcome.ALARM],
        seconds=seconds,
    )
