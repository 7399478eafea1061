"""What becomes of a canary: failures and slowness first, then clicks; and how often a good one suffers for it."""

import numpy as np
import pytest

from config.quality import RolloutSettings
from quality.sequential import Arm
from serving.canary_judge import Fate, Judgement, judge
from serving.click_through import Record

ROLLOUT = RolloutSettings()
GOOD = Record(answers=9_000, arm=Arm(9_000, 900))


def judged(canary: Record, champion: Record = GOOD) -> Judgement:
    return judge(canary, champion, ROLLOUT)


@pytest.mark.parametrize(
    ("canary", "fate", "says"),
    [
        (Record(), Fate.WAIT, "it is open"),
        (Record(answers=3, failures=3), Fate.ROLL_BACK, "3 of its 3 answers failed"),
        (Record(answers=2, failures=2), Fate.WAIT, "it is open"),
        (Record(answers=1_000, failures=10, arm=Arm(990, 99)), Fate.WAIT, "it is open"),
        (Record(answers=1_000, failures=40, arm=Arm(960, 96)), Fate.ROLL_BACK, "at most 1 % may"),
        (Record(answers=1_000, slow=60, arm=Arm(1_000, 100)), Fate.ROLL_BACK, "took longer than 50 ms"),
        (Record(answers=1_000, slow=8, arm=Arm(1_000, 100)), Fate.WAIT, "it is open"),
        (Record(answers=3_000, arm=Arm(3_000, 150)), Fate.ROLL_BACK, "it loses more than 10 %"),
        (Record(answers=30_000, arm=Arm(30_000, 3_300)), Fate.PROMOTE, "it does not lose 10 %"),
        (Record(answers=900, arm=Arm(900, 300)), Fate.WAIT, "good so far, and 1,000 answers are needed"),
        (Record(answers=200_000, arm=Arm(200_000, 18_000, 30.0)), Fate.ROLL_BACK, "could not be shown"),
    ],
)
def test_a_canarys_fate_and_why(canary: Record, fate: Fate, says: str) -> None:
    found = judged(canary)
    assert (found.fate, says in found.reason) == (fate, True), found.reason


def test_a_fault_is_found_though_clicks_are_good() -> None:
    found = judged(Record(answers=40_000, failures=4_000, arm=Arm(36_000, 7_200)))
    assert (found.fate, "failed" in found.reason) == (Fate.ROLL_BACK, True)


def test_where_the_champion_is_as_slow_the_machine_is_and_not_the_canary() -> None:
    slow = Record(answers=1_000, slow=60, arm=Arm(1_000, 100))
    assert judged(slow, Record(answers=9_000, slow=500, arm=Arm(9_000, 900))).fate is Fate.WAIT
    assert judged(slow, Record(answers=9_000, slow=90, arm=Arm(9_000, 900))).fate is Fate.ROLL_BACK
    assert judged(slow, Record(answers=10, arm=Arm(10, 1))).fate is Fate.WAIT, "nobody knows yet how slow it is"
    assert judged(slow, Record()).fate is Fate.ROLL_BACK, "there is nobody to compare it with"


def test_the_evidence_is_counts_and_bounds() -> None:
    evidence = judged(Record(answers=900, arm=Arm(900, 90))).evidence
    assert evidence["canary"]["clicked"] == 90
    assert evidence["champion"]["answers"] == 9_000
    assert evidence["ratio_low"] < evidence["ratio"] == 1.0 < evidence["ratio_high"]
    assert 0 < evidence["p_worse"] <= 1


def fates(ratio: float, *, runs: int, slow: float = 0.0, failing: float = 0.0, share: float = 0.12) -> dict[Fate, int]:
    """Guard canaries of a tenth of the users until each is decided upon, with a look per 5 % of new answers."""
    rng = np.random.default_rng(20_261_130)
    found = dict.fromkeys(Fate, 0)
    for _ in range(runs):
        canary, champion = np.zeros(4, int), np.zeros(4, int)
        fate = Fate.WAIT
        while fate is Fate.WAIT and canary[0] < 60_000:
            more = max(50, int(canary[0] * 0.05))
            for arm, count, clicks in ((canary, more, share * ratio), (champion, 9 * more, share)):
                failed = rng.binomial(count, failing) if arm is canary else 0
                arm += [count, failed, rng.binomial(count, slow), rng.binomial(count - failed, clicks)]
            fate = judged(record(canary), record(champion)).fate
        found[fate] += 1
    return found


def record(counts: np.ndarray) -> Record:
    answers, failures, slow, clicked = map(int, counts)
    return Record(answers, failures, slow, Arm(answers - failures, clicked))


def test_of_equal_canaries_at_most_alpha_are_rolled_back_and_the_others_promoted() -> None:
    found = fates(1.0, runs=200)
    assert found[Fate.ROLL_BACK] <= ROLLOUT.error_chance * 200
    assert found[Fate.PROMOTE] >= 180


def test_a_canary_that_loses_thirty_percent_of_the_clicks_is_rolled_back_in_nearly_all() -> None:
    found = fates(0.7, runs=100)
    assert found[Fate.ROLL_BACK] >= 97


def test_a_busy_machine_and_the_failures_that_are_allowed_cost_no_equal_canary() -> None:
    found = fates(1.0, runs=150, slow=0.05, failing=0.008)
    assert found[Fate.ROLL_BACK] <= 2 * ROLLOUT.error_chance * 150
