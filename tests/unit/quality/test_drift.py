"""Verdicts of windows, and when they are cause enough."""

import json
import math

import numpy as np
import pytest

from quality.calibration import Calibration, calibrate
from quality.drift import Outcome, Score, Verdict, decide, judge
from quality.profile import Categories, Numbers, Profile
from quality.reference import HOUR_MS, Reference, Window

QUIET, ALARM, UNJUDGED = Outcome.QUIET, Outcome.ALARM, Outcome.UNJUDGED


def score(psi: float, *, drifted: bool, name: str = "x") -> Score:
    return Score(psi, None, 0.0, 0.0, 0.0, 0.0, 100, -20.0, drifted, True, f"{name}: a rose from 1 % to 9 %")


def verdict(told: str) -> Verdict:
    """`q` is quiet, `u` is not judged, anything else alarms by those variables; capitals only confirm."""
    if told in "qu":
        outcome = QUIET if told == "q" else UNJUDGED
        return Verdict(0, HOUR_MS, 100, outcome, "all", {}, "" if told == "q" else "too few")
    scores = {
        name.lower(): score(0.2 + n / 10, drifted=name.islower(), name=name.lower()) for n, name in enumerate(told)
    }
    return Verdict(0, HOUR_MS, 100, QUIET if told.isupper() else ALARM, "all", scores)


@pytest.mark.parametrize(
    ("told", "in_row", "is_due", "variables"),
    [
        ("", 0, False, ""),
        ("q q", 0, False, ""),
        ("a", 1, False, "a"),
        ("q a a", 2, False, "a"),
        ("a a a", 3, True, "a"),
        ("a a a a a", 3, True, "a"),
        ("a a q a", 1, False, "a"),
        ("a a a q", 0, False, ""),
        # what follows an alarm need only confirm it; a row begins with one
        ("a A A", 3, True, "a"),
        ("a A A A A", 3, True, "a"),
        ("A a A", 2, False, "a"),
        ("A A A", 0, False, ""),
        ("a B B", 0, False, ""),
        ("a AB b", 1, False, "b"),
        ("q a Ab aB", 3, True, "a"),
        ("a A q A", 0, False, ""),
        ("a u A A", 3, True, "a"),
        # not judged neither counts nor breaks a row, while there are few
        ("a u a a", 3, True, "a"),
        ("a a a u", 3, True, "a"),
        ("a u u u a a", 3, True, "a"),
        ("a u u u u a a", 2, False, "a"),
        ("a a u u a", 3, True, "a"),
        ("a a a u u u u", 0, False, ""),
        ("u u", 0, False, ""),
        # at least one variable in all of them
        ("ab bc b", 3, True, "b"),
        ("a b c", 1, False, "c"),
        ("ab ab b", 3, True, "b"),
        ("ab bc c", 2, False, "c"),
    ],
)
def test_a_row_of_alarms_of_the_same_variable_is_due(told: str, in_row: int, is_due: bool, variables: str) -> None:
    found = decide([verdict(each) for each in told.split()], windows_in_row=3)
    assert (found.in_row, found.is_due, "".join(found.variables)) == (in_row, is_due, variables)


def test_a_decision_says_why() -> None:
    assert decide([verdict("ab"), verdict("ab")], windows_in_row=2).words.startswith(
        "2 of 2 windows in a row: b: a rose"
    )
    assert decide([verdict("a"), verdict("q")], windows_in_row=2).words == "the newest judged window is quiet"
    assert decide([verdict("u")], windows_in_row=2).words == "no window was judged lately"


def test_of_many_variables_three_are_named() -> None:
    found = verdict("abcde")
    assert found.drifted == ["e", "d", "c", "b", "a"]
    assert found.words.endswith("; and 2 more")


def history(count: int = 72) -> list[Window]:
    return [window(n) for n in range(count)]


def window(hour: int, *, rows: int = 400, shares: tuple[float, ...] = (0.6, 0.3, 0.1), nulls: float = 0.0) -> Window:
    rng = np.random.default_rng([1, hour])
    kinds: list[str | None] = list(rng.choice(["a", "b", "c"], rows, p=shares))
    kinds[: round(nulls * rows)] = [None] * round(nulls * rows)
    values = rng.exponential(10.0, rows).round(2)
    variables: dict[str, Numbers | Categories] = {"label_kind": Categories.of(kinds), "value": Numbers.of(values)}
    return Window(hour * HOUR_MS, (hour + 1) * HOUR_MS, Profile(rows, variables))


@pytest.fixture(scope="module")
def known() -> tuple[Reference, Calibration]:
    reference = Reference.of(history())
    return reference, calibrate(reference, history(), budget=0.01, floor=0.1)


def test_a_shift_alarms_and_is_told_in_words(known: tuple[Reference, Calibration]) -> None:
    found = judge(*known, window(100, shares=(0.2, 0.3, 0.5)), min_rows=100)
    assert found.outcome is ALARM
    assert found.drifted == ["label_kind"]
    assert found.words.startswith("label_kind: c rose from")
    assert found.compared_with == "all days 04:00 UTC"
    moved = found.scores["label_kind"]
    assert moved.psi > 0.5
    assert moved.ks is None
    assert moved.log_p is not None
    assert moved.log_p < math.log(1e-6)
    assert found.scores["value"].ks is not None
    assert not found.scores["value"].is_drifted


def test_nothing_that_moved_is_quiet(known: tuple[Reference, Calibration]) -> None:
    found = judge(*known, window(100), min_rows=100)
    assert (found.outcome, found.drifted, found.words) == (QUIET, [], "nothing moved beyond its threshold")


def test_a_variable_alone_confirms_where_it_would_not_alarm_among_many(known: tuple[Reference, Calibration]) -> None:
    reference, calibration = known
    strict = Calibration(**{**calibration.document(), "noise": calibration.noise, "log_threshold": -40.0})
    found = judge(reference, strict, window(100, shares=(0.43, 0.35, 0.22)), min_rows=100)
    assert found.outcome is QUIET
    assert found.moved == {"label_kind"}
    assert not judge(reference, strict, window(100), min_rows=100).moved
    high = Calibration(**{**calibration.document(), "noise": calibration.noise, "floor": 5.0})
    assert not judge(reference, high, window(100, shares=(0.43, 0.35, 0.22)), min_rows=100).moved


def test_missing_values_are_told_and_are_no_drift(known: tuple[Reference, Calibration]) -> None:
    found = judge(*known, window(100, nulls=0.05), min_rows=100)
    assert found.scores["label_kind"].null_share == 0.05
    assert found.scores["label_kind"].null_share_expected == 0.0
    assert found.outcome is QUIET


@pytest.mark.parametrize(
    ("rows", "unfit", "why"),
    [(99, "", "99 events are too few: it takes 100"), (400, "halted", "halted"), (99, "halted", "halted")],
)
def test_a_window_that_must_not_be_judged_is_compared_all_the_same(
    known: tuple[Reference, Calibration], rows: int, unfit: str, why: str
) -> None:
    found = judge(*known, window(100, rows=rows, shares=(0.1, 0.1, 0.8)), min_rows=100, unfit=unfit)
    assert (found.outcome, found.words) == (UNJUDGED, why)
    assert found.scores["label_kind"].psi > 0.5


def test_a_window_that_history_has_none_like_is_not_judged() -> None:
    daytime = [each for each in history() if each.start_ms // HOUR_MS % 24 > 5]
    reference = Reference.of(daytime)
    calibration = calibrate(reference, daytime, budget=0.01, floor=0.1)
    night = judge(reference, calibration, window(96 + 3, shares=(0.1, 0.1, 0.8)), min_rows=100)
    assert (night.outcome, night.words) == (UNJUDGED, "the reference has no windows like it: all days 03:00 UTC")
    day = judge(reference, calibration, window(96 + 7, shares=(0.1, 0.1, 0.8)), min_rows=100)
    assert day.outcome is ALARM


def test_an_empty_window_has_no_scores(known: tuple[Reference, Calibration]) -> None:
    found = judge(*known, Window(100 * HOUR_MS, 101 * HOUR_MS, Profile()), min_rows=100)
    assert (found.outcome, dict(found.scores)) == (UNJUDGED, {})


def test_a_score_comes_back_from_json(known: tuple[Reference, Calibration]) -> None:
    for found in judge(*known, window(100, shares=(0.2, 0.3, 0.5)), min_rows=100).scores.values():
        told = json.loads(json.dumps(found.document()))
        assert Score.of(told).document() == {**told, "p": pytest.approx(told["p"], rel=1e-3, abs=1e-300)}
