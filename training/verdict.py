"""Decides whether a challenger has proved itself: figures in, an answer and its reasons in words out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from config.quality import TrainingSettings

MIN_QUERIES: Final = 100  # with fewer, an interval says more about the bootstrap than about the model


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much NDCG@10 of the challenger is above a rival's, over the same queries.

    Attributes:
        rival: `champion`, or the name of a baseline.
        mean: mean of the paired differences.
        low: lower end of their 95 % interval.
        high: upper end.
    """

    rival: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SliceGain:
    """The mean paired difference of NDCG@10 to the rival in a part of the queries.

    Attributes:
        name: such as `new users`.
        queries: how many lie in it; a slice without any says nothing.
        high: upper end of its 95 % interval.
    """

    name: str
    queries: int
    mean: float
    high: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of a challenger on the hold-out.

    Attributes:
        queries: how many were asked.
        gain: against the champion; against popularity when there is none.
        hit_rate: share of the queries whose product was among the first 10.
        latency_p99_ms: of scoring one query.
    """

    queries: int
    gain: Gain
    slices: Sequence[SliceGain]
    hit_rate: float
    latency_p99_ms: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a challenger is taken.

    Attributes:
        reasons: why not, each in words with its figures; for one that is taken, what it won by.
    """

    is_accepted: bool
    reasons: tuple[str, ...]


def judge(evidence: Evidence, settings: TrainingSettings) -> Verdict:
    """Return the verdict; a figure that is not a number never counts in favour of a challenger."""
    gain = evidence.gain
    interval = f"{gain.mean:+.4f}, 95 % interval {gain.low:+.4f} to {gain.high:+.4f}"
    against: list[str] = []
    if evidence.queries < MIN_QUERIES:
        against.append(f"the hold-out has {evidence.queries:,} queries, and {MIN_QUERIES:,} are needed to judge")
    if not gain.low > settings.min_gain:
        against.append(
            f"it does not beat {gain.rival} beyond noise: NDCG@10 differs by {interval}, "
            f"and the lower end must be above {settings.min_gain:g}"
        )
    against += [
        f"it loses {-part.mean:.4f} NDCG@10 for {part.name} ({part.queries:,} queries), beyond noise, "
        f"and at most {settings.slice_loss_max:g} is allowed"
        for part in evidence.slices
        if part.queries and not part.mean >= -settings.slice_loss_max and not part.high >= 0
    ]
    if not evidence.hit_rate >= settings.hit_rate_floor:
        against.append(f"its hit rate at 10 is {evidence.hit_rate:.4f}, below the floor {settings.hit_rate_floor:g}")
    if not evidence.latency_p99_ms <= settings.latency_max_ms:
        against.append(
            f"the p99 of its scoring is {evidence.latency_p99_ms:.1f} ms, above {settings.latency_max_ms:g} ms"
        )
    if against:
        return Verdict(is_accepted=False, reasons=tuple(against))
    return Verdict(is_accepted=True, reasons=(f"it beats {gain.rival}: NDCG@10 differs by {interval}",))
