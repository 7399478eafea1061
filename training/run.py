"""Trains a challenger, has it prove itself beside the champion and the baselines, and registers it with the verdict."""

import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from config.settings import Settings
from config.words import moment
from schemas.privacy import Pseudonyms
from sinks.erasures import read_erasures, tombstones_of
from sinks.lake_root import Lake, lake_of
from sinks.leases import reading
from sinks.retraining import Retraining, Step
from sinks.tables import RAW_EVENTS
from training.answering import note_outcome
from training.artefacts import ArtefactError, seal
from training.drift_beginning import drift_began_ms
from training.errors import DefinitionError, LabelsError, ModelRegistryError, TooLittleDataError, TrainingError
from training.fitting import SEED, Span, activity_of, check_enough, fit, query_rows
from training.interactions import Interactions, read_interactions
from training.lake_snapshot import Snapshot
from training.lineage import lineage_of
from training.models import CHAMPION, Models, TrainedVersion
from training.queries import AskedQuery, labels_of, queries_of
from training.recommending import Recommending, write_model
from training.registering import Pending, Registration, alone, queue, queued, register
from training.sets import SetMode, SetReport, SetRequest, make_set
from training.validation import Measured, measure
from training.verdict import judge

ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"
QUEUED: Final = "queued"
STRAY_SHARE: Final = 0.001  # of the events, the earliest ones

_ENDLESS_MS: Final = 2**62

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """A training that came to its end.

    Attributes:
        outcome: `accepted`, `rejected`, or `queued`: the registry did not answer; `train run --resume` registers it.
        version: in the registry; None while it is queued.
        key: id of the training.
        reasons: of the verdict, in words.
        about: range, figures, verdict, lineage, as the manifest has them.
        warnings: what the figures do not say.
        seconds: how long it took.
    """

    outcome: str
    version: str | None
    key: str
    reasons: Sequence[str]
    about: Mapping[str, Any]
    warnings: Sequence[str]
    seconds: float

    def payload(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        found = asdict(self)
        about = found.pop("about")
        return {**found, "seconds": round(self.seconds, 1), **about}


def train(
    settings: Settings,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    request_id: str | None = None,
    tell: Tell = lambda _line: None,
) -> TrainingReport:
    """Train, validate and register; blocking.

    What an earlier run could not register is registered first. A registry that stops answering after that loses
    nothing: the model is queued.

    Args:
        from_ms: first event time; `training.history_ms` before the end, if None.
        to_ms: end of event times, not included; just after the newest event, if None.
        request_id: the request for a retraining that this answers.
        tell: told what is under way, in words.

    Raises:
        TooLittleDataError: the range does not make a model; it says why.
        ModelRegistryError: the registry does not answer at the beginning; nothing was trained.
        ShopstreamError: the lake or the feature store cannot be read.
    """
    started_s = time.monotonic()
    models = Models.from_settings(settings)
    resume(settings, tell)
    with reading(lake_of(settings), "train run"):
        work = _Work(settings, models, tell)
        pending = work.run(from_ms, to_ms, request_id)
    tell("Registering")
    about, warnings = work.about, work.warnings
    try:
        with alone(models.artefacts):
            done = register(lake_of(settings), models, _current(models, pending))
    except ModelRegistryError as error:
        tell(f"{error} The model is queued.")
        return TrainingReport(
            QUEUED, None, pending.key, about["verdict"]["reasons"], about, [*warnings, str(error)], _since(started_s)
        )
    return _report(done, warnings, _since(started_s))


def resume(settings: Settings, tell: Tell = lambda _line: None) -> list[Registration]:
    """Register what earlier runs could not, and note it with the requests that were left `started` by that.

    Raises:
        ModelRegistryError: the registry does not answer; what was queued stays so.
        LakeUnavailableError: a row could not be noted; likewise.
    """
    models = Models.from_settings(settings)
    if not queued(models.artefacts):
        return []
    done = []
    retraining = Retraining.from_settings(settings)
    started = {each.request_id for each in retraining.newest() if each.step is Step.STARTED}
    with alone(models.artefacts):
        for pending in queued(models.artefacts):
            each = register(lake_of(settings), models, pending, lambda found: _answer(retraining, started, found))
            tell(f"Registered model {each.found.version}, which was queued")
            done.append(each)
    return done


def _answer(retraining: Retraining, started: Collection[str], done: Registration) -> None:
    request_id = done.found.request_id
    if request_id is not None and request_id in started:
        note_outcome(
            retraining,
            request_id,
            is_accepted=done.is_accepted,
            version=done.found.version,
            reasons=done.reasons,
            figures=done.found.figures,
        )


def _report(done: Registration, warnings: Sequence[str], seconds: float) -> TrainingReport:
    found = done.found
    outcome = ACCEPTED if done.is_accepted else REJECTED
    return TrainingReport(outcome, found.version, found.key, done.reasons, found.about, warnings, seconds)


def _since(started_s: float) -> float:
    return time.monotonic() - started_s


def _current(models: Models, pending: Pending) -> Pending:
    """Return what is queued of a training: an erasure may have written it anew since."""
    return next((each for each in queued(models.artefacts) if each.key == pending.key), pending)


class _Work:
    """One training, up to the sealed and queued files."""

    def __init__(self, settings: Settings, models: Models, tell: Tell) -> None:
        self._settings = settings
        self._models = models
        self._tell = tell
        self._lake: Lake = lake_of(settings)
        self._read_ms = time.time_ns() // 1_000_000
        self._snapshot = Snapshot.of(self._lake)
        self._pseudonyms = Pseudonyms.with_key_of(settings.privacy)
        self._erasures = read_erasures(self._lake)
        self._key = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self.about: dict[str, Any] = {}
        self.warnings: list[str] = []

    def run(self, from_ms: int | None, to_ms: int | None, request_id: str | None) -> Pending:
        champion, rival = self._champion()
        first_ms, end_ms = self._range(from_ms, to_ms)
        self._tell(f"Reading events from {moment(first_ms)} to {moment(end_ms)}")
        tombstones = tombstones_of(self._erasures, self._pseudonyms)
        found = read_interactions(self._snapshot, first_ms, end_ms, tombstones)
        if from_ms is None and len(found):  # the lake may begin later; a stray event of a wrong clock is no beginning
            first_ms = max(first_ms, int(np.quantile(found.times_ms, STRAY_SHARE, method="lower")))
        began_ms = drift_began_ms(self._settings, self._lake, request_id)
        span = Span.of(first_ms, end_ms, self._settings.training.holdout_share, began_ms)
        check_enough(found, span, self._settings.training.min_events)
        self._tell(
            f"{len(found):,} interactions of {len(found.user_ids):,} users with {len(found.product_ids):,} products"
        )
        made, asked = self._asked(found, span)
        if champion is not None and champion.about["holdout_from_ms"] > span.holdout_from_ms:
            self._warn(f"The champion {champion.version} was fitted on a part of the hold-out, which is in its favour.")
        model = fit(found, span, asked, self._tell)
        measured = self._measured(model, rival, found, span, asked)
        verdict = judge(measured.evidence, self._settings.training)
        self.about = {
            "from_ms": span.from_ms,
            "to_ms": span.to_ms,
            "holdout_from_ms": span.holdout_from_ms,
            "read_ms": self._read_ms,
            "interactions": len(found),
            "products": len(model.source.product_ids),
            "figures": dict(measured.figures),
            "verdict": {"is_accepted": verdict.is_accepted, "reasons": list(verdict.reasons)},
            "lineage": lineage_of(
                self._settings, self._lake, made, request_id, None if champion is None else champion.version
            ),
        }
        return self._sealed(model)

    def _champion(self) -> tuple[TrainedVersion | None, Recommending | None]:
        """Return who is in charge, and the model if it can be loaded."""
        champion = self._models.alias(CHAMPION)
        if champion is None:
            return None, None
        try:
            return champion, self._models.load(champion.version)
        except (ArtefactError, DefinitionError) as error:
            self._warn(f"The champion {champion.version} cannot be compared with: {error} Popularity is the rival.")
            return champion, None

    def _range(self, from_ms: int | None, to_ms: int | None) -> tuple[int, int]:
        if to_ms is None:
            to_ms = self._snapshot.ends_ms(RAW_EVENTS, "event_time_ms") + 1
        if from_ms is None:
            from_ms = to_ms - self._settings.training.history_ms
        if from_ms >= to_ms:
            raise LabelsError(f"The range is empty: it begins at {from_ms} ms and ends before {to_ms} ms.")
        return from_ms, to_ms

    def _asked(self, found: Interactions, span: Span) -> tuple[SetReport, list[AskedQuery]]:
        """Make the training set, and return what it asks."""
        rows = query_rows(found, span, self._settings.training.queries_max)
        request = SetRequest(
            mode=SetMode(self._settings.training.mode),
            out=self._settings.home.absolute() / "training-sets" / self._key,
            chosen=labels_of(found, rows),
            from_ms=span.from_ms,
            to_ms=span.to_ms,
        )
        made = make_set(self._settings, self._snapshot.lake, request, self._tell)
        self.warnings += made.manifest["warnings"]
        asked = queries_of(made.out)
        if all(each.at_ms < span.holdout_from_ms for each in asked):
            raise TooLittleDataError(
                "No event of the hold-out can be asked about: its users looked at one product only, or their features "
                "are not in the lake.",
                hint="Train on a longer range.",
            )
        return made, asked

    def _measured(
        self, model: Recommending, rival: Recommending | None, found: Interactions, span: Span, asked: list[AskedQuery]
    ) -> Measured:
        queries = [each.query for each in asked if each.at_ms >= span.holdout_from_ms]
        self._tell(f"Comparing on {len(queries):,} queries of the hold-out")
        activity = activity_of(found, span, [query.user_id for query in queries])
        return measure(model, rival, queries, activity, SEED)

    def _sealed(self, model: Recommending) -> Pending:
        """Write the files, seal and queue them, without whoever was erased meanwhile."""
        artefacts = self._models.artefacts
        partial = artefacts / f".{self._key}.partial"
        try:
            with alone(artefacts):
                partial.mkdir()
                write_model(partial, model)
                pending = Pending(self._key, seal(partial, {"about": self.about}))
                partial.rename(self._models.folder(*pending))
                queue(artefacts, pending)
        except OSError as error:
            raise TrainingError(
                f"The model cannot be written below {artefacts}: {error.strerror or error}.",
                hint="Check training.artefacts, and that its disk has room.",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._leave_out_erased()
        return pending

    def _leave_out_erased(self) -> None:
        """Erase who was erased since the lake was read: that erasure may not have seen the files."""
        from training.model_erasing import erase_from_models

        since = [row for row in read_erasures(self._lake) if row not in self._erasures]
        if since:
            tombstones = tombstones_of(since, self._pseudonyms)
            whenever = replace(tombstones, noted_ms=dict.fromkeys(tombstones.noted_ms, _ENDLESS_MS))
            erase_from_models(self._models, whenever, self._tell)

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self._tell(text)
