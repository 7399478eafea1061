"""Runs requested retrainings on this machine: claims the request, trains, and notes what came of it.

A request is answered once: one that has a version in the registry already, because its process was killed before it
could say so or because it was triggered again, gets that version's verdict and no second training.
"""

from collections.abc import Callable
from typing import Final

from config.errors import ShopstreamError
from config.settings import Settings
from sinks.errors import RetrainingRunningError
from sinks.lake_root import lake_of
from sinks.noting import noted
from sinks.quality_tables import RETRAINING
from sinks.retraining import Retraining, RetrainingRequest, Step
from training.answering import note_outcome
from training.model_log import ModelLog
from training.model_log import Step as ModelStep
from training.models import Models, TrainedVersion
from training.run import ACCEPTED, QUEUED, REJECTED, TrainingReport, resume, train

STARTS_MAX: Final = 3  # of one request; what kills a process so often would kill the next, too

Tell = Callable[[str], None]


def run_requested(settings: Settings, tell: Tell) -> TrainingReport | None:
    """Train for the newest request that waits for it, if there is one; also for one whose process was killed.

    What earlier runs could not register is registered first. Blocking.

    Raises:
        ModelRegistryError: the registry does not answer; the request waits on.
        ShopstreamError: the training failed, and that was noted; or the lake cannot be used.
    """
    retraining = Retraining.from_settings(settings)
    resume(settings, tell)
    waiting = [each for each in retraining.newest() if each.step in {Step.REQUESTED, Step.STARTED}]
    if not waiting:
        return None
    request_id = waiting[-1].request_id
    Models.from_settings(settings).versions()  # a registry that is down must not cost the request
    try:
        return train_for(settings, request_id, tell)
    except RetrainingRunningError:
        return None


def train_for(
    settings: Settings, request_id: str, tell: Tell, *, from_ms: int | None = None, to_ms: int | None = None
) -> TrainingReport:
    """Train for a request, and note with it what came of it: `validated`, `rejected` or `failed`. Blocking.

    A model that could only be queued leaves the request `started`; whoever resumes says how it ended.

    Raises:
        RetrainingUnknownError, RetrainingRunningError, RetrainingNotDueError: the request cannot be claimed.
        ShopstreamError: the training failed, and that was noted.
    """
    retraining = Retraining.from_settings(settings)
    resume(settings, tell)
    with retraining.claim(request_id) as request:
        try:
            answered = _answered(settings, request_id)
            if answered is not None:
                tell(f"{request_id} was answered already, by model {answered.version}")
                report = answered
            else:
                _refuse_deadly(settings, request)
                report = train(settings, from_ms=from_ms, to_ms=to_ms, request_id=request_id, tell=tell)
        except Exception as error:
            retraining.note(request_id, Step.FAILED.value, str(error), {"error": type(error).__name__})
            raise
        if report.outcome != QUEUED:
            note_outcome(
                retraining,
                request_id,
                is_accepted=report.outcome == ACCEPTED,
                version=report.version,
                reasons=report.reasons,
                figures=report.about["figures"],
            )
    return report


def _answered(settings: Settings, request_id: str) -> TrainingReport | None:
    """Return what came of the version that answers a request, if there is one."""
    theirs = [found for found in Models.from_settings(settings).versions() if found.request_id == request_id]
    return _report(settings, theirs[-1]) if theirs else None


def _report(settings: Settings, found: TrainedVersion) -> TrainingReport:
    steps = ModelLog(lake_of(settings)).steps(found.version)
    rejected = [row.reason for row in steps if row.step is ModelStep.REJECTED]
    outcome = REJECTED if rejected else ACCEPTED
    return TrainingReport(outcome, found.version, found.key, rejected or found.verdict["reasons"], found.about, (), 0.0)


def _refuse_deadly(settings: Settings, request: RetrainingRequest) -> None:
    rows = noted(lake_of(settings), RETRAINING, ["request_id", "step"])
    starts = sum((row["request_id"], row["step"]) == (request.request_id, Step.STARTED.value) for row in rows)
    if starts > STARTS_MAX:
        raise ShopstreamError(
            f"The training of {request.request_id} was started {STARTS_MAX} times, and its process died each time.",
            hint="Look for what ended it, such as a lack of memory; then ask for another one.",
        )
