"""Profiles add up: that of two halves together is that of the whole."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality.profile import CATEGORIES_MAX, SKETCH_SIZE, VALUES_MAX, Categories, Numbers, Profile, merged

few = st.lists(st.one_of(st.integers(-50, 50).map(float), st.just(float("nan"))), max_size=200)
many = st.lists(st.floats(-1e6, 1e6, allow_nan=False), max_size=600)
texts = st.lists(st.one_of(st.none(), st.text("abc", max_size=2)), max_size=60)


def numbers(values: list[float]) -> Numbers:
    return Numbers.of(np.array(values, float))


def at_most(values: list[float], bounds: list[float]) -> list[int]:
    return [sum(value <= bound for value in values) for bound in bounds]


@given(few, few)
def test_halves_of_few_numbers_are_the_whole_exactly(first: list[float], second: list[float]) -> None:
    assert numbers(first).merged(numbers(second)).packed() == numbers(first + second).packed()
    assert numbers(second).merged(numbers(first)).packed() == numbers(first + second).packed()


@settings(max_examples=50)
@given(many, many)
def test_halves_of_many_numbers_count_alike_at_every_bound(first: list[float], second: list[float]) -> None:
    both, bounds = numbers(first).merged(numbers(second)), sorted({*first[:20], *second[:20], 0.0})
    assert both.is_exact  # up to SKETCH_SIZE values
    assert both.at_most(bounds).tolist() == at_most(first + second, bounds)
    assert both.count == len(first) + len(second)
    if first + second:
        assert both.extremes() == (min(first + second), max(first + second))


@given(texts, texts)
def test_halves_of_texts_are_the_whole_exactly(first: list[str | None], second: list[str | None]) -> None:
    whole = Categories.of(first + second)
    assert Categories.of(first).merged(Categories.of(second)).packed() == whole.packed()
    assert whole.nulls == (first + second).count(None)
    assert whole.counts == Counter(value for value in first + second if value is not None)


@pytest.mark.parametrize("parts", [1, 8])
def test_beyond_a_sketch_ranks_are_within_its_error(parts: int) -> None:
    values = np.random.default_rng(3).lognormal(3.0, 2.0, 4 * SKETCH_SIZE)
    found = merged(Profile(len(part), {"x": Numbers.of(part)}) for part in np.array_split(values, parts)).variables["x"]
    assert isinstance(found, Numbers)
    assert not found.is_exact
    bounds = np.quantile(values, np.linspace(0.01, 0.99, 99))
    expected = np.searchsorted(np.sort(values), bounds, side="right")
    assert np.abs(found.at_most(bounds.tolist()) - expected).max() / len(values) < 0.001
    assert found.extremes() == (values.min(), values.max())


@given(few)
def test_quantiles_of_few_values_are_values_that_so_many_lie_below(values: list[float]) -> None:
    found, present = numbers(values), sorted(value for value in values if value == value)
    ranks = [0.1, 0.5, 0.9]
    assert found.quantiles(ranks) == (
        [present[int(np.ceil(rank * len(present) - 1e-9)) - 1] for rank in ranks] if present else []
    )


def test_a_variable_becomes_a_sketch_only_when_it_has_too_many_values() -> None:
    first, second = numbers([float(n) for n in range(VALUES_MAX)]), numbers([-1.0])
    assert first.counts is not None
    assert first.merged(second).counts is None
    assert first.merged(numbers([0.0])).counts is not None


def test_the_rarest_of_very_many_categories_are_counted_as_one() -> None:
    counts = {f"c{n}": 2 for n in range(CATEGORIES_MAX)} | {"rare": 1}
    found = Categories(0, counts)
    assert (len(found.counts), found.others, found.count) == (CATEGORIES_MAX, 1, 2 * CATEGORIES_MAX + 1)
    assert "rare" not in found.counts
    assert found.merged(Categories(1, {"c0": 1})).count == found.count + 1


@settings(max_examples=30)
@given(few, many, texts)
def test_bytes_hold_all_of_it(some: list[float], more: list[float], words: list[str | None]) -> None:
    profile = Profile(7, {"some": numbers(some), "more": numbers(more), "words": Categories.of(words)})
    again = Profile.from_bytes(profile.to_bytes())
    assert again.rows == 7
    assert {name: each.packed() for name, each in again.variables.items()} == {
        name: each.packed() for name, each in profile.variables.items()
    }
    assert again.to_bytes() == profile.to_bytes()


def test_bytes_of_a_full_sketch_count_alike() -> None:
    values = np.random.default_rng(4).normal(size=2 * SKETCH_SIZE)
    found = Profile(len(values), {"x": Numbers.of(values)})
    again = Profile.from_bytes(found.to_bytes())
    bounds = [-1.0, 0.0, 1.0]
    first, second = found.variables["x"], again.variables["x"]
    assert isinstance(first, Numbers)
    assert isinstance(second, Numbers)
    assert second.at_most(bounds).tolist() == first.at_most(bounds).tolist()


def test_a_variable_that_is_missing_in_one_half_is_that_of_the_other() -> None:
    found = Profile(2, {"a": numbers([1.0, 2.0])}).merged(Profile(1, {"b": Categories.of(["x"])}))
    assert found.rows == 3
    assert {name: each.count for name, each in found.variables.items()} == {"a": 2, "b": 1}


def test_numbers_and_texts_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="a is of numbers in one profile"):
        Profile(1, {"a": numbers([1.0])}).merged(Profile(1, {"a": Categories.of(["x"])}))
