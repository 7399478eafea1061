"""The request for a retraining, as it is published."""

from typing import Any

import msgspec


class RetrainingEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something asks for a model to be trained anew.

    Attributes:
        request_id: follows from cause and window; published twice, it is the same request.
        cause: `drift`, `online_quality` or `forced`.
        window_start_ms: first event time of the window that gave cause, integer milliseconds UTC; None without one.
        window_end_ms: end of its event times, not included.
        detail: in words why.
        evidence: scores, and whatever else led to it; as JSON has it.
        lake_versions: versions of the lake's tables that were looked at.
        requested_ms: when it was asked for.
    """

    request_id: str
    cause: str
    window_start_ms: int | None
    window_end_ms: int | None
    detail: str
    evidence: dict[str, Any]
    lake_versions: dict[str, int]
    requested_ms: int
