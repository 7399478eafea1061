"""Baselines count, and break ties the same way each time."""

from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np

from training.baselines import NEIGHBOURS, CoViews, Popularity


def fitted(*histories: list[int], products: int = 8) -> CoViews:
    rows = [product for history in histories for product in history]
    follows = [place > 0 for history in histories for place, _ in enumerate(history)]
    return CoViews.fit(np.array(rows, np.int32), np.array(follows), products)


def test_popularity_sums_weights_and_breaks_ties_by_number() -> None:
    found = Popularity.fit(np.array([1, 0, 2, 1, 3]), np.array([1.0, 1.0, 3.0, 1.0, 2.0]), 5)
    assert found.ranked.tolist() == [2, 1, 3, 0, 4]
    assert found.shares.tolist() == [0.125, 0.25, 0.375, 0.25, 0.0]
    assert found.top(2).tolist() == [2, 1]


def test_co_views_count_neighbours_both_ways_but_never_a_product_itself() -> None:
    found = fitted([0, 0, 1, 2], [1, 0], [1, 2, 3])
    neighbours, shares = found.of(1)
    assert neighbours.tolist() == [0, 2]
    assert shares.tolist() == [0.5, 0.5]
    assert found.of(3)[0].tolist() == [2]
    assert found.of(7)[0].tolist() == []


def test_co_views_are_what_plain_counting_finds() -> None:
    rng = Random(5)
    histories = [[rng.randrange(8) for _ in range(rng.randrange(1, 9))] for _ in range(60)]
    counts: dict[int, Counter[int]] = {product: Counter() for product in range(8)}
    for history in histories:
        for first, second in pairwise(history):
            if first != second:
                counts[first][second] += 1
                counts[second][first] += 1
    found = fitted(*histories)
    for product, expected in counts.items():
        neighbours, shares = found.of(product)
        assert neighbours.tolist() == sorted(expected, key=lambda other: (-expected[other], other))
        assert np.allclose(shares, [expected[n] / expected.total() for n in neighbours.tolist()])


def test_lists_of_neighbours_are_bounded() -> None:
    found = fitted(*([0, number] for number in range(1, NEIGHBOURS + 9)), products=NEIGHBOURS + 9)
    assert found.of(0)[0].tolist() == list(range(1, NEIGHBOURS + 1))


def test_without_interactions_there_are_no_neighbours() -> None:
    found = fitted(products=2)
    assert found.of(1)[0].tolist() == []
