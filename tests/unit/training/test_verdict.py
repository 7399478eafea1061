"""What a challenger must prove."""

from dataclasses import replace

import pytest

from config.quality import TrainingSettings
from training.verdict import MIN_QUERIES, Evidence, Gain, SliceGain, judge

SETTINGS = TrainingSettings()
GOOD = Evidence(1_000, Gain("champion", 0.03, 0.01, 0.05), (SliceGain("new users", 200, 0.01, 0.03),), 0.2, 4.0)


def test_one_that_wins_is_accepted_and_told_by_how_much() -> None:
    verdict = judge(GOOD, SETTINGS)
    assert verdict.is_accepted
    assert verdict.reasons == ("it beats champion: NDCG@10 differs by +0.0300, 95 % interval +0.0100 to +0.0500",)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gain": Gain("popularity", 0.03, 0.0, 0.06)}, "does not beat popularity beyond noise"),
        ({"gain": Gain("champion", float("nan"), float("nan"), float("nan"))}, "does not beat champion beyond noise"),
        (
            {"slices": (SliceGain("heavy users", 50, -0.051, -0.001),)},
            "loses 0.0510 NDCG@10 for heavy users (50 queries), beyond noise",
        ),
        ({"hit_rate": 0.009}, "hit rate at 10 is 0.0090, below the floor 0.01"),
        ({"latency_p99_ms": 50.1}, "p99 of its scoring is 50.1 ms, above 50 ms"),
        ({"queries": MIN_QUERIES - 1}, "the hold-out has 99 queries"),
    ],
    ids=["within_noise", "not_a_number", "slice", "floor", "latency", "queries"],
)
def test_each_failing_is_a_reason_of_its_own(changed: dict[str, object], words: str) -> None:
    verdict = judge(replace(GOOD, **changed), SETTINGS)  # type: ignore[arg-type]
    assert not verdict.is_accepted
    assert len(verdict.reasons) == 1
    assert words in verdict.reasons[0]


def test_every_reason_is_told() -> None:
    poor = replace(GOOD, gain=Gain("champion", -0.1, -0.2, 0.0), hit_rate=0.0, latency_p99_ms=99.0)
    assert len(judge(poor, SETTINGS).reasons) == 3


@pytest.mark.parametrize(("mean", "high"), [(-0.06, 0.001), (-0.049, -0.01)], ids=["within_noise", "allowed"])
def test_a_slice_may_lose_what_is_allowed_and_what_noise_explains(mean: float, high: float) -> None:
    assert judge(replace(GOOD, slices=(SliceGain("tablet", 60, mean, high),)), SETTINGS).is_accepted


def test_a_slice_that_is_not_a_number_is_no_proof() -> None:
    unclear = SliceGain("tablet", 60, float("nan"), float("nan"))
    assert not judge(replace(GOOD, slices=(unclear,)), SETTINGS).is_accepted


def test_an_empty_slice_says_nothing() -> None:
    assert judge(replace(GOOD, slices=(SliceGain("tablet", 0, float("nan"), float("nan")),)), SETTINGS).is_accepted
