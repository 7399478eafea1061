"""What any model must beat: the most popular products, and those seen beside the last one. Fitted by counting."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

NEIGHBOURS: Final = 50


@dataclass(frozen=True, slots=True)
class Popularity:
    """The products of most interactions.

    Attributes:
        ranked: every product, the most popular first; ties by product id.
    """

    ranked: tuple[str, ...]

    @classmethod
    def fit(cls, weights: Iterable[tuple[str, float]]) -> "Popularity":
        """Count.

        Args:
            weights: (product, weight) of each interaction.
        """
        sums: dict[str, float] = defaultdict(float)
        for product, weight in weights:
            sums[product] += weight
        return cls(tuple(sorted(sums, key=lambda product: (-sums[product], product))))

    def top(self, k: int, exclude: Collection[str] = ()) -> list[str]:
        """Return the first `k` that are not excluded."""
        left = k + len(exclude)
        return [product for product in self.ranked[:left] if product not in exclude][:k]


@dataclass(frozen=True, slots=True)
class CoViews:
    """Which products follow a product, or precede it, in what a user looks at.

    Attributes:
        neighbours: by product, the others with their counts, most frequent first; at most `NEIGHBOURS`.
    """

    neighbours: Mapping[str, Sequence[tuple[str, int]]]

    @classmethod
    def fit(cls, histories: Iterable[Sequence[str]]) -> "CoViews":
        """Count pairs that lie next to each other.

        Args:
            histories: of each user, the products in the order of time.
        """
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for history in histories:
            for first, second in pairwise(history):
                if first != second:
                    counts[first][second] += 1
                    counts[second][first] += 1
        return cls({product: _ranked(found) for product, found in sorted(counts.items())})

    def of(self, product: str) -> Sequence[tuple[str, int]]:
        """Return the neighbours of a product; none of one that is not known."""
        return self.neighbours.get(product, ())


def _ranked(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NEIGHBOURS])
