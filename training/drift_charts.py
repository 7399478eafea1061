"""Geometry of the report's pictures: where things are drawn, in the units of an SVG of `WIDTH`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from config.words import moment, percent
from quality.drift import Outcome
from training.drift_reference import DriftReference
from training.drift_report import HALTED, DriftReport, Share, Variable, halted_stretches
from training.drift_windows import JudgedWindow

WIDTH: Final = 920
LEFT: Final = 56
RIGHT: Final = 12
STRIP_TOP: Final = 34
STRIP_HEIGHT: Final = 40
PSI_HEIGHT: Final = 112
EVIDENCE_HEIGHT: Final = 66
BAR: Final = 11
ROW: Final = 34
NAMES: Final = 210
KINDS: Final = ("quiet", "alarm", "confirmed", "halted", "unjudged")

_HOUR_MS: Final = 3_600_000
_STEPS_MS: Final = tuple(_HOUR_MS * hours for hours in (1, 3, 6, 12, 24, 48, 96, 168, 336, 720, 1440, 4320, 8760))
_TICKS_MAX: Final = 9
_CLIPPED: Final = 4.0  # thresholds; what is beyond is beyond doubt


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A window in the strip: what it is, where, and what a pointer over it is told."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    told: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a time."""

    x: float
    kind: str
    text: str
    told: str


@dataclass(frozen=True, slots=True)
class Strip:
    """The line of windows."""

    blocks: Sequence[Block]
    marks: Sequence[Mark]
    ticks: Sequence[Tick]
    kinds: Sequence[str]
    summary: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A window in which a variable drifted."""

    x: float
    y: float
    told: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve over time: its path, the line that it must cross, and the windows in which it counted.

    Attributes:
        limit: of the threshold; None if it lies outside.
    """

    top: float
    height: float
    title: str
    path: str
    limit: float | None
    limit_text: str
    ticks: Sequence[Tick]
    dots: Sequence[Dot]


@dataclass(frozen=True, slots=True)
class Course:
    """How a variable went."""

    name: str
    psi: Panel
    evidence: Panel
    shaded: Sequence[tuple[float, float]]
    ticks: Sequence[Tick]
    summary: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Bars of one bin."""

    y: float
    name: str
    expected: float
    found: float
    text: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """A variable's values now against the reference."""

    name: str
    height: float
    pairs: Sequence[Pair]
    summary: str


def strip(report: DriftReport) -> Strip:
    """Draw the line of windows, with requests and changes of the reference; the report has windows."""
    x = _scale(report.windows)
    blocks = [_block(window, x) for window in report.windows]
    marks = []
    for before, after in pairwise(report.windows):
        if before.reference_id != after.reference_id:
            told = f"{moment(after.verdict.start_ms)}: compared with {after.reference_id} from here"
            marks.append(Mark(x(after.verdict.start_ms), "reference", "new reference", told))
    for window in report.windows:
        for answer in window.answers:
            kind = "asked" if answer.get("outcome") == "requested" else "suppressed"
            told = f"{moment(window.verdict.end_ms)}: a retraining is {answer.get('outcome')} ({answer['cause']})"
            marks.append(Mark(x(window.verdict.end_ms), kind, "retraining" if kind == "asked" else "", told))
    counts = {kind: sum(block.kind == kind for block in blocks) for kind in KINDS}
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return Strip(blocks, marks, _time_ticks(report.windows, x), [kind for kind in counts if counts[kind]], summary)


def course(report: DriftReport, variable: Variable) -> Course:
    """Draw how far a variable lay from the reference, and how sure that is."""
    x = _scale(report.windows)
    by_id = {each.reference_id: each for each in report.references}
    there = [window for window in report.windows if variable.name in window.verdict.scores]
    values = [(window, window.verdict.scores[variable.name]) for window in there]
    floor = max((by_id[each.reference_id].calibration.floor for each in there if each.reference_id in by_id), default=0)
    most = max([score.psi for _, score in values] + [floor]) * 1.1 or 1.0
    psi = _panel(
        22.0,
        PSI_HEIGHT,
        "PSI",
        [(x(_middle(window)), score.psi / most, _dot(window, variable.name)) for window, score in values],
        floor / most,
        f"floor {floor:g}",
        [0.0, *(value for value in _round_steps(most) if value <= most)],
        most,
    )
    shares = [(window, _evidence(by_id.get(window.reference_id), score.log_p)) for window, score in values]
    evidence = _panel(
        22.0 + PSI_HEIGHT + 26,
        EVIDENCE_HEIGHT,
        "evidence",
        [
            (x(_middle(window)), share / _CLIPPED, _dot(window, variable.name))
            for window, share in shares
            if share is not None
        ],
        1 / _CLIPPED,
        "threshold",
        [],
        _CLIPPED,
    )
    shaded = [(x(start), x(end) - x(start)) for start, end, _ in halted_stretches(report.windows)]
    newest = values[-1][1].psi if values else 0.0
    summary = (
        f"PSI is {newest:.3f} in the newest window and was {max((score.psi for _, score in values), default=0):.3f} "
        f"at most; {variable.alarms} windows drifted"
    )
    return Course(variable.name, psi, evidence, shaded, _time_ticks(report.windows, x), summary)


def distribution(variable: Variable) -> Distribution:
    """Draw the shares of a variable's bins, now and in the reference."""
    most = max(max(share.expected, share.found) for share in variable.bins) or 1.0
    room = WIDTH - NAMES - 150
    pairs = [_pair(n, share, room / most) for n, share in enumerate(variable.bins)]
    moved = max(variable.bins, key=lambda share: abs(share.found - share.expected))
    summary = f"{moved.name} moved most, from {percent(moved.expected)} to {percent(moved.found)}"
    return Distribution(variable.name, ROW * len(pairs) + 8, pairs, summary)


def _pair(n: int, share: Share, by: float) -> Pair:
    text = f"{percent(share.expected)} → {percent(share.found)}"
    return Pair(4 + ROW * n, share.name, round(share.expected * by, 1), round(share.found * by, 1), text)


def _block(window: JudgedWindow, x: Callable[[float], float]) -> Block:
    verdict = window.verdict
    kind = "halted" if HALTED in verdict.why else verdict.outcome.value
    if verdict.outcome is Outcome.QUIET and window.decision.in_row:
        kind = "confirmed"
    share = {Outcome.QUIET.value: 0.4, Outcome.UNJUDGED.value: 0.4}.get(kind, 1.0)
    left, height = x(verdict.start_ms), STRIP_HEIGHT * share
    width = max(0.8, x(verdict.end_ms) - left - 0.6)
    told = f"{moment(verdict.start_ms)}: {kind}, {verdict.rows:,} events, {verdict.words}"
    return Block(round(left, 2), STRIP_TOP + STRIP_HEIGHT - height, round(width, 2), height, kind, told)


def _panel(
    top: float,
    height: float,
    title: str,
    points: Sequence[tuple[float, float, str]],
    limit: float,
    limit_text: str,
    steps: Sequence[float],
    most: float,
) -> Panel:
    """Draw points of x, of a share of the height, and of what a dot says; a gap in time is a gap of the line."""

    def y(share: float) -> float:
        return round(top + height * (1 - min(1.0, share)), 1)

    path, before, step = [], -math.inf, _least_step(points)
    for at, share, _ in points:
        path.append(f"{'L' if at - before < 1.5 * step else 'M'}{at:.1f} {y(share)}")
        before = at
    ticks = [Tick(y(value / most), f"{value:g}") for value in steps]
    dots = [Dot(round(at, 1), y(share), told) for at, share, told in points if told]
    return Panel(top, height, title, " ".join(path), y(limit) if limit <= 1 else None, limit_text, ticks, dots)


def _least_step(points: Sequence[tuple[float, float, str]]) -> float:
    steps = [after[0] - before[0] for before, after in pairwise(points)]
    return min(steps, default=1.0)


def _dot(window: JudgedWindow, name: str) -> str:
    verdict = window.verdict
    is_alarm = verdict.outcome is not Outcome.UNJUDGED and name in window.decision.variables
    return f"{moment(verdict.start_ms)}: {verdict.scores[name].words}" if is_alarm else ""


def _evidence(reference: DriftReference | None, log_p: float | None) -> float | None:
    if reference is None or log_p is None:
        return None
    return min(_CLIPPED, max(0.0, log_p / reference.calibration.log_threshold))


def _middle(window: JudgedWindow) -> float:
    return (window.verdict.start_ms + window.verdict.end_ms) / 2


def _scale(windows: Sequence[JudgedWindow]) -> Callable[[float], float]:
    first, end = windows[0].verdict.start_ms, max(window.verdict.end_ms for window in windows)
    by = (WIDTH - LEFT - RIGHT) / (end - first)
    return lambda at_ms: LEFT + (at_ms - first) * by


def _time_ticks(windows: Sequence[JudgedWindow], x: Callable[[float], float]) -> list[Tick]:
    first, end = windows[0].verdict.start_ms, windows[-1].verdict.end_ms
    step = next((step for step in _STEPS_MS if (end - first) / step <= _TICKS_MAX), _STEPS_MS[-1])
    pattern = "%d %b" if step >= 24 * _HOUR_MS else "%d %b %H:%M"
    at = range(-(-first // step) * step, end + 1, step)
    return [Tick(round(x(each), 1), datetime.fromtimestamp(each / 1000, UTC).strftime(pattern)) for each in at]


def _round_steps(most: float) -> list[float]:
    """Return two or three round values up to `most`."""
    power = 10 ** math.floor(math.log10(most))
    step = next((power * part for part in (0.2, 0.5, 1.0, 2.0, 5.0) if most / (power * part) <= 3.5), power)
    return [round(step * n, 10) for n in range(1, 4)]


def pictures(report: DriftReport) -> dict[str, Any]:
    """Draw all pictures of a report; there are none without windows."""
    if not report.windows:
        return {"strip": None, "courses": [], "distributions": []}
    return {
        "strip": strip(report),
        "courses": [course(report, variable) for variable in report.moved],
        "distributions": [distribution(variable) for variable in report.moved],
    }
