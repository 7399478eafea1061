"""The sequential test of click-through: how often it errs over all looks together, and how soon it knows."""

from collections.abc import Sequence

import numpy as np
import pytest

from quality.sequential import Arm, Comparison, Finding, Shown, compare, exceeds, highest

ALPHA = 0.05
LOSS_MAX = 0.1


def look(canary: Arm, champion: Arm) -> Comparison:
    return compare(canary, champion, loss_max=LOSS_MAX, alpha=ALPHA)


def looks(first: int, last: int, factor: float = 1.04) -> list[int]:
    """Return growing counts: beyond a look per 4 % of new data there is nothing new to see."""
    found = [first]
    while found[-1] < last:
        found.append(max(found[-1] + 1, round(found[-1] * factor)))
    return found


def first_finding(canary: np.ndarray, champion: np.ndarray, times: Sequence[int], per_look: float) -> Finding:
    """Look at the clicks that gathered, until something is found; of `per_look` answers of the champion for one."""
    for count in times:
        ours, theirs = Arm(count, int(canary[count - 1])), Arm(round(count * per_look), 0)
        found = look(ours, Arm(theirs.impressions, int(champion[theirs.impressions - 1]))).finding
        if found is not Finding.OPEN:
            return found
    return Finding.OPEN


def outcomes(share: float, ratio: float, *, runs: int, last: int, per_look: float = 3.0) -> dict[Finding, float]:
    """Run trials of a canary that is clicked `ratio` times as often; return the shares of what was found first."""
    rng = np.random.default_rng(20_261_124)
    counts = dict.fromkeys(Finding, 0)
    times = looks(20, last)
    for _ in range(runs):
        canary = np.cumsum(rng.random(times[-1] + 1) < share * ratio)
        champion = np.cumsum(rng.random(round(times[-1] * per_look) + 1) < share)
        counts[first_finding(canary, champion, times, per_look)] += 1
    return {finding: count / runs for finding, count in counts.items()}


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_an_equal_canary_is_not_rolled_back_however_often_one_looks(share: float) -> None:
    found = outcomes(share, 1.0, runs=200, last=6_000)
    assert found[Finding.WORSE] <= ALPHA


@pytest.mark.parametrize("share", [0.03, 0.3, 0.6])
def test_at_the_loss_that_is_allowed_either_error_stays_within_its_chance(share: float) -> None:
    """The hardest case: at this ratio both answers are wrong, and nothing may be found more often than alpha."""
    found = outcomes(share, 1 - LOSS_MAX, runs=300, last=8_000)
    margin = 2 * (ALPHA * (1 - ALPHA) / 300) ** 0.5
    assert found[Finding.WORSE] <= ALPHA + margin
    assert found[Finding.NOT_WORSE] <= ALPHA + margin


def test_a_fixed_test_that_is_repeated_would_err_far_more_often() -> None:
    """Shows that these simulations can tell: the usual z-test, at each look, is wrong several times as often."""
    rng = np.random.default_rng(7)
    wrong = 0
    times = looks(100, 8_000)
    for _ in range(200):
        canary = np.cumsum(rng.random(times[-1] + 1) < 0.27)
        champion = np.cumsum(rng.random(times[-1] + 1) < 0.3)
        for count in times:
            ours, theirs = canary[count - 1] / count, champion[count - 1] / count
            error = ((ours * (1 - ours) + 0.81 * theirs * (1 - theirs)) / count) ** 0.5
            if ours - 0.9 * theirs < -1.645 * error:
                wrong += 1
                break
    assert wrong / 200 > 3 * ALPHA


@pytest.mark.parametrize(("ratio", "right"), [(0.5, Finding.WORSE), (0.0, Finding.WORSE), (1.3, Finding.NOT_WORSE)])
def test_what_is_clearly_so_is_found(ratio: float, right: Finding) -> None:
    assert outcomes(0.2, ratio, runs=50, last=3_000)[right] == 1.0


def test_bounds_hold_the_ratio_and_close_in_on_it() -> None:
    few, many = look(Arm(500, 100), Arm(2_000, 400)), look(Arm(50_000, 10_000), Arm(200_000, 40_000))
    assert few.low < many.low < 1.0 < many.high < few.high
    assert few.finding is Finding.OPEN
    assert many.finding is Finding.NOT_WORSE
    assert many.low > 0.9
    assert (many.ratio, few.ratio) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("canary", "champion"),
    [
        (Arm(0, 0), Arm(0, 0)),
        (Arm(100, 50), Arm(0, 0)),
        (Arm(0, 0), Arm(100, 50)),
        (Arm(5, 0), Arm(100, 50)),
        (Arm(5_000, 0), Arm(5_000, 0)),
    ],
)
def test_with_few_clicks_nothing_is_decided(canary: Arm, champion: Arm) -> None:
    found = look(canary, champion)
    assert (found.finding, found.p_worse, found.p_not_worse) == (Finding.OPEN, 1.0, 1.0)


def test_an_arm_without_a_click_is_no_certainty_but_is_found_worse() -> None:
    assert look(Arm(40, 0), Arm(400, 120)).finding is Finding.OPEN
    assert look(Arm(150, 0), Arm(1_500, 450)).finding is Finding.WORSE


def test_where_everything_is_clicked_nothing_breaks() -> None:
    assert look(Arm(1_000, 1_000), Arm(1_000, 1_000)).finding is Finding.NOT_WORSE
    assert look(Arm(1_000, 100), Arm(1_000, 1_000)).finding is Finding.WORSE


def test_users_who_are_alike_count_for_less() -> None:
    """Half the users click everything, half nothing: 100 answers each say hardly more than one."""
    alike = Arm.of([Shown(100, 100 * (n % 2)) for n in range(40)])
    mixed = Arm.of([Shown(100, 50) for _ in range(40)])
    assert (alike.impressions, alike.clicked) == (mixed.impressions, mixed.clicked) == (4_000, 2_000)
    assert alike.spread == pytest.approx(100 * 40 / 39)
    assert mixed.spread == 1.0
    assert look(mixed, mixed).finding is Finding.NOT_WORSE
    assert look(alike, alike).finding is Finding.OPEN


def test_an_equal_canary_is_not_rolled_back_where_users_differ() -> None:
    rng = np.random.default_rng(11)
    worse = 0
    for _ in range(100):
        canary: list[Shown] = []
        champion: list[Shown] = []
        for users in looks(60, 900, 1.25):
            for arm, count in ((canary, users), (champion, users * 3)):
                tastes = rng.beta(0.5, 1.5, count - len(arm))
                arm += [Shown(20, int(rng.binomial(20, taste))) for taste in tastes]
            if look(Arm.of(canary), Arm.of(champion)).finding is Finding.WORSE:
                worse += 1
                break
    assert worse / 100 <= ALPHA


def test_a_share_is_exceeded_no_more_often_than_said() -> None:
    rng = np.random.default_rng(5)
    draws = rng.random((400, 3_000)) < 0.01
    totals = looks(1, 2_900, 1.05)
    sums = draws.cumsum(axis=1)
    wrong = sum(any(exceeds(int(row[n - 1]), n, 0.01, alpha=ALPHA) for n in totals) for row in sums)
    assert wrong / 400 <= ALPHA


@pytest.mark.parametrize(
    ("count", "total", "share", "found"),
    [
        (0, 0, 0.01, False),
        (0, 100, 0.0, False),
        (1, 100, 0.0, True),
        (1, 100, 0.01, False),
        (20, 100, 0.01, True),
        (3, 3, 0.01, True),
        (10, 1_000, 0.01, False),
        (100, 100, 1.0, False),
    ],
)
def test_what_exceeds_a_share(count: int, total: int, share: float, *, found: bool) -> None:
    assert exceeds(count, total, share, alpha=ALPHA) is found


@pytest.mark.parametrize("count", [0, 1, 50, 100])
def test_the_highest_share_is_where_a_lower_one_is_no_longer_ruled_out(count: int) -> None:
    bound = highest(count, 100, alpha=ALPHA)
    assert count / 100 < bound or count == 100
    assert exceeds(100 - count, 100, 1 - min(bound + 1e-6, 1.0), alpha=ALPHA) or count == 100
    assert not exceeds(100 - count, 100, 1 - (bound - 1e-6), alpha=ALPHA)
    assert highest(10 * count, 1_000, alpha=ALPHA) <= bound


def test_of_nothing_every_share_may_be() -> None:
    assert highest(0, 0, alpha=ALPHA) == 1.0


def test_the_highest_share_is_below_the_truth_no_more_often_than_said() -> None:
    rng = np.random.default_rng(9)
    totals = looks(1, 2_700, 1.1)
    sums = (rng.random((300, 3_000)) < 0.05).cumsum(axis=1)
    wrong = sum(any(highest(int(row[n - 1]), n, alpha=ALPHA) < 0.05 for n in totals) for row in sums)
    assert wrong / 300 <= ALPHA
