"""Moves of one model, each of them a row of `model_log` and then aliases, so that a kill in between loses nothing.

What was decided is the row; what serves is an alias in the registry. Until a move is carried out, its version has the
alias `settling` as well; `settle` finishes what somebody has left there. After a promotion it has the alias `rebasing`
until the reference of drift has moved to its data, which takes a while, may fail, and keeps no other move waiting.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from config.errors import ShopstreamError
from serving.errors import RebasingError
from serving.models_in_service import CANARY, CHALLENGER, CHAMPION, FORMER, loaded
from serving.rollout_ports import Baseline, Registry, Requests, Trained
from sinks.lake_root import Lake
from sinks.noting import noted
from sinks.quality_tables import RETRAINING
from training.model_log import ModelLog, ModelStep, Step, newest_change

logger = logging.getLogger(__name__)

SETTLING: Final = "settling"
REBASING: Final = "rebasing"


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
            ModelRefusedError, ArtefactError, DefinitionError: it cannot serve; nothing was changed.
        """
        loaded(self._registry.load, found.version)
        return self._note(found.version, found.request_id, Step.STAGED, by, reason, {})

    def start_canary(self, found: Trained, by: str, reason: str) -> ModelStep:
        """Give a version to a share of the users."""
        return self._moved(found, Step.CANARY, by, reason, {"share": self._canary_share})

    def promote(self, found: Trained, by: str, reason: str, evidence: Mapping[str, Any]) -> ModelStep:
        """Have a version answer to everybody; `from` in the evidence names the champion before it."""
        champion = self._registry.alias(CHAMPION)
        before = {"from": None if champion is None else champion.version}
        return self._moved(found, Step.PROMOTED, by, reason, {**evidence, **before})

    def roll_back(self, found: Trained, by: str, reason: str, evidence: Mapping[str, Any]) -> ModelStep:
        """Take a version's role away; `to` in the evidence names the champion instead of it, if it was that."""
        return self._moved(found, Step.ROLLED_BACK, by, reason, evidence)

    def give_up(self, canary: ModelStep, by: str, reason: str) -> ModelStep:
        """Note that a canary is none any more, where the registry does not know its version."""
        request_id = canary.evidence.get("request_id")
        step = self._note(canary.model, request_id, Step.ROLLED_BACK, by, reason, {})
        self._tell_request(request_id, step)
        return step

    def settle(self) -> None:
        """Carry out what was decided of the version that is settling, if any; each part again is harmless."""
        found = self._registry.alias(SETTLING)
        if found is None:
            return
        steps = self._log.steps()
        newest = next((step for step in reversed(steps) if step.model == found.version), None)
        if newest is not None:
            self._carry_out(found, newest, is_change=newest is newest_change(steps))
        self._registry.remove_alias(SETTLING)

    def rebase(self) -> None:
        """Move the reference of drift for the version that waits for it, if any; again is harmless.

        Raises:
            RebasingError: it could not be moved; the next call tries again.
        """
        found = self._registry.alias(REBASING)
        if found is None:
            return
        change = newest_change(self._log.steps())
        if change is not None and change.step is Step.PROMOTED and change.model == found.version:
            try:
                told = self._baseline(found, change.noted_ms, change.evidence.get("newest_ms"))
            except ShopstreamError as error:
                raise RebasingError(
                    f"Model {found.version} serves, but the reference of drift cannot be moved: {error.message}",
                    hint=f"{error.hint} The next `shopstream models guard` tries again.".lstrip(),
                ) from error
            logger.info("the reference of drift after the promotion of model %s: %s", found.version, dict(told))
        self._remove_alias(REBASING, found.version)

    def _moved(self, found: Trained, step: Step, by: str, reason: str, evidence: Mapping[str, Any]) -> ModelStep:
        self._registry.set_alias(SETTLING, found.version)
        row = self._note(found.version, found.request_id, step, by, reason, evidence)
        self.settle()
        return row

    def _carry_out(self, found: Trained, step: ModelStep, *, is_change: bool) -> None:
        """Have aliases and the request agree with a step.

        Args:
            is_change: nobody else was put in charge since. Else the step is an old one: what was begun now was never
                noted.
        """
        if step.step is Step.CANARY:
            self._registry.set_alias(CANARY, found.version)
        elif step.step in {Step.PROMOTED, Step.ROLLED_BACK}:
            if is_change:
                self._put_in_charge(step)
            for name in (CANARY, CHALLENGER):
                self._remove_alias(name, found.version)
        else:
            return
        self._tell_request(found.request_id, step)

    def _put_in_charge(self, step: ModelStep) -> None:
        champion, former = step.in_charge or step.model, step.evidence.get("from")
        if former is not None:
            self._registry.set_alias(FORMER, former)
        if step.step is Step.PROMOTED:
            self._registry.set_alias(REBASING, champion)
        self._registry.set_alias(CHAMPION, champion)
        self._remove_alias(FORMER, champion)

    def _remove_alias(self, name: str, version: str) -> None:
        found = self._registry.alias(name)
        if found is not None and found.version == version:
            self._registry.remove_alias(name)

    def _tell_request(self, request_id: str | None, step: ModelStep) -> None:
        """Note the step with the request that the model was trained for, unless it is its newest already."""
        if request_id is None:
            return
        rows = noted(self._lake, RETRAINING, ["request_id", "step"])
        theirs = [row["step"] for row in rows if row["request_id"] == request_id]
        if theirs and theirs[-1] != step.step.value:
            self._requests.note(request_id, step.step.value, step.reason, {**step.evidence, "model": step.model})

    def _note(
        self, version: str, request_id: str | None, step: Step, by: str, reason: str, evidence: Mapping[str, Any]
    ) -> ModelStep:
        request = {} if request_id is None else {"request_id": request_id}
        noted_ms = self._log.next_ms(self._clock_ms())
        row = ModelStep(version, step, by, reason, noted_ms, {**evidence, **request})
        self._log.append(row)
        logger.info("model %s is %s: %s", row.model, row.step.value, row.reason)
        return row
