"""A fall of click-through is noticed, and luck is not."""

from collections.abc import Iterator

import numpy as np
import pytest

from quality.online_quality import Impression, falls


def shown(seed: int, *parts: tuple[int, float]) -> Iterator[Impression]:
    """So many impressions in a row that are clicked with a chance."""
    rng, at_ms = np.random.default_rng(seed), 0
    for count, rate in parts:
        for is_clicked in rng.random(count) < rate:
            yield Impression(at_ms, bool(is_clicked))
            at_ms += 1


@pytest.mark.parametrize("seed", range(5))
def test_a_fall_by_half_is_noticed_soon(seed: int) -> None:
    [fall, *_] = falls(shown(seed, (5_000, 0.1), (5_000, 0.05)), delta=0.002, least=0.1)
    assert 5_000 <= fall.at_ms < 9_000
    assert fall.after < fall.before
    assert fall.before == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_an_even_click_through_never_falls(seed: int) -> None:
    assert falls(shown(seed, (20_000, 0.1)), delta=0.002, least=0.1) == []


def test_a_rise_is_no_fall() -> None:
    assert falls(shown(1, (5_000, 0.05), (5_000, 0.15)), delta=0.002, least=0.1) == []


def test_a_slow_fall_is_noticed_too() -> None:
    parts = [(1_000, 0.2 - 0.01 * n) for n in range(16)]
    assert falls(shown(2, *parts), delta=0.002, least=0.1)


def test_a_fall_that_is_smaller_than_what_matters_is_none() -> None:
    small = [(20_000, 0.30), (60_000, 0.285)]
    assert falls(shown(3, *small), delta=0.002, least=0.2) == []
    assert falls(iter(()), delta=0.002, least=0.1) == []
