"""Indices of distance against their definitions, written out."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from quality.profile import Categories, Numbers
from quality.scores import (
    CATEGORY_SHARE_MIN,
    SMOOTHING,
    Bins,
    homogeneity,
    jensen_shannon,
    kolmogorov_smirnov,
    moved,
    null_share,
    population_stability,
)

counts = st.lists(st.integers(0, 500), min_size=2, max_size=12)
pairs = counts.flatmap(
    lambda first: st.tuples(st.just(first), st.lists(st.integers(0, 500), min_size=len(first), max_size=len(first)))
)


def smooth(values: list[int]) -> list[float]:
    total = sum(values) + SMOOTHING * len(values)
    return [(value + SMOOTHING) / total for value in values]


@given(pairs)
def test_psi_is_the_sum_of_differences_times_log_ratios(both: tuple[list[int], list[int]]) -> None:
    p, q = (smooth(each) for each in both)
    found = population_stability(*both)
    assert found == pytest.approx(sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True)), abs=1e-12)
    assert found >= 0
    assert population_stability(both[0], both[0]) == 0


@given(pairs)
def test_js_is_the_mean_divergence_from_the_middle_in_bits(both: tuple[list[int], list[int]]) -> None:
    p, q = (np.array(smooth(each)) for each in both)
    middle = (p + q) / 2
    expected = (np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
    assert jensen_shannon(*both) == pytest.approx(expected, abs=1e-9)
    assert 0 <= jensen_shannon(*both) <= 1


@given(pairs)
def test_homogeneity_is_pearsons_statistic_by_rows(both: tuple[list[int], list[int]]) -> None:
    first, second = (np.array(each) for each in both)
    assume(first.sum() > 0 and second.sum() > 0)
    table = np.stack([first, second])[:, first + second > 0]
    assume(table.shape[1] > 1)
    statistic = stats.chi2_contingency(table, correction=False).statistic
    scale = 1 / first.sum() + 1 / second.sum()
    assert homogeneity(first, second) == pytest.approx(statistic * scale, abs=1e-9)


@given(
    st.lists(st.integers(0, 60).map(float), min_size=1, max_size=80),
    st.lists(st.integers(0, 60).map(float), min_size=1, max_size=80),
)
def test_ks_of_few_values_is_the_greatest_distance_of_the_two_steps(first: list[float], second: list[float]) -> None:
    reference = Numbers.of(np.array(first))
    bins = Bins.of(reference, len(first))
    assert bins is not None
    found = kolmogorov_smirnov(bins.counted(reference), bins.counted(Numbers.of(np.array(second))))
    at = bins.bounds
    expected = max(
        abs(sum(value <= bound for value in first) / len(first) - sum(value <= bound for value in second) / len(second))
        for bound in at
    )
    assert found == pytest.approx(expected, abs=1e-12)


def test_ks_on_a_hundred_bins_is_near_the_exact_one() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=5_000), rng.normal(0.3, 1.0, size=2_000)
    reference = Numbers.of(first)
    bins = Bins.of(reference, 2_000)
    assert bins is not None
    found = kolmogorov_smirnov(bins.counted(reference), bins.counted(Numbers.of(second)))
    assert found == pytest.approx(stats.ks_2samp(first, second).statistic, abs=0.01)


def test_counts_of_bins_are_all_values_once() -> None:
    values = np.concatenate([np.zeros(50), np.arange(100.0), [np.nan]])
    reference = Numbers.of(values)
    bins = Bins.of(reference, 150)
    assert bins is not None
    fine = bins.counted(reference)
    assert fine.sum() == 150
    assert bins.coarse(fine).sum() == 150
    assert len(bins.coarse(fine)) == bins.coarse_count
    # zero is a third of all: a bin of its own, whatever the quantiles
    assert bins.coarse(fine)[0] == 51
    assert bins.name(0) == "0"
    assert bins.name(bins.coarse_count - 1).startswith("more than")


def test_rare_categories_share_a_bin_and_new_ones_fall_into_it() -> None:
    reference = Categories(0, {"a": 600, "b": 395, "rare": 5})
    assert CATEGORY_SHARE_MIN > 5 / 1_000
    bins = Bins.of(reference, 1_000)
    assert bins is not None
    assert bins.categories == ("a", "b")
    now = Categories(0, {"a": 5, "new": 3, "rare": 2})
    assert bins.counted(now).tolist() == [5, 0, 5]
    assert bins.unseen(now) == 0.3
    assert bins.name(2) == "all others"


def test_numbers_beyond_the_extremes_are_unseen() -> None:
    bins = Bins.of(Numbers.of(np.array([1.0, 2.0, 3.0])), 3)
    assert bins is not None
    assert bins.unseen(Numbers.of(np.array([0.5, 1.0, 3.0, 4.0]))) == 0.5
    assert bins.unseen(Numbers()) == 0.0


def test_bins_come_back_from_a_document_and_refuse_the_other_kind() -> None:
    for variable in (Numbers.of(np.arange(500.0)), Categories(0, {"a": 9, "b": 1})):
        bins = Bins.of(variable, 10)
        assert bins is not None
        assert Bins.from_document(bins.document()) == bins
    assert bins is not None
    with pytest.raises(TypeError, match="not of the kind"):
        bins.counted(Numbers.of(np.array([1.0])))
    assert Bins.of(Numbers(nulls=3), 0) is None


def test_what_moved_is_named_by_its_part_of_the_index() -> None:
    bins = Bins.of(Categories(0, {"a": 50, "b": 30, "c": 20}), 100)
    assert bins is not None
    told = {name: [expected, found] for name, expected, found in moved(bins, [50, 30, 20, 0], [20, 30, 50, 0])}
    assert sorted(told) == ["a", "c"]
    assert told["a"] == pytest.approx([0.5, 0.2], abs=0.02)
    assert told["c"] == pytest.approx([0.2, 0.5], abs=0.02)


def test_null_share() -> None:
    assert null_share(Categories(1, {"a": 3})) == 0.25
    assert null_share(Numbers()) == 0.0
