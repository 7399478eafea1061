"""Figures of ranked lists, and how sure they are: NDCG@10, calibration, paired bootstrap by user. Pure numpy."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from training.verdict import Gain

K: Final = 10
RESAMPLES: Final = 10_000

_AT_ONCE: Final = 500


def ndcg(ranked: Sequence[str], wanted: str) -> float:
    """Return NDCG@10 of one wanted product: 1 / log2(place + 1), places from 1; 0 when it is not there."""
    top = list(ranked[:K])
    return 1.0 / math.log2(top.index(wanted) + 2) if wanted in top else 0.0


def paired_gain(rival: str, users: Any, ours: Any, theirs: Any, seed: int) -> Gain:
    """Return the mean paired difference with its 95 % percentile interval; users are drawn, not queries.

    Queries of one user are not independent, so an interval over queries would be too narrow.

    Args:
        users: integer of each query's user; at least one query.
        ours: figure of the challenger per query.
        theirs: figure of the rival per query, in the same order.
    """
    _, numbers = np.unique(np.asarray(users), return_inverse=True)
    sums = np.bincount(numbers, weights=np.asarray(ours, float) - np.asarray(theirs, float))
    counts = np.bincount(numbers)
    draws = np.random.default_rng(seed)
    means = []
    for first in range(0, RESAMPLES, _AT_ONCE):
        drawn = draws.integers(0, len(sums), (min(_AT_ONCE, RESAMPLES - first), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Gain(rival, float(sums.sum() / counts.sum()), float(low), float(high))


def calibration_error(predicted: Any, observed: Any, bins: int = 10) -> float:
    """Return the expected calibration error: the mean gap of predicted and observed rates over equal-width bins.

    Args:
        predicted: probabilities, 0 to 1.
        observed: 0 or 1 of each.
    """
    predicted, observed = np.asarray(predicted, float), np.asarray(observed, float)
    if not len(predicted):
        return 0.0
    places = np.minimum((predicted * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=predicted - observed, minlength=bins)
    return float(np.abs(gaps).sum() / len(predicted))
