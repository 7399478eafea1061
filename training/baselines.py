"""What any model must beat: the most popular products, and those seen beside the last one. Fitted by counting columns.

Products are numbers, 0 and up; of equal counts the smaller number comes first.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

NEIGHBOURS: Final = 50


@dataclass(frozen=True, slots=True)
class Popularity:
    """The products of most interactions.

    Attributes:
        ranked: every product's number, the most popular first.
        shares: of each product, its share of all weights.
    """

    ranked: Any
    shares: Any

    @classmethod
    def fit(cls, products: Any, weights: Any, product_count: int) -> "Popularity":
        """Add up.

        Args:
            products: number of each interaction's product.
            weights: what each says.
        """
        sums = np.bincount(products, weights=weights, minlength=product_count)
        total = sums.sum()
        ranked = np.argsort(-sums, kind="stable").astype(np.int32)
        return cls(ranked, (sums / total if total else sums).astype(np.float32))

    def top(self, k: int) -> Any:
        """Return the numbers of the first `k`."""
        return self.ranked[:k]


@dataclass(frozen=True, slots=True)
class CoViews:
    """Which products follow a product, or precede it, in what a user looks at.

    Attributes:
        starts: place of each product's first neighbour; one more at the end.
        neighbours: their numbers, of each product the most frequent first, at most `NEIGHBOURS`.
        shares: how many of all that lie next to the product they are, 0 to 1.
    """

    starts: Any
    neighbours: Any
    shares: Any

    @classmethod
    def fit(cls, products: Any, follows: Any, product_count: int) -> "CoViews":
        """Count pairs that lie next to each other.

        Args:
            products: number of each interaction's product; those of a user in the order of time.
            follows: mask of those that the one before is of the same user.
        """
        later = np.flatnonzero(follows)
        first, second = products[later - 1].astype(np.int64), products[later].astype(np.int64)
        differ = first != second
        first, second = first[differ], second[differ]
        both = np.concatenate([first * product_count + second, second * product_count + first])
        pairs, counts = np.unique(both, return_counts=True)
        of, other = pairs // max(product_count, 1), pairs % max(product_count, 1)
        totals = np.bincount(of, weights=counts, minlength=product_count)
        order = np.lexsort((other, -counts, of))
        of, other, counts = of[order], other[order], counts[order]
        begins = np.searchsorted(of, np.arange(product_count + 1))
        kept = np.arange(len(of)) - begins[of] < NEIGHBOURS
        of, other, counts = of[kept], other[kept], counts[kept]
        starts = np.searchsorted(of, np.arange(product_count + 1))
        return cls(starts.astype(np.int64), other.astype(np.int32), (counts / totals[of]).astype(np.float32))

    def of(self, product: int) -> tuple[Any, Any]:
        """Return the neighbours of a product and their shares."""
        found = slice(self.starts[product], self.starts[product + 1])
        return self.neighbours[found], self.shares[found]
