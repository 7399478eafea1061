"""How a range of time is divided, and when the drift began that a training answers."""

from pathlib import Path

import pytest

from config.settings import Settings
from sinks.noting import note
from sinks.quality_tables import RETRAINING
from training.drift_beginning import drift_began_ms
from training.fitting import Span

HOUR_MS = 3_600_000
WINDOW_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def test_the_last_share_of_the_time_is_held_out_and_a_quarter_of_the_rest_is_the_rankers() -> None:
    assert Span.of(0, 1_000, 0.2) == Span(0, 600, 800, 1_000)


@pytest.mark.parametrize(
    ("began_ms", "holdout_from_ms"),
    [
        (None, 800),
        (-1, 800),  # all of the range has drifted
        (500, 800),
        (600, 800),
        (900, 950),  # half of what came since
        (1_000, 800),  # none of it has
    ],
)
def test_a_challenger_sees_half_of_what_came_since_a_drift_began(began_ms: int | None, holdout_from_ms: int) -> None:
    assert Span.of(0, 1_000, 0.2, began_ms).holdout_from_ms == holdout_from_ms


@pytest.mark.parametrize(
    ("began_ms", "ranker_from_ms"),
    [
        (300, 600),  # its candidates have seen enough
        (590, 695),  # they would have seen next to nothing of what all of its sessions are about
        (650, 737),
        (780, 668),  # most of its sessions are older
    ],
)
def test_a_rankers_candidates_know_what_most_of_its_sessions_are_about(began_ms: int, ranker_from_ms: int) -> None:
    span = Span.of(0, 1_000, 0.2, began_ms)
    assert span.ranker_from_ms == ranker_from_ms
    assert span.from_ms < span.ranker_from_ms < span.holdout_from_ms < span.to_ms


def request(settings: Settings, request_id: str, cause: str, step: str, window_start_ms: int | None) -> None:
    row = {"request_id": request_id, "step": step, "cause": cause, "detail": "", "evidence": "{}", "noted_ms": 1}
    end_ms = None if window_start_ms is None else window_start_ms + HOUR_MS
    note(settings.lake_path, RETRAINING, [{**row, "window_start_ms": window_start_ms, "window_end_ms": end_ms}])


def test_a_drift_began_with_the_first_of_the_windows_in_a_row(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    lake = settings.lake_path
    assert drift_began_ms(settings, lake, "d") is None
    request(settings, "d", "drift", "requested", WINDOW_MS)
    request(settings, "q", "online_quality", "requested", WINDOW_MS)
    request(settings, "s", "drift", "suppressed", WINDOW_MS)
    request(settings, "f", "forced", "requested", None)
    assert drift_began_ms(settings, lake, "d") == WINDOW_MS - 2 * HOUR_MS
    assert [drift_began_ms(settings, lake, name) for name in ("q", "s", "f", "unknown", None)] == [None] * 5
