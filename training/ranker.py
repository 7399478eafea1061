"""Orders candidates by how likely the user takes each next: gradient boosting on what is known of session and product.

The second of the two stages of a model. Its answers are probabilities: of the candidates that were not taken only a
part is fitted on, and each of these counts for as many as it stands for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from features.catalog import FEATURES, Value
from training.candidates import COLUMNS, Candidates, CandidateSource
from training.errors import TooLittleDataError

NEGATIVES: Final = 20
ROUNDS: Final = 80
THREADS: Final = 1  # more wait for each other by spinning, which is slow wherever cores are busy

# instants are others at serving, and lists are no numbers: what the last products say, candidates carry
SESSION: Final = tuple(feature.name for feature in FEATURES if feature.dtype != "strings" and feature.unit != "ms")
NAMES: Final = (*COLUMNS, *SESSION)

_PARAMETERS: Final[Mapping[str, Any]] = {
    "objective": "binary",
    "num_leaves": 31,
    "learning_rate": 0.08,
    "min_data_in_leaf": 40,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": THREADS,
    "verbosity": -1,
}


@dataclass(frozen=True, slots=True)
class Query:
    """Somebody at an instant, and what they took next.

    Attributes:
        user_id: as stores hold it.
        features: as a reader gets them.
        wanted: the product that was taken.
        device: with which; empty if it is not known.
    """

    user_id: str
    features: Mapping[str, Any]
    wanted: str
    device: str = ""


class Ranker:
    """Gives candidates their probabilities. Threads may share it.

    Args:
        model: LightGBM's text of a model.
    """

    def __init__(self, model: str) -> None:
        from lightgbm import Booster

        self.model = model
        self._booster = Booster(model_str=model)

    def probabilities(self, rows: Any) -> Any:
        """Return how likely each is taken, 0 to 1.

        Args:
            rows: of `NAMES`, float32.
        """
        return self._booster.predict(rows, num_threads=1)


def ranker_rows(candidates: Candidates, features: Mapping[str, Any]) -> Any:
    """Return a row of `NAMES` of each candidate."""
    session = np.array([as_number(features.get(name)) for name in SESSION], np.float32)
    return np.hstack([candidates.columns, np.broadcast_to(session, (len(candidates.products), len(session)))])


def as_number(value: Value | Any) -> float:
    """Return a feature's value as a number; NaN for null and for what is none."""
    if isinstance(value, bool | int | float):
        try:
            number = float(value)
        except OverflowError:
            return math.nan
        return number if math.isfinite(number) else math.nan
    return math.nan


def fit_ranker(source: CandidateSource, last: Sequence[Sequence[int]], queries: Sequence[Query], seed: int) -> Ranker:
    """Fit on what users took next, of the candidates that `source` gives them.

    Args:
        source: fitted on what happened before all of the queries.
        last: numbers of the last products of each query.

    Raises:
        TooLittleDataError: nobody took any of their candidates, or there was never another one.
    """
    import lightgbm

    rows, labels, weights = _examples(source, last, queries, np.random.default_rng(seed))
    taken = int(labels.sum())
    if not 0 < taken < len(labels):
        raise TooLittleDataError(
            f"The training set has one class: of {len(labels):,} products that could have been recommended in "
            f"{len(queries):,} sessions, users took {'none' if not taken else 'every one'}.",
            hint="Train on a longer range, or on one in which the shop sold more than one product.",
        )
    data = lightgbm.Dataset(rows, labels, weight=weights, feature_name=list(NAMES), free_raw_data=True)
    booster = lightgbm.train({**_PARAMETERS, "seed": seed}, data, num_boost_round=ROUNDS)
    return Ranker(booster.model_to_string())


def _examples(
    source: CandidateSource, last: Sequence[Sequence[int]], queries: Sequence[Query], draws: np.random.Generator
) -> tuple[Any, Any, Any]:
    numbers = {product: number for number, product in enumerate(source.product_ids)}
    rows, labels, weights = [np.empty((0, len(NAMES)), np.float32)], [np.empty(0)], [np.empty(0)]
    for query, products in zip(queries, last, strict=True):
        candidates = source.of(query.user_id, products)
        is_wanted = candidates.products == numbers.get(query.wanted, -1)
        others = np.flatnonzero(~is_wanted)
        drawn = others if len(others) <= NEGATIVES else np.sort(draws.choice(others, NEGATIVES, replace=False))
        chosen = np.concatenate([np.flatnonzero(is_wanted), drawn])
        rows.append(ranker_rows(candidates, query.features)[chosen])
        labels.append(is_wanted[chosen].astype(float))
        weights.append(np.where(is_wanted[chosen], 1.0, len(others) / max(len(drawn), 1)))
    return np.concatenate(rows), np.concatenate(labels), np.concatenate(weights)
