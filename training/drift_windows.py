"""Judges the windows of event time that are closed and were not judged yet, in order, each once.

A window's row is written after what it gave cause for was asked for, and a request's id follows from cause and window.
So whoever dies in between asks for the same thing again, and nothing is decided twice.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow.compute as pc

from config.settings import Settings
from config.words import percent
from quality.drift import Decision, Outcome, Score, Verdict, decide, judge
from sinks.lake_root import Lake, lake_of
from sinks.leases import reading
from sinks.noting import note
from sinks.quality_tables import DRIFT_WINDOWS
from training.clicks import read_rows
from training.drift_reference import (
    DriftReference,
    HaltedSpan,
    halted_spans,
    one_at_a_time,
    reference_in_force,
    take_reference,
)
from training.online_clicks import falls_within
from training.window_profiles import SeenWindow, WindowReader

__all__ = ["Cause", "CheckReport", "check", "judged_windows", "take_reference"]

DRIFT: Final = "drift"
ONLINE_QUALITY: Final = "online_quality"

_END_OF_TIME_MS: Final = 1 << 62
_WITHOUT_PROFILE: Final = [column.name for column in DRIFT_WINDOWS.columns if column.name != "profile"]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a retraining is asked for.

    Attributes:
        cause: `drift` or `online_quality`.
        detail: in words.
        evidence: scores, and versions of the lake's tables.
    """

    cause: str
    window_start_ms: int
    window_end_ms: int
    detail: str
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """A window, what was found, and what came of it.

    Attributes:
        answers: to each request for a retraining that it gave cause for.
    """

    reference_id: str
    verdict: Verdict
    decision: Decision
    answers: Sequence[Mapping[str, Any]] = ()

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it, without the scores of variables that did not drift."""
        verdict = self.verdict
        return {
            "window_start_ms": verdict.start_ms,
            "window_end_ms": verdict.end_ms,
            "reference_id": self.reference_id,
            "rows": verdict.rows,
            "outcome": verdict.outcome.value,
            "compared_with": verdict.compared_with,
            "words": verdict.words,
            "drifted": {name: verdict.scores[name].document() for name in verdict.drifted},
            "in_row": self.decision.in_row,
            "is_due": self.decision.is_due,
            "requests": list(self.answers),
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check did.

    Attributes:
        reference_id: in force; None if there is none, and nothing was judged.
        windows: that were judged, in order.
        closed_until_ms: up to where windows are closed.
    """

    reference_id: str | None
    windows: Sequence[JudgedWindow] = field(default_factory=list)
    closed_until_ms: int | None = None

    def payload(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "reference_id": self.reference_id,
            "closed_until_ms": self.closed_until_ms,
            "windows": [window.document() for window in self.windows],
        }


def check(
    settings: Settings,
    *,
    red: Sequence[HaltedSpan],
    request: Callable[[Cause], Mapping[str, Any]],
    behind: Collection[int] = (),
    tell: Callable[[str], None] = lambda _line: None,
) -> CheckReport:
    """Judge what is closed and not judged yet, and ask for a retraining where that is due. Blocking.

    Args:
        red: views that gates hold halted now, beside what is noted in the lake.
        request: asks for a retraining; returns the answer as JSON has it.
        behind: partitions whose log holds records that are not in the lake yet; windows wait for them.
        tell: told what is under way, in words.

    Raises:
        DriftBusyError: another process is at it.
        ShopstreamError: the lake, the feature store or whoever takes requests does not answer.
    """
    with one_at_a_time(settings):
        lake = lake_of(settings)
        found = reference_in_force(lake)
        return CheckReport(None) if found is None else _Check(settings, lake, found, red, request).run(behind, tell)


def judged_windows(lake: Lake, newest: int | None = None, *, before_ms: int | None = None) -> list[JudgedWindow]:
    """Return windows that were judged, in the order of time.

    Args:
        newest: how many of them; None for all. A year of hours is much to read.
        before_ms: only those that begin before.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    start = pc.field("window_start_ms")
    wanted = start < (_END_OF_TIME_MS if before_ms is None else before_ms)
    pruning = []
    if newest is not None:
        known = read_rows(lake, DRIFT_WINDOWS.name, ["window_start_ms"], wanted)
        starts = [] if known is None else sorted(known.column("window_start_ms").to_pylist())
        if not starts:
            return []
        first_ms = starts[-newest:][0]
        wanted, pruning = wanted & (start >= first_ms), [("window_start_ms", ">=", first_ms)]
    found = read_rows(lake, DRIFT_WINDOWS.name, _WITHOUT_PROFILE, wanted, pruning)
    rows = [] if found is None else found.to_pylist()
    return [_judged(row) for row in sorted(rows, key=lambda row: (row["window_start_ms"], row["judged_ms"]))]


class _Check:
    """One check against one reference."""

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        found: DriftReference,
        red: Sequence[HaltedSpan],
        request: Callable[[Cause], Mapping[str, Any]],
    ) -> None:
        self._settings = settings
        self._lake = lake
        self._found = found
        self._request = request
        self._spans = [*halted_spans(lake), *red]
        self._rows: list[dict[str, Any]] = []
        self._judged: list[JudgedWindow] = []
        before = judged_windows(lake, self._reach)
        self._newest_end_ms = max((window.verdict.end_ms for window in before), default=0)
        # windows that were compared with another reference say nothing about this one
        mine = [window.verdict for window in before if window.reference_id == found.reference_id]
        self._verdicts = mine[-self._reach :]

    @property
    def _reach(self) -> int:
        in_row = self._settings.drift.windows_in_row
        return in_row * (in_row + 1)

    def run(self, behind: Collection[int], tell: Callable[[str], None]) -> CheckReport:
        found, window_ms = self._found, self._found.window_ms
        first_ms = -(-max(found.to_ms, self._newest_end_ms) // window_ms) * window_ms
        with reading(self._lake, "drift check"):
            reader = WindowReader(self._settings, self._lake, found.mode, window_ms)
            end_ms = reader.closed_until_ms(first_ms, behind)
            if end_ms > first_ms:
                reader.leave_out_until_mature(first_ms)
            for seen in reader.windows(first_ms, end_ms, tell):
                self._take(seen, reader.versions)
        self._write()
        return CheckReport(found.reference_id, self._judged, end_ms)

    def _take(self, seen: SeenWindow, versions: Mapping[str, int]) -> None:
        drift, window = self._settings.drift, seen.window
        unfit = next((why for span in self._spans if (why := span.unfit(seen, self._settings.gates.window_ms))), "")
        verdict = judge(self._found.reference, self._found.calibration, window, min_rows=drift.min_rows, unfit=unfit)
        self._verdicts = [*self._verdicts, verdict][-self._reach :]
        decision = decide(self._verdicts, windows_in_row=drift.windows_in_row)
        causes = []
        if verdict.outcome is not Outcome.UNJUDGED and decision.is_due:
            causes.append(self._drift(verdict, decision, versions))
        causes += self._falls(verdict, versions)
        answers = [{"cause": cause.cause, **self._request(cause)} for cause in causes]
        judged = JudgedWindow(self._found.reference_id, verdict, decision, answers)
        self._judged.append(judged)
        self._rows.append(_row(judged, window.profile.to_bytes(), versions))
        if answers:
            self._write()

    def _drift(self, verdict: Verdict, decision: Decision, versions: Mapping[str, int]) -> Cause:
        evidence = {
            "reference_id": self._found.reference_id,
            "compared_with": verdict.compared_with,
            "windows_in_row": decision.in_row,
            "scores": {name: verdict.scores[name].document() for name in decision.variables},
            "lake_versions": dict(versions),
        }
        return Cause(DRIFT, verdict.start_ms, verdict.end_ms, decision.words, evidence)

    def _falls(self, verdict: Verdict, versions: Mapping[str, int]) -> list[Cause]:
        if verdict.outcome is Outcome.UNJUDGED:
            return []
        noticed = falls_within(self._settings, self._lake, verdict.start_ms, verdict.end_ms)[-1:]
        return [
            Cause(
                ONLINE_QUALITY,
                verdict.start_ms,
                verdict.end_ms,
                f"click-through of recommendations fell from {percent(fall.before)} to {percent(fall.after)}",
                {
                    "before": fall.before,
                    "after": fall.after,
                    "impressions": fall.impressions,
                    "at_ms": fall.at_ms,
                    "lake_versions": dict(versions),
                },
            )
            for fall in noticed
        ]

    def _write(self) -> None:
        if self._rows:
            note(self._lake, DRIFT_WINDOWS, self._rows)
            self._rows = []


def _row(judged: JudgedWindow, profile: bytes, versions: Mapping[str, int]) -> dict[str, Any]:
    verdict, decision = judged.verdict, judged.decision
    scores = {
        "variables": {name: score.document() for name, score in verdict.scores.items()},
        "compared_with": verdict.compared_with,
        "why": verdict.why,
        "decision": {
            "in_row": decision.in_row,
            "is_due": decision.is_due,
            "variables": decision.variables,
            "words": decision.words,
        },
        "requests": list(judged.answers),
    }
    return {
        "window_start_ms": verdict.start_ms,
        "window_end_ms": verdict.end_ms,
        "reference_id": judged.reference_id,
        "row_count": verdict.rows,
        "outcome": verdict.outcome.value,
        "scores": json.dumps(scores, sort_keys=True),
        "profile": profile,
        "lake_versions": json.dumps(versions, sort_keys=True),
        "judged_ms": time.time_ns() // 1_000_000,
    }


def _judged(row: Mapping[str, Any]) -> JudgedWindow:
    found = json.loads(row["scores"])
    scores = {name: Score.of(document) for name, document in found["variables"].items()}
    verdict = Verdict(
        row["window_start_ms"],
        row["window_end_ms"],
        row["row_count"],
        Outcome(row["outcome"]),
        found["compared_with"],
        scores,
        found["why"],
    )
    told = found["decision"]
    decision = Decision(told["in_row"], told["is_due"], tuple(told["variables"]), told["words"])
    return JudgedWindow(row["reference_id"], verdict, decision, found["requests"])
