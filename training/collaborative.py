"""Collaborative filtering: factors of users and products by alternating least squares on implicit feedback.

The formula is that of Hu, Koren and Volinsky (2008), "Collaborative Filtering for Implicit Feedback Datasets", computed
by the library `implicit`. Whoever has no factors, a new user or a fresh session, gets those that the same formula gives
for the last products: the step of the solver for one user, with the factors of products as they are.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from training.interactions import Interactions
from training.known_users import KnownUsers

FACTORS: Final = 32
REGULARIZATION: Final = 0.05
CONFIDENCE: Final = 10.0
ITERATIONS: Final = 8
LARGE: Final = 1_000_000  # pairs of user and product; threads that wait for each other slow smaller ones down
THREADS_MAX: Final = 4


@dataclass(frozen=True)
class Factors:
    """What was fitted.

    Attributes:
        users: who has factors.
        of_users: a row per user, float32.
        of_products: a row per product, float32.
    """

    users: KnownUsers
    of_users: Any
    of_products: Any

    @cached_property
    def _gram(self) -> Any:
        gram = self.of_products.T @ self.of_products
        return gram + REGULARIZATION * np.eye(gram.shape[0], dtype=np.float32)

    def of_user(self, user_id: str) -> Any | None:
        """Return the factors of a user; None for one who has none."""
        number = self.users.find(user_id)
        return None if number is None else self.of_users[number]

    def scores(self, of_user: Any) -> Any:
        """Return how much each product suits somebody of these factors.

        Not by BLAS: its threads wait for each other, and on busy cores one answer would take 20 times as long.
        """
        return np.einsum("ij,j->i", self.of_products, of_user)

    def folded_in(self, products: Sequence[int]) -> Any:
        """Return the factors of somebody who has looked once at each of some products."""
        theirs = self.of_products[np.asarray(products, np.int64)]
        confidence = np.float32(confidences(1.0))
        left = self._gram + (confidence - 1) * theirs.T @ theirs
        return np.linalg.solve(left, confidence * theirs.sum(axis=0)).astype(np.float32)


def confidences(weights: Any) -> Any:
    """Return how sure sums of weights make us that there is interest; it grows ever more slowly."""
    return 1.0 + CONFIDENCE * np.log1p(weights)


def fit_factors(found: Interactions, seed: int) -> Factors:
    """Fit on all rows; the same rows and seed give the same factors.

    Args:
        found: at least one row. Users without rows get no factors; products without rows get some near zero.
    """
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    present, users = np.unique(found.users, return_inverse=True)
    shape = (len(present), len(found.product_ids))
    matrix = csr_matrix((found.weights, (users, found.products)), shape=shape)
    matrix.data = confidences(matrix.data).astype(np.float32)
    # the solver has threads of its own, and those of BLAS inside of them would slow it down
    with threadpool_limits(1, "blas"):
        solver = AlternatingLeastSquares(
            factors=FACTORS,
            regularization=REGULARIZATION,
            iterations=ITERATIONS,
            num_threads=min(THREADS_MAX, os.cpu_count() or 1) if matrix.nnz >= LARGE else 1,
            random_state=seed,
        )
        solver.fit(matrix, show_progress=False)
    known = KnownUsers.of(found.user_ids.take(present))
    return Factors(known, np.asarray(solver.user_factors), np.asarray(solver.item_factors))
