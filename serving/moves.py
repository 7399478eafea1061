"""Moves of one model, each of them a row of `model_log` and then aliases, so that a kill in between loses nothing.

What was decided is the row; what serves is an alias in the registry. While a promotion or a rollback is carried out,
the version has the alias `settling` as well; `settle` finishes what somebody has left there.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from serving.models_in_service import CANARY, CHALLENGER, CHAMPION, FORMER, loaded
from serving.rollout_ports import Baseline, Registry, Requests, Trained
from sinks.lake_root import Lake
from sinks.noting import noted
from sinks.quality_tables import RETRAINING
from training.model_log import ModelLog, ModelStep, Step

logger = logging.getLogger(__name__)

SETTLING: Final = "settling"


class Moves:
    """Moves models, one caller at a time. Blocking.

    Args:
        lake: has the log of steps, and the requests for retrainings.
        canary_share: of the users who get a canary, for the log.
        clock_ms: wall clock.
    """

    def __init__(
        self,
        lake: Lake,
        registry: Registry,
        requests: Requests,
        baseline: Baseline,
        *,
        canary_share: float,
        clock_ms: Callable[[], int],
    ) -> None:
        self._lake = lake
        self._log = ModelLog(lake)
        self._registry = registry
        self._requests = requests
        self._baseline = baseline
        self._canary_share = canary_share
        self._clock_ms = clock_ms

    def stage(self, found: Trained, by: str, reason: str) -> ModelStep:
        """Check that a version's files are what was registered and that it answers, and note that it is staged.

        Raises:
            ModelRefusedError, ArtefactError: it cannot serve; nothing was changed.
        """
        loaded(self._registry.load, found.version)
        return self._note(found, Step.STAGED, by, reason, {})

    def start_canary(self, found: Trained, by: str, reason: str) -> ModelStep:
        """Give a version to a share of the users."""
        step = self._note(found, Step.CANARY, by, reason, {"share": self._canary_share})
        self._registry.set_alias(CANARY, found.version)
        self._tell_request(found, step, {})
        return step

    def promote(self, found: Trained, by: str, reason: str, evidence: Mapping[str, Any]) -> ModelStep:
        """Have a version answer to everybody."""
        champion = self._registry.alias(CHAMPION)
        self._registry.set_alias(SETTLING, found.version)
        before = {"from": None if champion is None else champion.version}
        step = self._note(found, Step.PROMOTED, by, reason, {**evidence, **before})
        self.settle()
        return step

    def roll_back(self, found: Trained, by: str, reason: str, evidence: Mapping[str, Any]) -> ModelStep:
        """Take a version's role away; `to` in the evidence names the champion instead of it, if it was that."""
        self._registry.set_alias(SETTLING, found.version)
        step = self._note(found, Step.ROLLED_BACK, by, reason, evidence)
        self.settle()
        return step

    def settle(self) -> None:
        """Carry out what was decided of the version that is settling, if any; each part again is harmless."""
        found = self._registry.alias(SETTLING)
        if found is None:
            return
        step = self._log.newest().get(found.version)
        if step is not None and step.step in {Step.PROMOTED, Step.ROLLED_BACK}:
            self._settle_champion(step)
            for name in (CANARY, CHALLENGER):
                self._remove_alias(name, found.version)
            more = {}
            if step.step is Step.PROMOTED:
                more = {"baseline": self._baseline(found, step.noted_ms, step.evidence.get("newest_ms"))}
            self._tell_request(found, step, more)
        self._registry.remove_alias(SETTLING)

    def _settle_champion(self, step: ModelStep) -> None:
        """Put in charge who is to be, where the one is that was when the step was noted.

        Where somebody else is, the step is an older one of the same version: what was begun now was never noted.
        """
        champion = self._registry.alias(CHAMPION)
        version = None if champion is None else champion.version
        following: str | None = step.evidence.get("to")
        if step.step is Step.PROMOTED and version != step.model and version == step.evidence.get("from"):
            if version is not None:
                self._registry.set_alias(FORMER, version)
            self._registry.set_alias(CHAMPION, step.model)
        elif step.step is Step.ROLLED_BACK and following is not None and version == step.model:
            self._registry.set_alias(CHAMPION, following)
        if following is not None:
            self._remove_alias(FORMER, following)

    def _remove_alias(self, name: str, version: str) -> None:
        found = self._registry.alias(name)
        if found is not None and found.version == version:
            self._registry.remove_alias(name)

    def _tell_request(self, found: Trained, step: ModelStep, more: Mapping[str, Any]) -> None:
        """Note the step with the request that the model was trained for, unless it is its newest already."""
        if found.request_id is None:
            return
        rows = noted(self._lake, RETRAINING, ["request_id", "step"])
        theirs = [row["step"] for row in rows if row["request_id"] == found.request_id]
        if theirs and theirs[-1] != step.step.value:
            evidence = {**step.evidence, **more, "model": found.version}
            self._requests.note(found.request_id, step.step.value, step.reason, evidence)

    def _note(self, found: Trained, step: Step, by: str, reason: str, evidence: Mapping[str, Any]) -> ModelStep:
        request = {} if found.request_id is None else {"request_id": found.request_id}
        newest_ms = max((row.noted_ms for row in self._log.newest().values()), default=0)
        # steps are told apart by their time, and clocks may be set back
        noted_ms = max(self._clock_ms(), newest_ms + 1)
        row = ModelStep(found.version, step, by, reason, noted_ms, {**evidence, **request})
        self._log.append(row)
        logger.info("model %s is %s: %s", row.model, row.step.value, row.reason)
        return row
