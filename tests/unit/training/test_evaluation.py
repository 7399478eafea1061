"""Figures of ranked lists, by hand and against what must hold."""

import numpy as np
import pytest

from training.evaluation import calibration_error, ndcg, paired_gain


@pytest.mark.parametrize(("place", "expected"), [(0, 1.0), (2, 0.5), (9, 0.2890648), (10, 0.0)])
def test_ndcg_by_hand(place: int, expected: float) -> None:
    ranked = [f"p{number}" for number in range(20)]
    assert ndcg(ranked, f"p{place}") == pytest.approx(expected)
    assert ndcg(ranked, "elsewhere") == 0.0


def test_a_planted_gain_excludes_zero_and_noise_does_not() -> None:
    draws = np.random.default_rng(5)
    users = np.repeat(np.arange(300), 4)
    theirs = draws.random(1_200)
    better = paired_gain("popularity", users, theirs + 0.1 + draws.normal(0, 0.2, 1_200), theirs, seed=1)
    assert 0 < better.low < better.mean < better.high
    same = paired_gain("popularity", users, theirs + draws.normal(0, 0.2, 1_200), theirs, seed=1)
    assert same.low < 0 < same.high


def test_queries_of_one_user_do_not_make_it_surer() -> None:
    gains = np.random.default_rng(3).normal(0, 1, 100)
    once = paired_gain("champion", np.arange(100), gains, np.zeros(100), seed=2)
    repeated = paired_gain("champion", np.repeat(np.arange(100), 9), np.repeat(gains, 9), np.zeros(900), seed=2)
    assert (repeated.mean, repeated.low, repeated.high) == pytest.approx((once.mean, once.low, once.high))


def test_calibration_by_hand() -> None:
    assert calibration_error([0.25] * 4, [1, 0, 0, 0]) == pytest.approx(0.0)
    assert calibration_error([0.9, 0.9, 0.1, 0.1], [0, 1, 0, 0]) == pytest.approx(0.25)
