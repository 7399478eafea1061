"""Where the reference of drift moves after a promotion: which data it is taken of, and when it stays."""

from pathlib import Path

import pytest

from config.settings import Settings
from serving.baseline import Stretch, move_baseline, stretches
from sinks.noting import DAY_MS, note, noted
from sinks.quality_tables import DRIFT_REFERENCES, RETRAINING
from tests.fakes.models import FakeVersion
from tests.recorded_lakes import RecordedLake
from tests.unit.serving.answers import NOON_MS, click, write_clicks

HOUR_MS = 3_600_000
MODEL = FakeVersion("7", request_id="drift-1", from_ms=NOON_MS - 14 * DAY_MS, to_ms=NOON_MS)
WHOLE = Stretch(MODEL.from_ms, MODEL.to_ms)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(home=tmp_path)
    return found.model_copy(update={"training": found.training.model_copy(update={"mode": "as_corrected"})})


def request(settings: Settings, cause: str, window_start_ms: int) -> None:
    row = {
        "request_id": MODEL.request_id,
        "step": "requested",
        "cause": cause,
        "window_start_ms": window_start_ms,
        "window_end_ms": window_start_ms + HOUR_MS,
        "detail": "",
        "evidence": "{}",
        "noted_ms": NOON_MS,
    }
    note(settings.lake_path, RETRAINING, [row, {**row, "step": "started", "noted_ms": NOON_MS + 1}])


def tried(settings: Settings, model: FakeVersion = MODEL, newest_ms: int | None = None) -> list[Stretch]:
    return list(stretches(settings, settings.lake_path, model, newest_ms))


def test_without_a_drift_it_is_all_that_the_model_was_trained_on(settings: Settings) -> None:
    assert tried(settings) == [WHOLE]
    request(settings, "online_quality", NOON_MS - 3 * DAY_MS)
    assert tried(settings) == [WHOLE]


def test_after_a_drift_it_is_what_came_since_the_first_of_the_windows_in_a_row(settings: Settings) -> None:
    request(settings, "drift", NOON_MS - 3 * DAY_MS)
    began_ms = NOON_MS - 3 * DAY_MS - (settings.drift.windows_in_row - 1) * settings.drift.window_ms
    assert tried(settings) == [Stretch(began_ms, NOON_MS), WHOLE]
    assert tried(settings, newest_ms=NOON_MS + DAY_MS)[0] == Stretch(began_ms, NOON_MS + DAY_MS)


def test_less_than_a_day_since_the_drift_would_make_nights_look_strange(settings: Settings) -> None:
    request(settings, "drift", NOON_MS - 2 * HOUR_MS)
    assert tried(settings) == [WHOLE]


def test_a_model_of_which_nothing_is_known_leaves_the_reference_as_it_is(settings: Settings) -> None:
    unknown = FakeVersion("8")
    assert tried(settings, unknown) == []
    assert move_baseline(settings, unknown, NOON_MS, None) == {"kept": "it is not known what the model was trained on"}


def test_too_little_data_leaves_the_reference_as_it_is_and_says_why(settings: Settings) -> None:
    write_clicks(RecordedLake(settings.lake_path), [click(None, "u1", NOON_MS - HOUR_MS)])
    told = move_baseline(settings, MODEL, NOON_MS, None)
    assert "a calibration needs" in str(told["kept"])
    assert noted(settings.lake_path, DRIFT_REFERENCES) == []


def test_a_reference_that_was_taken_for_this_promotion_is_not_taken_again(settings: Settings) -> None:
    row = {
        "reference_id": "ref-1",
        "model": "7",
        "from_ms": 1,
        "to_ms": 2,
        "window_ms": HOUR_MS,
        "mode": "as_corrected",
        "profiles": b"",
        "calibration": "{}",
        "created_ms": NOON_MS + 5,
    }
    note(settings.lake_path, DRIFT_REFERENCES, [row])
    assert move_baseline(settings, MODEL, NOON_MS, None) == {"reference_id": "ref-1", "from_ms": 1, "to_ms": 2}
    assert "kept" in move_baseline(settings, MODEL, NOON_MS + 6, None), "that one is of an earlier promotion"
