"""The report of drift: what moved, since when, by how much, what was calibrated, and what became of requests."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import pyarrow.compute as pc

from config.settings import Settings
from config.words import moment, percent
from quality.drift import Outcome, Score
from quality.profile import Profile, merged
from quality.reference import Reference, Stratum
from sinks.delta import explained, opened
from sinks.lake_root import Lake, lake_of
from sinks.quality_tables import DRIFT_WINDOWS
from sinks.retraining import RetrainingRequest, Step
from training.drift_reference import DriftReference, references
from training.drift_status import WINDOWS_MAX, DriftStatus, standing_words
from training.drift_windows import JudgedWindow, judged_windows

MOVED_MAX: Final = 4
BINS_MAX: Final = 12
HALTED: Final = "was halted by"


@dataclass(frozen=True, slots=True)
class Share:
    """One bin of a variable.

    Attributes:
        expected: share of the reference's values that lie in it.
        found: share of the windows' values.
    """

    name: str
    expected: float
    found: float


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in the windows that the report is about.

    Attributes:
        now: its score in the newest of them; None if that has none.
        alarms: windows of the report in which it drifted.
        bins: what is in the windows against what was expected; empty if it is not among those that moved most.
    """

    name: str
    now: Score | None
    alarms: int
    bins: Sequence[Share] = ()


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What a report holds.

    Attributes:
        windows: oldest first.
        focus: the windows that pictures of distributions are of: the newest row of alarms, or the newest judged one.
        words: what happened, a sentence each.
        references: those that the windows were compared with, and the one in force, oldest first.
        variables: those that moved most in `focus` first.
    """

    created_ms: int
    status: DriftStatus
    windows: Sequence[JudgedWindow]
    focus: Sequence[JudgedWindow]
    words: Sequence[str]
    references: Sequence[DriftReference]
    variables: Sequence[Variable]

    @property
    def moved(self) -> list[Variable]:
        """Variables with a picture."""
        return [variable for variable in self.variables if variable.bins]

    @property
    def reference(self) -> DriftReference | None:
        """What the windows in focus were compared with; the one in force without windows."""
        wanted = self.focus[-1].reference_id if self.focus else None
        named = [each for each in self.references if each.reference_id == wanted]
        return named[-1] if named else self.references[-1] if self.references else None

    def document(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "created_ms": self.created_ms,
            **self.status.payload(1),
            "words": list(self.words),
            "from_ms": self.windows[0].verdict.start_ms if self.windows else None,
            "to_ms": self.windows[-1].verdict.end_ms if self.windows else None,
            "focus": {"windows": [window.verdict.start_ms for window in self.focus]},
            "references": [
                {**each.summary(), "noise": each.calibration.document()["noise"]} for each in self.references
            ],
            "windows": [_window(window) for window in self.windows],
            "variables": [
                {
                    "name": each.name,
                    "now": each.now and each.now.document(),
                    "alarms": each.alarms,
                    "bins": [asdict(share) for share in each.bins],
                }
                for each in self.variables
            ],
        }


def drift_report(settings: Settings, from_ms: int | None = None, to_ms: int | None = None) -> DriftReport:
    """Put together what is known of the windows in a range of event time. Blocking.

    Args:
        from_ms: first event time; None for the newest `WINDOWS_MAX` windows.
        to_ms: end of event times, not included; None for all that were judged.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    lake = lake_of(settings)
    status = DriftStatus.read(settings)
    wanted = judged_windows(lake, WINDOWS_MAX if from_ms is None else None, before_ms=to_ms)
    if from_ms is not None:
        wanted = [window for window in wanted if window.verdict.end_ms > from_ms]
    ids = {window.reference_id for window in wanted}
    if status.reference is not None:
        ids.add(status.reference.reference_id)
    known = references(lake, ids)
    focus = focus_of(wanted)
    compared = next((each for each in known if focus and each.reference_id == focus[-1].reference_id), None)
    variables = [] if compared is None else _variables(compared.reference, wanted, focus, _profiles(lake, focus))
    return DriftReport(
        time.time_ns() // 1_000_000, status, wanted, focus, report_words(status, wanted, focus), known, variables
    )


def focus_of(windows: Sequence[JudgedWindow]) -> list[JudgedWindow]:
    """Return the newest windows that alarmed in a row, up to the newest due one if there is; else the newest judged."""
    judged = [window for window in windows if window.verdict.outcome is not Outcome.UNJUDGED]
    alarming = [n for n, window in enumerate(judged) if window.decision.in_row]
    if not alarming:
        return judged[-1:]
    due = [n for n in alarming if judged[n].decision.is_due]
    last = due[-1] if due else alarming[-1]
    first = last
    while first - 1 in alarming and judged[first - 1].reference_id == judged[last].reference_id:
        first -= 1
    return judged[first : last + 1]


def halted_stretches(windows: Sequence[JudgedWindow]) -> list[tuple[int, int, str]]:
    """Return event times whose windows came while a view was halted: start, end, and what was halted."""
    found: list[tuple[int, int, str]] = []
    for window in windows:
        verdict = window.verdict
        if HALTED not in verdict.why:
            continue
        if found and found[-1][1:] == (verdict.start_ms, verdict.why):
            found[-1] = (found[-1][0], verdict.end_ms, verdict.why)
        else:
            found.append((verdict.start_ms, verdict.end_ms, verdict.why))
    return found


def report_words(status: DriftStatus, windows: Sequence[JudgedWindow], focus: Sequence[JudgedWindow]) -> list[str]:
    """Say what happened, the most important first."""
    is_past = bool(windows) and status.newest is not None and windows[-1].verdict.end_ms < status.newest.verdict.end_ms
    told = [status.words]
    is_drifted = status.is_drifted
    if is_past:  # the range is told of, not the present
        told = [f"Until {moment(windows[-1].verdict.end_ms)}: {standing_words(windows[-1])}"]
        is_drifted = windows[-1].decision.is_due
    due = [window for window in focus if window.decision.is_due]
    if due and not is_drifted:
        first_ms, end_ms = focus[0].verdict.start_ms, focus[-1].verdict.end_ms
        told.append(f"From {moment(first_ms)} to {moment(end_ms)} it had drifted: {due[-1].decision.words}.")
    counts = {outcome: sum(window.verdict.outcome is outcome for window in windows) for outcome in Outcome}
    if windows:
        told.append(
            f"{len(windows):,} windows: {counts[Outcome.QUIET]:,} quiet, {counts[Outcome.ALARM]:,} that alarmed, "
            f"{counts[Outcome.UNJUDGED]:,} not judged."
        )
    told += [f"From {moment(start)} to {moment(end)} {why}." for start, end, why in halted_stretches(windows)]
    told += [
        f"At {moment(after.verdict.start_ms)} the reference became {after.reference_id}."
        for before, after in pairwise(windows)
        if after.reference_id != before.reference_id
    ]
    return [*told, *_request_words(status.requests)]


def _request_words(requests: Sequence[RetrainingRequest]) -> list[str]:
    """Say what became of requests; of those that were suppressed, which may be one a window, only the newest."""
    told = []
    for request in requests:
        step = request.step.value.replace("_", " ")
        if request.step is not Step.SUPPRESSED:
            told.append(f"Retraining {request.request_id} ({request.cause}) is {step}: {request.detail}.")
    suppressed = [request for request in requests if request.step is Step.SUPPRESSED]
    if suppressed:
        count = len(suppressed)
        told.append(
            f"{count:,} {'request was' if count == 1 else 'requests were'} suppressed, the newest of them: "
            f"{suppressed[-1].detail}."
        )
    return told


def calibration_words(reference: DriftReference) -> str:
    """Say what the thresholds of a reference did to its own history."""
    found = reference.calibration
    return (
        f"Of its {found.windows:,} windows {found.alarms:,} would have alarmed by these thresholds; of windows without "
        f"a change {percent(found.expected)} should, and {percent(found.budget)} may."
    )


def _variables(
    reference: Reference,
    windows: Sequence[JudgedWindow],
    focus: Sequence[JudgedWindow],
    profiles: Mapping[int, Profile],
) -> list[Variable]:
    scores = focus[-1].verdict.scores
    drifted = set(focus[-1].decision.variables) or set(focus[-1].verdict.drifted)
    names = sorted(
        reference.bins, key=lambda name: (name not in drifted, -scores[name].psi if name in scores else 0.0, name)
    )
    profile, expected = merged(profiles.values()), Stratum()
    for start_ms in profiles:
        expected.add(reference.strata[reference.number(start_ms)])
    pictured = [name for name in names if name in scores and name in profile.variables][:MOVED_MAX]
    if drifted:
        pictured = [name for name in pictured if name in drifted]
    return [
        Variable(
            name,
            scores.get(name),
            sum(name in window.verdict.drifted for window in windows),
            _bins(reference, name, profile, expected) if name in pictured else (),
        )
        for name in names
    ]


def _bins(reference: Reference, name: str, profile: Profile, expected: Stratum) -> list[Share]:
    bins = reference.bins[name]
    found = bins.coarse(bins.counted(profile.variables[name]))
    theirs = bins.coarse(expected.counts[name])
    all_of_them = [
        Share(bins.name(n), float(p), float(q))
        for n, (p, q) in enumerate(zip(theirs / max(1, theirs.sum()), found / max(1, found.sum()), strict=True))
    ]
    if len(all_of_them) <= BINS_MAX:
        return all_of_them
    by_change = sorted(range(len(all_of_them)), key=lambda n: -abs(all_of_them[n].found - all_of_them[n].expected))
    kept, left_out = sorted(by_change[: BINS_MAX - 1]), by_change[BINS_MAX - 1 :]
    rest = Share(
        f"{len(left_out)} more that moved less",
        sum(all_of_them[n].expected for n in left_out),
        sum(all_of_them[n].found for n in left_out),
    )
    return [*(all_of_them[n] for n in kept), rest]


def _profiles(lake: Lake, windows: Sequence[JudgedWindow]) -> dict[int, Profile]:
    address = lake / DRIFT_WINDOWS.name
    handle = opened(address)
    if handle is None or not windows:
        return {}
    starts = [window.verdict.start_ms for window in windows]
    wanted = pc.field("window_start_ms").isin(starts) & (pc.field("reference_id") == windows[-1].reference_id)
    with explained(address):
        rows = handle.to_pyarrow_dataset().to_table(columns=["window_start_ms", "profile"], filter=wanted).to_pylist()
    return {row["window_start_ms"]: Profile.from_bytes(row["profile"]) for row in rows}


def _window(window: JudgedWindow) -> dict[str, Any]:
    return {
        **window.document(),
        "psi": {name: round(score.psi, 6) for name, score in window.verdict.scores.items()},
        "log_p": {name: score.log_p for name, score in window.verdict.scores.items() if score.log_p is not None},
    }
