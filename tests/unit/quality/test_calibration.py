"""Thresholds from history: p-values adjusted as a plain implementation does, noise found again, alarms kept rare."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quality.calibration import WINDOWS_MIN, Calibration, Comparison, adjusted, calibrate
from quality.drift import Outcome, judge
from quality.profile import Categories, Numbers, Profile
from quality.reference import HOUR_MS, Reference, Window

BUDGET = 0.01
names = st.sampled_from(["a", "b", "c", "d", "label_x", "label_y", "label_z"])
p_values = st.dictionaries(names, st.floats(1e-12, 1.0), min_size=1)


def windows(
    seed: int, count: int, *, rows: int = 400, cluster: int = 1, first: int = 0, shift: float = 0.0
) -> list[Window]:
    """Windows of three variables; rows come in clusters that are alike, as those of one user."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(first, first + count):
        users = rows // cluster
        level = np.repeat(rng.normal(shift, 1.0, users), cluster)
        number = level + rng.normal(0.0, 0.2 if cluster > 1 else 1.0, users * cluster)
        few = np.repeat(rng.poisson(2.0 + shift, users), cluster).astype(float)
        kinds = np.repeat(rng.choice(list("abcdef"), users, p=_mix(shift)), cluster)
        variables: dict[str, Numbers | Categories] = {
            "number": Numbers.of(number),
            "few": Numbers.of(few),
            "label_kind": Categories.of(kinds.tolist()),
        }
        made.append(Window(n * HOUR_MS, (n + 1) * HOUR_MS, Profile(users * cluster, variables)))
    return made


def _mix(shift: float) -> list[float]:
    shares = np.array([0.4, 0.2, 0.15, 0.1, 0.1, 0.05]) * np.exp(shift * np.arange(6) / 2)
    return list(shares / shares.sum())


def calibrated(history: list[Window], floor: float = 0.0) -> tuple[Reference, Calibration]:
    reference = Reference.of(history)
    return reference, calibrate(reference, history, budget=BUDGET, floor=floor)


def alarms(reference: Reference, calibration: Calibration, fresh: list[Window]) -> int:
    found = [judge(reference, calibration, window, min_rows=50) for window in fresh]
    return sum(verdict.outcome is Outcome.ALARM for verdict in found)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1e-12, 1.0), min_size=1))
def test_one_family_is_adjusted_as_benjamini_and_hochberg_do(found: dict[str, float]) -> None:
    told = adjusted({name: math.log(p) for name, p in found.items()})
    expected = stats.false_discovery_control(list(found.values()), method="bh")
    for name, p in zip(found, expected, strict=True):
        assert math.exp(told[name]) == pytest.approx(p, rel=1e-9)


@given(p_values, st.floats(0.001, 0.5))
def test_two_families_reject_what_a_weighted_step_up_does(found: dict[str, float], level: float) -> None:
    told = adjusted({name: math.log(p) for name, p in found.items()})
    labels = [name for name in found if name.startswith("label_")]
    weight = dict.fromkeys(found, 1.0)
    if 0 < len(labels) < len(found):  # half of all the weight to each family
        half = len(found) / 2
        weight = {name: half / (len(labels) if name in labels else len(found) - len(labels)) for name in found}
    ranked = sorted(found, key=lambda name: found[name] / weight[name])
    passed = [
        n for n, name in enumerate(ranked, 1) if found[name] / weight[name] <= n / len(found) * level * (1 - 1e-9)
    ]
    rejected = {name for name in found if told[name] <= math.log(level) + 1e-9}
    assert set(ranked[: max(passed, default=0)]) <= rejected
    assert sum(weight.values()) == pytest.approx(len(found))
    loose = [n for n, name in enumerate(ranked, 1) if found[name] / weight[name] <= n / len(found) * level * (1 + 1e-6)]
    assert rejected <= set(ranked[: max(loose, default=0)])


def test_independent_rows_are_found_to_be_so() -> None:
    _, found = calibrated(windows(1, 72))
    for name, bins in (("number", 10), ("label_kind", 6)):
        noise = found.noise[name]
        # 72 indices: their mean is known to 1 in 25
        assert noise.scale(400, 2 * 400, 2) == pytest.approx(1 / 400 + 1 / 800, rel=0.3)
        assert noise.df <= bins - 1


def test_rows_that_belong_together_are_found_to_be_so() -> None:
    _, found = calibrated(windows(2, 72, cluster=8))
    # eight rows that are alike count as one
    assert 5 < found.noise["few"].scale(400, 800, 2) / (1 / 400 + 1 / 800) < 11


@pytest.mark.parametrize("cluster", [1, 8])
@pytest.mark.parametrize("history", [30, 72, 336])
def test_windows_without_a_change_alarm_within_the_budget(cluster: int, history: int) -> None:
    reference, found = calibrated(windows(3, history, cluster=cluster))
    assert found.log_threshold <= math.log(BUDGET)
    assert found.expected <= BUDGET
    fresh = windows(4, 336, cluster=cluster, first=history)
    # 336 windows at a rate of 1 in 100: more than 9 come with a chance of 1 in 500
    assert alarms(reference, found, fresh) <= 9


@pytest.mark.parametrize(("cluster", "least"), [(1, 24), (8, 20)])  # 50 users are not many
def test_a_shift_alarms(cluster: int, least: int) -> None:
    reference, found = calibrated(windows(5, 72, cluster=cluster))
    fresh = windows(6, 24, cluster=cluster, first=72, shift=1.0)
    assert alarms(reference, found, fresh) >= least


def test_a_change_below_the_floor_is_none_however_sure_it_is() -> None:
    history = windows(7, 48, rows=20_000)
    fresh = windows(8, 10, rows=20_000, first=48, shift=0.08)
    assert alarms(*calibrated(history), fresh) == 10
    assert alarms(*calibrated(history, floor=0.1), fresh) == 0


def test_a_variable_with_too_little_history_is_not_judged() -> None:
    history = windows(9, 30)
    for window in history[WINDOWS_MIN - 1 :]:
        del window.profile.variables["few"]
    reference, found = calibrated(history)
    assert sorted(found.noise) == ["label_kind", "number"]
    verdict = judge(reference, found, windows(10, 1, first=40, shift=2.0)[0], min_rows=50)
    assert verdict.scores["few"].log_p is None
    assert sorted(verdict.drifted) == ["label_kind", "number"]


def test_a_variable_that_sums_up_a_day_needs_eight_days() -> None:
    day_ms = 24 * HOUR_MS
    for days, names in ((7, ["label_kind", "number"]), (8, ["few", "label_kind", "number"])):
        history = windows(13, 24 * days)
        reference = Reference.of(history)
        spans_ms = {"few": day_ms, "number": HOUR_MS // 2}
        found = calibrate(reference, history, budget=BUDGET, floor=0.0, spans_ms=spans_ms)
        assert sorted(found.noise) == names


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="7 windows are too few"):
        calibrated(windows(9, WINDOWS_MIN - 1))


def test_a_variable_that_never_moves_alarms_when_it_does() -> None:
    def constant(n: int, kind: str) -> Window:
        return Window(n * HOUR_MS, (n + 1) * HOUR_MS, Profile(300, {"kind": Categories(0, {"a": 290, kind: 10})}))

    reference, found = calibrated([constant(n, "b") for n in range(30)])
    fresh = [constant(30 + n, "b") for n in range(3)]
    assert alarms(reference, found, fresh) == 0
    changed = Profile(300, {"kind": Categories(0, {"a": 150, "b": 150})})
    assert alarms(reference, found, [Window(40 * HOUR_MS, 41 * HOUR_MS, changed)]) == 1


def test_a_window_is_compared_without_itself() -> None:
    history = windows(11, 48)
    reference = Reference.of(history)
    mine = reference.counted(history[3].profile)
    against = Comparison(reference, mine, reference.strata[3].without([mine]))
    other = Comparison(reference, mine, reference.counted(history[27].profile))
    assert against.index == other.index
    assert against.counts["number"][2] == 1


def test_a_calibration_comes_back_from_its_document() -> None:
    _, found = calibrated(windows(12, 30))
    assert Calibration.of(found.document()) == found
