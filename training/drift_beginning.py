"""When the drift began that a request for a retraining was made for."""

from typing import Final

from config.settings import Settings
from sinks.lake_root import Lake
from sinks.noting import noted
from sinks.quality_tables import RETRAINING
from sinks.retraining import Step
from training.drift_windows import DRIFT

_COLUMNS: Final = ("request_id", "step", "cause", "window_start_ms")


def drift_began_ms(settings: Settings, lake: Lake, request_id: str | None) -> int | None:
    """Return the start of the first of the windows in a row that gave cause, event time; None if none did.

    Args:
        request_id: None where a model is trained without a request.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    if request_id is None:
        return None
    for row in noted(lake, RETRAINING, _COLUMNS):
        is_it = (row["request_id"], row["step"], row["cause"]) == (request_id, Step.REQUESTED, DRIFT)
        if is_it and row["window_start_ms"] is not None:
            began_ms: int = row["window_start_ms"] - (settings.drift.windows_in_row - 1) * settings.drift.window_ms
            return began_ms
    return None
