"""Windows of a lake are judged once each, whoever dies; halted ones are not, and a new reference begins anew."""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from quality.drift import Outcome
from quality.reference import Level
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from sinks.lake_root import lake_of
from sinks.noting import note, noted
from sinks.quality_tables import DRIFT_WINDOWS, GATE_LOG
from tests.drift_shop import PLAN, QUIET, ROW, Asked, settings_of
from tests.quality.world import HOUR_MS
from training.drift_reference import HaltedSpan, halted_spans, reference_in_force, references, take_reference
from training.drift_windows import Cause, JudgedWindow, check, judged_windows
from training.errors import DriftBusyError, HistoryError

WINDOWS = QUIET + PLAN.shifted


def outcomes(windows: list[JudgedWindow]) -> str:
    letters = {Outcome.QUIET: "q", Outcome.ALARM: "a", Outcome.UNJUDGED: "u"}
    return "".join(letters[window.verdict.outcome] for window in windows)


def test_each_window_is_judged_once_and_a_shift_gives_cause(drifting: Settings) -> None:
    asked = Asked()
    report = check(drifting, red=[], request=asked)
    assert outcomes(list(report.windows)) == "q" * 8 + "a" * 5
    starts = [window.verdict.start_ms for window in report.windows]
    assert starts == [PLAN.history_ms[1] + n * HOUR_MS for n in range(WINDOWS)]
    assert report.closed_until_ms == PLAN.shifted_ms[1]
    # from the third window of the shift on; whoever takes requests knows of cooldown and of what is in flight
    assert asked.windows == [("drift", PLAN.shifted_ms[0] + n * HOUR_MS) for n in range(ROW - 1, 5)]
    first = asked.causes[0]
    assert first.detail.startswith("3 of 3 windows in a row: ")
    assert "label_category_id" in first.evidence["scores"]
    assert set(first.evidence["lake_versions"]) >= {"raw_events"}

    again = check(drifting, red=[], request=asked)
    assert (list(again.windows), len(asked.causes)) == ([], 3)
    known = judged_windows(lake_of(drifting))
    assert [(each.verdict.start_ms, each.verdict.words, each.decision) for each in known] == [
        (each.verdict.start_ms, each.verdict.words, each.decision) for each in report.windows
    ]
    assert [len(window.answers) for window in known] == [0] * 10 + [1] * 3


def test_the_newest_windows_can_be_read_alone(drifting: Settings) -> None:
    lake = lake_of(drifting)
    assert judged_windows(lake, 3) == []
    check(drifting, red=[], request=Asked())
    starts = [window.verdict.start_ms for window in judged_windows(lake)]
    assert [window.verdict.start_ms for window in judged_windows(lake, 3)] == starts[-3:]
    assert [window.verdict.start_ms for window in judged_windows(lake, 99)] == starts
    assert [window.verdict.start_ms for window in judged_windows(lake, 2, before_ms=starts[5])] == starts[3:5]
    assert judged_windows(lake, 2, before_ms=starts[0]) == []


def test_whoever_is_killed_after_the_request_asks_for_the_same_again(drifting: Settings) -> None:
    dying, asked = Asked(), Asked()

    def killed(cause: Cause) -> Mapping[str, Any]:
        dying(cause)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(drifting, red=[], request=killed)
    check(drifting, red=[], request=asked)
    assert dying.windows == asked.windows[:1]
    assert dying.causes[0].detail == asked.causes[0].detail
    starts = [row["window_start_ms"] for row in noted(lake_of(drifting), DRIFT_WINDOWS, ["window_start_ms"])]
    assert sorted(starts) == [PLAN.history_ms[1] + n * HOUR_MS for n in range(WINDOWS)]


def test_whoever_is_killed_later_does_not_ask_for_what_is_noted(drifting: Settings) -> None:
    first, asked = Asked(dies_after=1), Asked()
    with pytest.raises(KeyboardInterrupt):
        check(drifting, red=[], request=first)
    check(drifting, red=[], request=asked)
    assert first.windows + asked.windows == [("drift", PLAN.shifted_ms[0] + n * HOUR_MS) for n in range(ROW - 1, 5)]


def halt(shop: Settings, since_ms: int, until_ms: int | None, topic: str = CLICKS_TOPIC) -> None:
    row = {"topic": topic, "gate": "nulls", "detail": "", "evidence": "{}"}
    rows = [{**row, "step": "halted", "noted_ms": since_ms}]
    if until_ms is not None:
        rows.append({**row, "step": "resumed", "noted_ms": until_ms})
    note(lake_of(shop), GATE_LOG, rows)


def test_windows_that_came_while_a_view_was_halted_are_not_judged(drifting: Settings) -> None:
    first_ms = PLAN.shifted_ms[0]
    halt(drifting, first_ms + HOUR_MS, first_ms + 2 * HOUR_MS - 1)
    asked = Asked()
    report = check(drifting, red=[], request=asked)
    assert outcomes(list(report.windows)[8:]) == "auaaa"
    assert report.windows[9].verdict.why == "shop.clicks.v1 was halted by its gate nulls"
    assert report.windows[9].verdict.scores["label_category_id"].psi > 0.1  # it is compared all the same
    assert asked.windows == [("drift", first_ms + 3 * HOUR_MS), ("drift", first_ms + 4 * HOUR_MS)]


def test_windows_that_led_to_a_halt_are_not_judged_though_their_events_came_before_it(drifting: Settings) -> None:
    first_ms = PLAN.shifted_ms[0]
    evidence = {"event_time_ms": first_ms + HOUR_MS + 60_000}  # the gate looked at 5 minutes: at two windows
    row = {"topic": CLICKS_TOPIC, "gate": "nulls", "detail": "empty", "evidence": json.dumps(evidence)}
    noted_ms = PLAN.ends_ms + HOUR_MS
    rows = [{**row, "step": "halted", "noted_ms": noted_ms}, {**row, "step": "resumed", "noted_ms": noted_ms + 1}]
    note(lake_of(drifting), GATE_LOG, rows)
    report = check(drifting, red=[], request=Asked())
    assert outcomes(list(report.windows)[8:]) == "uuaaa"


def test_a_view_that_is_still_halted_asks_for_nothing(drifting: Settings) -> None:
    asked = Asked()
    red = [HaltedSpan(CARTS_TOPIC, "schema", PLAN.shifted_ms[0] + 1, None)]
    report = check(drifting, red=red, request=asked)
    assert outcomes(list(report.windows)) == "q" * 8 + "u" * 5
    assert asked.causes == []


def test_spans_of_halts_end_with_their_resume(drifting: Settings) -> None:
    halt(drifting, 100, 200)
    halt(drifting, 150, None, CARTS_TOPIC)
    halt(drifting, 300, None)
    assert halted_spans(lake_of(drifting)) == [
        HaltedSpan(CLICKS_TOPIC, "nulls", 100, 200),
        HaltedSpan(CARTS_TOPIC, "nulls", 150, None),
        HaltedSpan(CLICKS_TOPIC, "nulls", 300, None),
    ]


def test_a_new_reference_begins_anew_and_no_window_is_judged_twice(drifting: Settings) -> None:
    lake, asked = lake_of(drifting), Asked()
    before = reference_in_force(lake)
    assert before is not None
    late = settings_of(drifting.home, lateness_ms=4 * HOUR_MS)  # the last windows are not closed yet
    assert outcomes(list(check(late, red=[], request=asked).windows)) == "q" * 8 + "aa"
    taken = take_reference(drifting, *PLAN.history_ms, "8")
    found = reference_in_force(lake)
    assert found is not None
    assert (found.reference_id, found.model) == (taken, "8")
    report = check(drifting, red=[], request=asked)
    # two alarms against the former reference are not of this row
    assert [window.decision.in_row for window in report.windows] == [1, 2, 3]
    assert {window.reference_id for window in report.windows} == {taken}
    assert asked.windows == [("drift", PLAN.shifted_ms[0] + 4 * HOUR_MS)]
    assert [each.reference_id for each in references(lake, {before.reference_id, taken})] == [
        before.reference_id,
        taken,
    ]


def test_a_reference_of_the_shifted_data_finds_no_drift_in_it(drifting: Settings) -> None:
    first_ms = PLAN.shifted_ms[0] - 24 * HOUR_MS
    take_reference(drifting, first_ms, PLAN.shifted_ms[1] - HOUR_MS, None)
    found = reference_in_force(lake_of(drifting))
    assert found is not None
    assert found.reference.level is Level.ALL
    report = check(drifting, red=[], request=Asked())
    assert [window.verdict.start_ms for window in report.windows] == [PLAN.shifted_ms[1] - HOUR_MS]


def test_a_reference_comes_back_from_the_lake(drifting: Settings) -> None:
    found = reference_in_force(lake_of(drifting))
    assert found is not None
    assert found.reference.level is Level.HOUR_OF_DAY
    assert (found.from_ms, found.to_ms, found.window_ms) == (*PLAN.history_ms, HOUR_MS)
    told = found.summary()
    assert told["windows"] == found.calibration.windows
    assert told["judged_variables"] == len(found.calibration.noise) > 30
    assert told["rows"] == found.profile.rows > 48 * 50
    assert "noise" not in told


def test_halted_windows_are_no_part_of_a_reference(drifting: Settings) -> None:
    before = reference_in_force(lake_of(drifting))
    first_ms = PLAN.history_ms[0]
    halt(drifting, first_ms, first_ms + 10 * HOUR_MS - 1)
    take_reference(drifting, *PLAN.history_ms, None)
    after = reference_in_force(lake_of(drifting))
    assert before is not None
    assert after is not None
    assert after.profile.rows < before.profile.rows * 40 / 48


def test_too_little_history_is_refused_and_changes_nothing(drifting: Settings) -> None:
    before = reference_in_force(lake_of(drifting))
    with pytest.raises(HistoryError, match="the lake holds 7 windows"):
        take_reference(drifting, PLAN.history_ms[0], PLAN.history_ms[0] + 7 * HOUR_MS, None)
    after = reference_in_force(lake_of(drifting))
    assert before is not None
    assert after is not None
    assert after.reference_id == before.reference_id


def test_two_checks_do_not_run_beside_each_other(drifting: Settings) -> None:
    with (drifting.home / "drift.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DriftBusyError, match=r"drift\.lock"):
            check(drifting, red=[], request=Asked())


def test_without_a_reference_nothing_is_judged(tmp_path: Path) -> None:
    report = check(settings_of(tmp_path), red=[], request=Asked())
    assert report.payload() == {"reference_id": None, "closed_until_ms": None, "windows": []}
