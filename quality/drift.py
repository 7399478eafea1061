"""Has the data of a window drifted, and is it time for a retraining? Pure: the same windows, the same decision."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np

from config.words import percent
from quality.calibration import Calibration, Comparison, adjusted
from quality.profile import Profile
from quality.reference import Reference, Window
from quality.scores import jensen_shannon, kolmogorov_smirnov, moved, null_share

CONFIRMING_P: Final = 0.05  # one question, asked after an alarm; two such answers by chance are rare


class Outcome(StrEnum):
    """What was found about a window."""

    QUIET = "quiet"
    ALARM = "alarm"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class Score:
    """How far a variable lies from the reference.

    Attributes:
        psi: Population Stability Index.
        ks: Kolmogorov-Smirnov distance; None for categories, which have no order.
        js: Jensen-Shannon divergence, bits.
        null_share: share of missing values.
        null_share_expected: the same in the reference.
        unseen_share: share of values that the reference never had.
        values: how many there are.
        log_p: logarithm of the p-value, adjusted for the number of variables; None if the variable is not judged.
        is_drifted: whether that and the index are beyond their thresholds.
        is_confirming: whether the variable, looked at alone, confirms that it drifted before.
        words: what moved.
    """

    psi: float
    ks: float | None
    js: float
    null_share: float
    null_share_expected: float
    unseen_share: float
    values: int
    log_p: float | None
    is_drifted: bool
    is_confirming: bool
    words: str

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "psi": round(self.psi, 6),
            "ks": None if self.ks is None else round(self.ks, 6),
            "js": round(self.js, 6),
            "null_share": round(self.null_share, 6),
            "null_share_expected": round(self.null_share_expected, 6),
            "unseen_share": round(self.unseen_share, 6),
            "values": self.values,
            "p": None if self.log_p is None else float(np.exp(self.log_p)),
            "log_p": None if self.log_p is None else round(self.log_p, 3),
            "drifted": self.is_drifted,
            "confirming": self.is_confirming,
            "words": self.words,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Score":
        """Return what `document` told, to its precision."""
        names = ("psi", "ks", "js", "null_share", "null_share_expected", "unseen_share", "values", "log_p", "words")
        flags = {"is_drifted": document["drifted"], "is_confirming": document["confirming"]}
        return cls(**flags, **{name: document[name] for name in names})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one window.

    Attributes:
        compared_with: which windows of the reference, in words.
        scores: by variable.
        why: for what reason it is not judged; empty if it is.
    """

    start_ms: int
    end_ms: int
    rows: int
    outcome: Outcome
    compared_with: str
    scores: Mapping[str, Score]
    why: str = ""

    @property
    def drifted(self) -> list[str]:
        """Names of the variables that drifted, the greatest index first."""
        names = [name for name, score in self.scores.items() if score.is_drifted]
        return self.ordered(names)

    @property
    def moved(self) -> set[str]:
        """Names of the variables that drifted, or would confirm that they did before."""
        return {name for name, score in self.scores.items() if score.is_drifted or score.is_confirming}

    def ordered(self, names: Collection[str]) -> list[str]:
        """Return names of variables, the greatest index first."""
        return sorted(names, key=lambda name: (-self.scores[name].psi, name))

    @property
    def words(self) -> str:
        """What moved, or why nothing is said about it."""
        told = "; ".join(self.scores[name].words for name in self.drifted[:3])
        more = len(self.drifted) - 3
        return self.why or (told + (f"; and {more} more" if more > 0 else "")) or "nothing moved beyond its threshold"


def judge(reference: Reference, calibration: Calibration, window: Window, *, min_rows: int, unfit: str = "") -> Verdict:
    """Compare a window with the reference.

    Args:
        min_rows: with fewer rows it is not judged, nor is one that the reference has no windows like.
        unfit: why its data must not be judged, as that of a halted topic; it is compared all the same.
    """
    found = reference.counted(window.profile)
    number = reference.number(window.start_ms)
    against = Comparison(reference, found, reference.strata[number])
    alone = against.log_ps(calibration.noise)
    log_ps = adjusted(alone)
    scores = {
        name: _score(reference, calibration, window.profile, number, name, index, alone.get(name), log_ps.get(name))
        for name, index in sorted(against.index.items())
    }
    why = unfit
    if not why and window.profile.rows < min_rows:
        why = f"{window.profile.rows:,} events are too few: it takes {min_rows:,}"
    if not why and not reference.has_alike(window.start_ms):  # how far those may differ from others, nobody knows
        why = f"the reference has no windows like it: {reference.level.words(reference.level.stratum(window.start_ms))}"
    outcome = Outcome.ALARM if any(score.is_drifted for score in scores.values()) else Outcome.QUIET
    return Verdict(
        window.start_ms,
        window.end_ms,
        window.profile.rows,
        Outcome.UNJUDGED if why else outcome,
        reference.level.words(number),
        scores,
        why,
    )


def _score(
    reference: Reference,
    calibration: Calibration,
    profile: Profile,
    number: int,
    name: str,
    index: float,
    alone: float | None,
    log_p: float | None,
) -> Score:
    bins, variable, stratum = reference.bins[name], profile.variables[name], reference.strata[number]
    fine, fine_expected = bins.counted(variable), stratum.counts[name]
    coarse, coarse_expected = bins.coarse(fine), bins.coarse(fine_expected)
    is_drifted = log_p is not None and log_p <= calibration.log_threshold and index >= calibration.floor
    return Score(
        psi=index,
        ks=kolmogorov_smirnov(fine_expected, fine) if bins.is_numeric else None,
        js=jensen_shannon(coarse_expected, coarse),
        null_share=null_share(variable),
        null_share_expected=stratum.null_share(name),
        unseen_share=bins.unseen(variable),
        values=variable.count,
        log_p=log_p,
        is_drifted=is_drifted,
        is_confirming=alone is not None and alone <= math.log(CONFIRMING_P) and index >= calibration.floor,
        words=_words(name, moved(bins, coarse_expected, coarse)),
    )


def _words(name: str, parts: Sequence[tuple[str, float, float]]) -> str:
    """Say what moved: `label_category_id: c7 rose from 2 % to 9 %, c3 fell from 12 % to 8 %`."""
    told = [
        f"{part} {'rose' if found > expected else 'fell'} from {percent(expected)} to {percent(found)}"
        for part, expected, found in parts
        if found != expected
    ]
    return f"{name}: {', '.join(told) or 'as before'}"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether windows give cause for a retraining.

    Attributes:
        in_row: windows up to the newest that alarmed or confirmed it in a row, at most as many as it takes.
        is_due: whether those are enough, and of the same variables.
        variables: that moved in all of them.
        words: why.
    """

    in_row: int
    is_due: bool
    variables: tuple[str, ...]
    words: str


def decide(verdicts: Sequence[Verdict], *, windows_in_row: int) -> Decision:
    """Decide about a retraining from the verdicts up to a window, in the order of time.

    A row begins with an alarm; the windows after it need not alarm, but confirm it. To find one of many variables that
    drifted takes more than to see that this one still lies where it lay: that is one question, and p-values need no
    adjustment for many. In all windows of a row, at least one variable moved.

    Windows that could not be judged neither count nor break a row, unless more than `windows_in_row` of them follow
    one another: what was before them is too long ago then.
    """
    newest: Verdict | None = None
    moved: set[str] = set()
    found: set[str] = set()
    length = in_row = skipped = 0
    told = "no window was judged lately"
    for verdict in reversed(verdicts):
        if verdict.outcome is Outcome.UNJUDGED:
            skipped += 1
            if skipped > windows_in_row:
                break
            continue
        told = "the newest judged window is quiet"
        moved = verdict.moved & moved if length else verdict.moved
        if not moved:
            break
        newest = newest or verdict
        skipped, length = 0, length + 1
        if alarmed := moved & set(verdict.drifted):
            in_row, found = length, alarmed
    if newest is None or not in_row:
        return Decision(0, False, (), told)  # noqa: FBT003 - named by the class
    in_row = min(in_row, windows_in_row)
    order = newest.ordered(found)
    words = "; ".join(newest.scores[name].words for name in order[:3])
    return Decision(
        in_row, in_row == windows_in_row, tuple(order), f"{in_row} of {windows_in_row} windows in a row: {words}"
    )
