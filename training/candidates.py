"""Which products may be recommended to somebody, and what is known of each: the first of the two stages of a model.

Candidates come from the factors of the user, from factors folded in for the last products, from what was seen beside
these, from what is popular, and from the last products themselves: nothing is left out by a hidden rule, so that the
ranker learns whether a product that was looked at is wanted again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from training.baselines import CoViews, Popularity
from training.collaborative import Factors, fit_factors
from training.interactions import Interactions

OF_FACTORS: Final = 30
OF_CO_VIEWS: Final = 40
OF_POPULAR: Final = 20
RECENT_SHARE: Final = 0.1  # of the time that a model is fitted on

COLUMNS: Final = (
    "candidate_user_score",
    "candidate_session_score",
    "candidate_likeness_to_last",
    "candidate_co_view",
    "candidate_co_view_last",
    "candidate_popularity",
    "candidate_recent_popularity",
    "candidate_last_position",
    "candidate_category_of_last",
    "candidate_category_share",
)

_NOTHING: Final = np.empty(0, np.int32)


class Candidates(NamedTuple):
    """Products that may be recommended.

    Attributes:
        products: their numbers, rising.
        columns: a row of `COLUMNS` of each, float32; NaN for what is not known.
    """

    products: Any
    columns: Any


@dataclass(frozen=True)
class CandidateSource:
    """Finds candidates.

    Attributes:
        product_ids: by number.
        categories: number of each product's category; -1 for none.
        recent: popularity in the last part of the time.
    """

    product_ids: Sequence[str]
    categories: Any
    factors: Factors
    co_views: CoViews
    popular: Popularity
    recent: Popularity

    @classmethod
    def fit(cls, found: Interactions, seed: int) -> "CandidateSource":
        """Fit on all rows; at least one."""
        count = len(found.product_ids)
        first_ms, last_ms = int(found.times_ms.min()), int(found.times_ms.max())
        is_recent = found.times_ms >= last_ms - RECENT_SHARE * (last_ms - first_ms)
        weights = found.weights
        return cls(
            product_ids=tuple(found.product_ids.to_pylist()),
            categories=found.categories,
            factors=fit_factors(found, seed),
            co_views=CoViews.fit(found.products, found.follows, count),
            popular=Popularity.fit(found.products, weights, count),
            recent=Popularity.fit(found.products[is_recent], weights[is_recent], count),
        )

    def of(self, user_id: str, last: Sequence[int]) -> Candidates:
        """Return the candidates for a user.

        Args:
            user_id: as stores hold it; one who is not known gets what the last products and popularity give.
            last: numbers of the last products, newest first.
        """
        factors = self.factors
        of_user = factors.of_user(user_id)
        by_user = None if of_user is None else factors.scores(of_user)
        by_session = factors.scores(factors.folded_in(last)) if last else None
        near, near_shares, near_last = self._co_viewed(last)
        strongest = near[np.argsort(-near_shares, kind="stable")[:OF_CO_VIEWS]]
        chosen = [
            np.asarray(last, np.int32),
            strongest,
            self.popular.top(OF_POPULAR),
            self.recent.top(OF_POPULAR),
            *(_best(scores, OF_FACTORS) for scores in (by_user, by_session) if scores is not None),
        ]
        products = np.unique(np.concatenate(chosen))
        columns = np.full((len(products), len(COLUMNS)), np.nan, np.float32)
        if by_user is not None:
            columns[:, 0] = by_user[products]
        if by_session is not None:
            columns[:, 1] = by_session[products]
            columns[:, 2] = factors.of_products[products] @ factors.of_products[last[0]]
        columns[:, 3] = _looked_up(products, near, near_shares)
        columns[:, 4] = _looked_up(products, near, near_last)
        columns[:, 5] = self.popular.shares[products]
        columns[:, 6] = self.recent.shares[products]
        self._of_last(products, last, columns)
        return Candidates(products, columns)

    def _co_viewed(self, last: Sequence[int]) -> tuple[Any, Any, Any]:
        """Return what was seen beside the last products: numbers, summed shares, those of the newest alone."""
        if not last:
            return _NOTHING, np.empty(0), np.empty(0)
        found = [self.co_views.of(product) for product in last]
        every = np.concatenate([neighbours for neighbours, _ in found])
        weighed = np.concatenate([shares / (place + 1) for place, (_, shares) in enumerate(found)])
        near, numbers = np.unique(every, return_inverse=True)
        of_newest = np.bincount(numbers[: len(found[0][0])], weights=found[0][1], minlength=len(near))
        return near, np.bincount(numbers, weights=weighed, minlength=len(near)), of_newest

    def _of_last(self, products: Any, last: Sequence[int], columns: Any) -> None:
        if not last:
            return
        places = {product: place for place, product in enumerate(last)}
        for row, product in enumerate(products.tolist()):
            if product in places:
                columns[row, 7] = places[product]
        theirs, seen = self.categories[products], self.categories[list(last)]
        columns[:, 8] = (theirs == seen[0]) & (theirs >= 0)
        columns[:, 9] = np.where(theirs >= 0, (theirs[:, None] == seen[None, :]).mean(axis=1), 0.0)


def _best(scores: Any, count: int) -> Any:
    if len(scores) <= count:
        return np.arange(len(scores), dtype=np.int32)
    return np.argpartition(-scores, count)[:count].astype(np.int32)


def _looked_up(products: Any, numbers: Any, values: Any) -> Any:
    """Return the value of each product, 0 for those that have none; numbers rise."""
    if not len(numbers):
        return 0.0
    places = np.minimum(np.searchsorted(numbers, products), len(numbers) - 1)
    return np.where(numbers[places] == products, values[places], 0.0)
