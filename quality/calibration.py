"""What history says about how far windows lie apart when nothing has changed, and the threshold that follows.

The rows of a window are no independent draws: one user has many of them, and hours differ. Were they independent, the
index of B bins would be (1/n + 1/m) * chi2(B - 1) for n rows against m. Here it is

    (phi * (1/n + 1/m) + tau * (1 + 1/k)) * (B - 1) * chi2(df) / df

phi is the overdispersion by rows that belong together (Rao and Scott, 1984), tau what windows differ by however many
rows they have, k the number of windows in the reference, df the effective degrees of freedom (Satterthwaite, 1946). The
three are fitted to history: each of its windows is compared with the others like it.

Adjusted p-values would be enough if all that were exact. So the threshold is where the tail of history's own smallest
p-values, fitted beyond its median, falls to the alarm budget; and never above the budget.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from scipy import stats
from scipy.optimize import nnls

from quality.reference import ALL_WINDOWS, Level, Reference, Stratum, Window
from quality.scores import homogeneity, population_stability

LABEL: Final = "label_"
VALUES_MIN: Final = 50
WINDOWS_MIN: Final = 8
_NEIGHBOURS: Final = 2
_BLOCK: Final = 3
_AIM: Final = 0.05  # of the budget; the rest is for what a short history cannot show
_ROUNDS: Final = 4
_LEAST_LOG_P: Final = -700.0


@dataclass(frozen=True, slots=True)
class Noise:
    """How far a variable's windows lie apart when nothing has changed.

    Attributes:
        phi: overdispersion of the rows; 1 for independent ones.
        tau: variance between windows beside that of their rows.
        df: effective degrees of freedom.
        windows: of history, that this was fitted to.
        tail: by what logarithms of p-values are multiplied, at most 1: history's own reach further than they should.
    """

    phi: float
    tau: float
    df: float
    windows: int
    tail: float = 1.0

    def scale(self, found: int, expected: int, windows: int) -> float:
        """Return the index to be expected by degree of freedom, of counts against those of so many windows."""
        independent = 1 / found + 1 / expected  # rows are never less alike than that; a rare value may have seemed so
        return max(independent, self.phi * independent + self.tau * (1 + 1 / max(1, windows)))

    def log_p(self, index: float, bins: int, scale: float) -> float:
        """Return the natural logarithm of the p-value of an index on so many bins."""
        log_p = float(stats.chi2.logsf(self.df * index / (scale * max(1, bins - 1)), self.df))
        return max(_LEAST_LOG_P, self.tail * log_p)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds, and what they were calibrated on.

    Attributes:
        noise: by variable.
        log_threshold: a window alarms when its smallest adjusted p-value is at most exp of this.
        budget: share of stationary windows that may alarm.
        floor: index below which a change is too small to matter.
        windows: how many windows of history were compared with the others.
        alarms: how many of them would have alarmed.
        expected: share of stationary windows that should alarm, by the fitted tail.
    """

    noise: Mapping[str, Noise]
    log_threshold: float
    budget: float
    floor: float
    windows: int
    alarms: int
    expected: float

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Calibration":
        """Return what `document` gave."""
        noise = {name: Noise(**found) for name, found in document["noise"].items()}
        return cls(**{**document, "noise": noise})


class Comparison:
    """One window against counts of others: the index of each variable and what it depends on."""

    def __init__(self, reference: Reference, found: Stratum, expected: Stratum) -> None:
        self.index: dict[str, float] = {}
        self.distance: dict[str, float] = {}
        self.counts: dict[str, tuple[int, int, int, int]] = {}
        for name, bins in reference.bins.items():
            if name not in found.counts or not expected.windows.get(name):
                continue
            mine, theirs = bins.coarse(found.counts[name]), bins.coarse(expected.counts[name])
            if min(mine.sum(), theirs.sum()) >= VALUES_MIN:
                self.index[name] = population_stability(theirs, mine)
                self.distance[name] = homogeneity(theirs, mine)
                self.counts[name] = (int(mine.sum()), int(theirs.sum()), expected.windows[name], bins.coarse_count)

    def log_ps(self, noise: Mapping[str, Noise]) -> dict[str, float]:
        """Return the natural logarithm of each variable's p-value; of those that noise is known of."""
        told = {}
        for name, distance in self.distance.items():
            if name in noise:
                found, expected, windows, bins = self.counts[name]
                told[name] = noise[name].log_p(distance, bins, noise[name].scale(found, expected, windows))
        return told


def adjusted(log_ps: Mapping[str, float]) -> dict[str, float]:
    """Adjust logarithms of p-values by Benjamini and Hochberg, for as many variables as there are.

    What events say themselves, `label_...`, weighs as much as all features together (Genovese, Roeder and Wasserman,
    2006): it is a few variables, which move before what many features sum up, and those are much alike.
    """
    labels = sum(name.startswith(LABEL) for name in log_ps)
    families = 2 if 0 < labels < len(log_ps) else 1
    weighted = {
        name: log_p + float(np.log(families * (labels if name.startswith(LABEL) else len(log_ps) - labels)))
        for name, log_p in log_ps.items()
    }
    names = sorted(weighted, key=lambda name: (weighted[name], name))
    told: dict[str, float] = {}
    least = 0.0
    for rank in range(len(names), 0, -1):
        least = min(least, weighted[names[rank - 1]] - float(np.log(rank)))
        told[names[rank - 1]] = least
    return told


def calibrate(
    reference: Reference,
    windows: Sequence[Window],
    *,
    budget: float,
    floor: float,
    spans_ms: Mapping[str, int] | None = None,
) -> Calibration:
    """Compare each window of history with the others like it, and take noise and threshold from that.

    Args:
        reference: of these very windows.
        windows: at least `WINDOWS_MIN`.
        budget: share of stationary windows that may alarm.
        floor: index below which a change does not count.
        spans_ms: of variables that sum up a longer time than a window, how long. Windows within it tell the same, so
            one is not judged before history has `WINDOWS_MIN` of its spans.

    Raises:
        ValueError: there are too few windows.
    """
    if len(windows) < WINDOWS_MIN:
        raise ValueError(f"{len(windows)} windows are too few to calibrate on; it needs {WINDOWS_MIN}")
    compared = _replayed(reference, windows)
    names = _known(reference, windows, compared, spans_ms or {})
    smallest, alarming = [], []
    crossed = [(each, each.log_ps(others)) for each, others in _by_the_other_half(reference, windows, compared, names)]
    tails = {name: _own_tail(np.array([told[name] for _, told in crossed if name in told])) for name in names}
    noise = {name: replace(found, tail=tails[name]) for name in names if (found := _noise(name, compared)) is not None}
    for each, log_ps in crossed:
        told = adjusted({name: log_p * tails[name] for name, log_p in log_ps.items()})
        if told:
            smallest.append(min(told.values()))
            alarming.append(min((p for name, p in told.items() if each.index[name] >= floor), default=0.0))
    log_threshold = _threshold(np.array(smallest), _AIM * budget)
    alarms = int(np.sum(np.array(alarming) <= log_threshold))
    expected = _tail(np.array(alarming), log_threshold, budget)
    return Calibration(noise, log_threshold, budget, floor, len(smallest), alarms, expected)


def _known(
    reference: Reference, windows: Sequence[Window], compared: Sequence[Comparison], spans_ms: Mapping[str, int]
) -> list[str]:
    """Return the variables that history tells enough about."""
    found = []
    for name in reference.bins:
        span_ms = spans_ms.get(name, 0)
        times = [window.start_ms for window, each in zip(windows, compared, strict=True) if name in each.distance]
        if len({at_ms // span_ms if span_ms else at_ms for at_ms in times}) >= WINDOWS_MIN:
            found.append(name)
    return found


def _replayed(reference: Reference, windows: Sequence[Window]) -> list[Comparison]:
    """Compare each window with those like it, itself left out; and its neighbours, too, where all are alike."""
    counted = [reference.counted(window.profile) for window in windows]
    reach = _NEIGHBOURS if reference.level is Level.ALL and len(windows) > 4 * _NEIGHBOURS else 0
    compared = []
    for n, window in enumerate(windows):
        number = reference.number(window.start_ms)
        near = range(max(0, n - reach), min(len(windows), n + reach + 1))
        others = reference.strata[number].without(counted[each] for each in near)
        compared.append(Comparison(reference, counted[n], others))
    return compared


def _by_the_other_half(
    reference: Reference, windows: Sequence[Window], compared: Sequence[Comparison], names: Sequence[str]
) -> Iterator[tuple[Comparison, Mapping[str, Noise]]]:
    """Yield each window with the noise of the half of history that it is not in, so that none judges itself."""
    halves: tuple[list[Comparison], list[Comparison]] = ([], [])
    for n, (window, each) in enumerate(zip(windows, compared, strict=True)):
        # by hours, not by time: where each hour has two windows, those are compared with one another
        number = reference.level.stratum(window.start_ms)
        halves[(n if number == ALL_WINDOWS else number) // _BLOCK % 2].append(each)
    for half, other in (halves, halves[::-1]):
        noise = {name: found for name in names if (found := _noise(name, other)) is not None}
        for each in half:
            yield each, noise


def _noise(name: str, compared: Sequence[Comparison]) -> Noise | None:
    rows = [(each.distance[name], *each.counts[name]) for each in compared if name in each.distance]
    if len(rows) < WINDOWS_MIN:
        return None
    index, found, expected, windows, bins = np.array(rows, float).T
    by_freedom = index / np.maximum(1.0, bins - 1)
    parts = np.stack([1 / found + 1 / expected, 1 + 1 / windows], axis=1)
    weights = 1 / parts[:, 0]
    phi, tau = 1.0, 0.0
    for _ in range(_ROUNDS):  # an index varies in proportion to what is expected of it
        (phi, tau), _ = nnls(parts * weights[:, None], by_freedom * weights)
        scale = parts @ np.array([phi, tau])
        if not scale.all():
            break
        weights = 1 / scale
    if not (parts @ np.array([phi, tau])).all():  # a variable that never moves: then as if rows were independent
        phi, tau = 1.0, 0.0
    ratios = by_freedom / (parts @ np.array([phi, tau]))
    spread = float(np.var(ratios, ddof=1))
    most = max(1.0, float(bins[0]) - 1)
    df = most if spread <= 0 else min(most, max(0.5, 2 / spread))
    return Noise(float(phi), float(tau), df, len(rows))


def _own_tail(log_ps: Any) -> float:
    """Return how steeply p-values of a variable fall beyond their median, 1 where they are as they should be."""
    *_, rate = _fitted(log_ps)
    return 1.0 if rate is None else min(1.0, rate)


def _threshold(smallest: Any, budget: float) -> float:
    """Return the logarithm of the p-value that a share `budget` of such smallest ones lies below."""
    nominal = float(np.log(budget))
    excess, share, rate = _fitted(smallest)
    return nominal if rate is None else min(nominal, excess - float(np.log(share / budget)) / rate)


def _tail(smallest: Any, log_threshold: float, budget: float) -> float:
    """Return the share of windows that lie below a threshold, by the fitted tail where there is one."""
    below = float(np.mean(smallest <= log_threshold)) if len(smallest) else 0.0
    excess, share, rate = _fitted(smallest)
    return max(below, min(budget, share * float(np.exp(-rate * (excess - log_threshold))))) if rate else below


def _fitted(smallest: Any) -> tuple[float, float, float | None]:
    """Fit an exponential tail beyond the median: where it begins, its share, its rate; None where there is none."""
    if len(smallest) < WINDOWS_MIN:
        return 0.0, 1.0, None
    middle = float(np.median(smallest))
    beyond = middle - smallest[smallest < middle]
    if not len(beyond) or not beyond.sum():
        return middle, 0.0, None
    # the lower end of what the rate may be: a shorter history must not promise more than it knows
    rate = float(stats.chi2.ppf(0.1, 2 * len(beyond)) / (2 * beyond.sum()))
    return middle, len(beyond) / len(smallest), rate
