"""Notes with a request for a retraining what came of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sinks.retraining import Retraining, Step


def note_outcome(
    retraining: Retraining,
    request_id: str,
    *,
    is_accepted: bool,
    version: str | None,
    reasons: Sequence[str],
    figures: Mapping[str, Any],
) -> None:
    """Note that a request's model is registered: `validated`, or `rejected` with the reasons.

    Raises:
        RetrainingUnknownError: there is no such request.
        LakeUnavailableError: it was not noted.
    """
    step = Step.VALIDATED if is_accepted else Step.REJECTED
    retraining.note(request_id, step.value, "; ".join(reasons), {"model": version, "figures": dict(figures)})
