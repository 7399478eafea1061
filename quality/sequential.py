"""Is a canary's click-through worse than the champion's? Tests that may be looked at as often as one likes.

A test of fixed size errs far more often than it says when it is repeated while data arrives. These bound the chance of
ever erring, over all looks together: an e-value is a likelihood ratio whose alternative is mixed over its effects
(Robbins, 1970), and by Ville's inequality it reaches 1/alpha with a chance of at most alpha, whenever one looks.

- `compare` tests two shares. With S the estimate times its information v, and a half-normal mixture of variance
  1/rho over effects on one side of the null (Howard, Ramdas, McAuliffe and Sekhon, 2021, "Time-uniform, nonparametric,
  nonasymptotic confidence sequences", section 3; as used for experiments by Johari, Pekelis and Walsh, 2015):

      e = 2 * sqrt(rho / (v + rho)) * exp(S^2 / (2 (v + rho))) * Phi(S / sqrt(v + rho))

  S is taken for a Brownian motion, which it comes near to as clicks gather (Waudby-Smith et al., 2024, "Time-uniform
  central limit theory and asymptotic confidence sequences"); so with few clicks nothing is decided.
- `exceeds` tests one share, exactly, from the first observation on.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from scipy.special import betaln, log_ndtr

EXPECTED_CLICKS_MIN: Final = 10.0
RATIO_MAX: Final = 100.0
_HALVINGS: Final = 30


class Finding(StrEnum):
    """What can be said of the canary's click-through."""

    WORSE = "worse"  # by more than the loss that is allowed
    NOT_WORSE = "not_worse"  # by that much, or better
    OPEN = "open"


class Shown(NamedTuple):
    """What one user was shown.

    Attributes:
        impressions: answers.
        clicked: how many of them were clicked.
    """

    impressions: int
    clicked: int


@dataclass(frozen=True, slots=True)
class Arm:
    """All that one model has shown.

    Attributes:
        clicked: impressions with a click.
        spread: by what the variance of the share exceeds that of independent impressions, at least 1: those of one
            user are alike, and users, not impressions, were assigned to models.
    """

    impressions: int
    clicked: int
    spread: float = 1.0

    @classmethod
    def of(cls, users: Iterable[Shown]) -> "Arm":
        """Add up what users were shown; the spread is that of the ratio of two sums over users (linearised)."""
        rows = list(users)
        impressions, clicked = sum(row.impressions for row in rows), sum(row.clicked for row in rows)
        if len(rows) < 2 or not 0 < clicked < impressions:
            return cls(impressions, clicked)
        share = clicked / impressions
        between = sum((row.clicked - share * row.impressions) ** 2 for row in rows) * len(rows) / (len(rows) - 1)
        return cls(impressions, clicked, max(1.0, between / (impressions * share * (1 - share))))

    @property
    def share(self) -> float:
        """Click-through; 0 where nothing was shown."""
        return self.clicked / self.impressions if self.impressions else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two arms say so far.

    Attributes:
        ratio: of the canary's click-through to the champion's; 0 where the champion has none.
        low: the ratio is at least that, with confidence 1 - alpha over all looks.
        high: and at most that, with the same confidence.
        p_worse: always-valid p-value of "the canary loses no more than allowed"; small: it is worse.
        p_not_worse: that of "it loses more"; small: it is not worse.
    """

    finding: Finding
    ratio: float
    low: float
    high: float
    p_worse: float
    p_not_worse: float


def compare(canary: Arm, champion: Arm, *, loss_max: float, alpha: float) -> Comparison:
    """Compare click-through.

    Args:
        loss_max: share of the champion's click-through that the canary may lose, above 0 and below 1.
        alpha: chance of ever calling a canary worse that loses no more than that; and of ever calling one not worse
            that loses more.
    """
    least = 1 - loss_max
    ratio = canary.share / champion.share if champion.share else 0.0
    if not _is_enough(canary, champion, least):
        return Comparison(Finding.OPEN, ratio, 0.0, RATIO_MAX, 1.0, 1.0)
    rho = 1 / loss_max**2  # the effects to be told apart are of the size of the loss
    log_worse = _log_e_value(canary, champion, least, rho, sign=-1)
    log_not_worse = _log_e_value(canary, champion, least, rho, sign=1)
    finding = Finding.OPEN
    if max(log_worse, log_not_worse) >= -math.log(alpha):
        finding = Finding.WORSE if log_worse > log_not_worse else Finding.NOT_WORSE
    return Comparison(
        finding,
        ratio,
        low=_bound(canary, champion, rho, alpha, sign=1),
        high=_bound(canary, champion, rho, alpha, sign=-1),
        p_worse=math.exp(min(0.0, -log_worse)),
        p_not_worse=math.exp(min(0.0, -log_not_worse)),
    )


def exceeds(count: int, total: int, share: float, *, alpha: float) -> bool:
    """Say whether the chance behind `count` of `total` is above a share; wrongly with a chance of at most `alpha` ever.

    The alternative is mixed by Beta(1/2, 1/2). Below the share the null fits best at the share itself, once more was
    counted than it expects; so the bound holds for every chance up to it.

    Args:
        share: from 0 on; at 0 a single one exceeds it.
    """
    if not total or count / total <= share:
        return False
    if share <= 0:
        return True
    mixed = betaln(count + 0.5, total - count + 0.5) - betaln(0.5, 0.5)
    null = count * math.log(share) + (total - count) * math.log1p(-share)
    return bool(mixed - null >= -math.log(alpha))


def highest(count: int, total: int, *, alpha: float) -> float:
    """Return a share that the chance behind `count` of `total` is not above, with confidence 1 - alpha over all looks.

    It is 1 where nothing was counted yet.
    """
    inside, outside = (count / total if total else 1.0), 1.0
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if exceeds(total - count, total, 1 - middle, alpha=alpha):
            outside = middle
        else:
            inside = middle
    return outside


def _is_enough(canary: Arm, champion: Arm, ratio: float) -> bool:
    """Say whether each arm would have enough clicks for a normal approximation, if the null were true."""
    if not canary.impressions or not champion.impressions:
        return False
    base = _base_share(canary, champion, ratio)
    return min(canary.impressions * ratio, champion.impressions) * base >= EXPECTED_CLICKS_MIN


def _base_share(canary: Arm, champion: Arm, ratio: float) -> float:
    """Return the champion's click-through, estimated from both arms as if the canary had `ratio` times as much."""
    return (canary.clicked + champion.clicked) / (canary.impressions * ratio + champion.impressions)


def _log_e_value(canary: Arm, champion: Arm, ratio: float, rho: float, *, sign: int) -> float:
    """Return the logarithm of the e-value against a ratio: that it is higher (`sign` 1), or lower (-1).

    Effect and variance are in units of the champion's click-through. The variance is that under the null, so that an
    arm without a single click is no certainty.
    """
    base = min(_base_share(canary, champion, ratio), 1 - 1e-9)
    expected = min(ratio * base, 1 - 1e-9)
    effect = (canary.share - ratio * champion.share) / base
    variance = (
        canary.spread * expected * (1 - expected) / canary.impressions
        + ratio**2 * champion.spread * base * (1 - base) / champion.impressions
    ) / base**2
    information = 1 / variance
    score, scale = sign * effect * information, information + rho
    log_e = math.log(2) + 0.5 * math.log(rho / scale) + score**2 / (2 * scale) + log_ndtr(score / math.sqrt(scale))
    return float(log_e)


def _bound(canary: Arm, champion: Arm, rho: float, alpha: float, *, sign: int) -> float:
    """Return the greatest ratio that is ruled out from below (`sign` 1), or the least from above (-1), by bisection."""
    inside, outside = (canary.share / champion.share if champion.share else 0.0), 0.0 if sign > 0 else RATIO_MAX
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if middle > 0 and _log_e_value(canary, champion, middle, rho, sign=sign) >= -math.log(alpha):
            outside = middle
        else:
            inside = middle
    return outside
