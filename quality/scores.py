"""How far two profiles lie apart: Population Stability Index, Kolmogorov-Smirnov, Jensen-Shannon.

Profiles are compared by their counts on bins that were frozen when the reference was taken. Bins of numbers end at
quantiles of the reference, each once: a value that is a tenth of all has a bin of its own. Bins of texts are the
reference's more frequent categories, and one for all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.spatial.distance import jensenshannon

from quality.profile import Categories, Numbers

COARSE: Final = 10
FINE: Final = 100
CATEGORY_SHARE_MIN: Final = 0.01
EXPECTED_MIN: Final = 3.0  # with fewer, the index is no longer spread as chi-squared is
SMOOTHING: Final = 0.5  # pseudo-count of each bin: an empty one would make the index infinite (Krichevsky-Trofimov)


@dataclass(frozen=True, slots=True)
class Bins:
    """Where the values of a variable are counted.

    Attributes:
        bounds: of numbers, the greatest value of each fine bin but the last, which is open; rising.
        groups: of each fine bin, the number of its coarse bin; Kolmogorov-Smirnov takes the fine ones.
        categories: of texts, those with a bin of their own; the last bin is of all others. None for numbers.
        least: smallest value of the reference; of numbers.
        greatest: greatest value of the reference; of numbers.
        known: of texts, all that the reference has.
    """

    groups: tuple[int, ...]
    bounds: tuple[float, ...] = ()
    categories: tuple[str, ...] | None = None
    least: float = 0.0
    greatest: float = 0.0
    known: frozenset[str] = frozenset()

    @classmethod
    def of(cls, variable: Numbers | Categories, in_window: float) -> "Bins | None":
        """Freeze the bins of a reference's variable; None if it has no values.

        Args:
            in_window: how many values a window has; a category of its own needs `EXPECTED_MIN` of them.
        """
        if not variable.count:
            return None
        if isinstance(variable, Categories):
            least = max(CATEGORY_SHARE_MIN, EXPECTED_MIN / in_window) * variable.count
            own = tuple(sorted(name for name, count in variable.counts.items() if count >= least))
            return cls(tuple(range(len(own) + 1)), categories=own, known=frozenset(variable.counts))
        fine = variable.quantiles([n / FINE for n in range(1, FINE)])
        coarse = sorted(set(fine[FINE // COARSE - 1 :: FINE // COARSE]))
        bounds = sorted(set(fine))
        groups = np.searchsorted(coarse, bounds, side="left").tolist()
        extremes = variable.extremes() or (0.0, 0.0)
        return cls((*groups, len(coarse)), tuple(bounds), least=extremes[0], greatest=extremes[1])

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.categories is None

    @property
    def coarse_count(self) -> int:
        """How many coarse bins there are."""
        return self.groups[-1] + 1

    def counted(self, variable: Numbers | Categories) -> Any:
        """Return how many values lie in each fine bin, as numpy integers.

        Raises:
            TypeError: the variable holds numbers where the reference holds texts, or the other way round.
        """
        if isinstance(variable, Numbers) and self.categories is None:
            return np.diff(variable.at_most(self.bounds), prepend=0, append=variable.count)
        if isinstance(variable, Categories) and self.categories is not None:
            own = [variable.counts.get(name, 0) for name in self.categories]
            return np.array([*own, variable.count - sum(own)], np.int64)
        raise TypeError("the variable is not of the kind that the bins are for")

    def coarse(self, fine: Any) -> Any:
        """Add up counts of fine bins to those of coarse ones."""
        return np.bincount(self.groups, weights=fine, minlength=self.coarse_count)

    def unseen(self, variable: Numbers | Categories) -> float:
        """Return the share of values that the reference never had: another category, or beyond its extremes."""
        if not variable.count:
            return 0.0
        if isinstance(variable, Categories):
            seen = sum(count for name, count in variable.counts.items() if name in self.known)
            return (variable.count - variable.others - seen) / variable.count
        below = variable.count - int(variable.at_most([self.greatest])[0])
        above = int(variable.at_most([float(np.nextafter(self.least, -np.inf))])[0])
        return (below + above) / variable.count

    def name(self, group: int) -> str:
        """Name a coarse bin in words."""
        if self.categories is not None:
            return self.categories[group] if group < len(self.categories) else "all others"
        ends = [bound for n, bound in enumerate(self.bounds) if self.groups[n] != self.groups[n + 1]]
        low, high = ends[group - 1] if group else None, ends[group] if group < len(ends) else None
        if high is None:
            return f"more than {low:g}"
        if low is None:
            return f"{high:g} or less" if self.least < high else f"{high:g}"
        return f"{high:g}" if high - low == 1.0 and low.is_integer() else f"{low:g} to {high:g}"

    def document(self) -> Mapping[str, Any]:
        """Return it as msgpack can hold it."""
        return {
            "groups": self.groups,
            "bounds": self.bounds,
            "categories": self.categories,
            "least": self.least,
            "greatest": self.greatest,
            "known": sorted(self.known),
        }

    @classmethod
    def from_document(cls, found: Mapping[str, Any]) -> "Bins":
        """Return what `document` told."""
        return cls(
            tuple(found["groups"]),
            tuple(found["bounds"]),
            None if found["categories"] is None else tuple(found["categories"]),
            found["least"],
            found["greatest"],
            frozenset(found["known"]),
        )


def shares(counts: Any) -> Any:
    """Return the share of each bin, none of them 0: each counts `SMOOTHING` more than it holds."""
    counts = np.asarray(counts, float)
    return (counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(counts))


def population_stability(expected: Any, found: Any) -> float:
    """Return the Population Stability Index of two counts on the same bins: sum of (q - p) * ln(q / p)."""
    p, q = shares(expected), shares(found)
    return float(np.sum((q - p) * np.log(q / p)))


def homogeneity(expected: Any, found: Any) -> float:
    """Return Pearson's two-sample statistic times (1/n + 1/m): sum of (q - p)^2 / (share of both together).

    For independent rows it is spread as (1/n + 1/m) * chi2(bins - 1), and so is nearly the index; but a rise of a rare
    value, of which the index takes the logarithm, weighs more.
    """
    expected, found = np.asarray(expected, float), np.asarray(found, float)
    together = (expected + found) / (expected.sum() + found.sum())
    difference = found / found.sum() - expected / expected.sum()
    there = together > 0
    return float(np.sum(difference[there] ** 2 / together[there]))


def kolmogorov_smirnov(expected: Any, found: Any) -> float:
    """Return the greatest distance of the two distribution functions at the ends of the bins, which have an order."""
    p, q = (np.cumsum(counts) / max(1, np.sum(counts)) for counts in (expected, found))
    return float(np.abs(p - q).max())


def jensen_shannon(expected: Any, found: Any) -> float:
    """Return the Jensen-Shannon divergence in bits, 0 to 1."""
    return float(jensenshannon(shares(expected), shares(found), base=2.0) ** 2)


def null_share(variable: Numbers | Categories) -> float:
    """Return the share of rows without a value."""
    rows = variable.count + variable.nulls
    return variable.nulls / rows if rows else 0.0


def moved(
    bins: Bins, expected: Sequence[float], found: Sequence[float], most: int = 2
) -> list[tuple[str, float, float]]:
    """Return the coarse bins that moved most, by their part of the index: name, share expected, share found."""
    p, q = shares(expected), shares(found)
    parts = (q - p) * np.log(q / p)
    return [(bins.name(int(n)), float(p[n]), float(q[n])) for n in np.argsort(-parts, kind="stable")[:most]]
