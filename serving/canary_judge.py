"""Decides what becomes of a canary, from what it and the champion did beside each other. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from config.quality import RolloutSettings
from config.words import percent, span
from quality.sequential import Comparison, Finding, compare, exceeds, highest
from serving.click_through import Record

FAULTS_MIN: Final = 3  # fewer are told, and prove nothing
SLOW_SHARE: Final = 0.01  # a p99 above a limit means that more than this share lies above it


class Fate(StrEnum):
    """What is to become of a canary."""

    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A canary's fate.

    Attributes:
        reason: in words.
        evidence: counts and bounds; JSON.
    """

    fate: Fate
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def judge(canary: Record, champion: Record, rollout: RolloutSettings) -> Judgement:
    """Judge a canary; whoever does so again and again errs no more often for it (quality/sequential.py).

    Failures and slow answers come first, and need no clicks. A canary is slow only where the champion, on the same
    machines at the same time, cannot be as slow: a machine that is busy is no fault of a model. Both were timed without
    the reading of features, which is the same for both.
    """
    found = compare(canary.arm, champion.arm, loss_max=rollout.click_through_loss_max, alpha=rollout.error_chance)
    evidence = {
        "canary": canary.evidence(),
        "champion": champion.evidence(),
        "ratio": round(found.ratio, 6),
        "ratio_low": round(found.low, 6),
        "ratio_high": round(found.high, 6),
        "p_worse": found.p_worse,
        "p_not_worse": found.p_not_worse,
    }
    fault = _fault(canary, champion, rollout)
    if fault:
        return Judgement(Fate.ROLL_BACK, fault, evidence)
    fate, reason = _by_clicks(canary, champion, found, rollout)
    return Judgement(fate, reason, evidence)


def _fault(canary: Record, champion: Record, rollout: RolloutSettings) -> str:
    """Say what makes a canary unfit, whatever is clicked; else nothing."""
    chance, most = rollout.error_chance, rollout.error_share_max
    if canary.failures >= FAULTS_MIN and exceeds(canary.failures, canary.answers, most, alpha=chance):
        return (
            f"{canary.failures:,} of its {canary.answers:,} answers failed ({percent(canary.failures / canary.answers)}"
            f"; at most {percent(most)} may)"
        )
    # half of the chance for the champion's bound, half for the canary's excess of it
    usual = highest(champion.slow, champion.answers, alpha=chance / 2) if champion.answers else 0.0
    if canary.slow >= FAULTS_MIN and exceeds(canary.slow, canary.answers, max(SLOW_SHARE, usual), alpha=chance / 2):
        compared = percent(champion.slow / champion.answers) if champion.answers else "none"
        return (
            f"{canary.slow:,} of its {canary.answers:,} answers took longer than {span(rollout.latency_p99_max_ms)}, "
            f"so its p99 is above that; {compared} of the champion's did"
        )
    return ""


def _by_clicks(canary: Record, champion: Record, found: Comparison, rollout: RolloutSettings) -> tuple[Fate, str]:
    ours, theirs, loss = canary.arm, champion.arm, percent(rollout.click_through_loss_max)
    seen = (
        f"its click-through is {percent(ours.share)} of {ours.impressions:,} answers, the champion's "
        f"{percent(theirs.share)} of {theirs.impressions:,}"
    )
    if found.finding is Finding.WORSE:
        return Fate.ROLL_BACK, f"{seen}: at most {found.high:.3g} times as high, so it loses more than {loss}"
    if found.finding is Finding.NOT_WORSE and ours.impressions >= rollout.min_impressions:
        return Fate.PROMOTE, f"{seen}: at least {found.low:.3g} times as high, so it does not lose {loss}"
    if ours.impressions >= rollout.max_impressions:
        return Fate.ROLL_BACK, f"{seen}: that it does not lose {loss} could not be shown with so many"
    if found.finding is Finding.NOT_WORSE:
        return Fate.WAIT, f"{seen}: good so far, and {rollout.min_impressions:,} answers are needed"
    return Fate.WAIT, f"{seen}: it is open whether it loses {loss}"
