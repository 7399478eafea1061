"""Steps of models on their way to serving, and back: the lake's table `model_log`, of which nothing is ever removed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sinks.lake_root import Lake
from sinks.noting import note, noted
from sinks.quality_tables import MODEL_LOG


class Step(StrEnum):
    """What can happen to a model."""

    REGISTERED = "registered"
    REJECTED = "rejected"
    STAGED = "staged"
    CANARY = "canary"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class ModelStep:
    """One step.

    Attributes:
        model: version.
        by: `guard`, `training`, or `command:` with the name of the account.
        reason: in words.
        evidence: counts, bounds, the request; of a promotion `from`, the champion before; of a champion that is rolled
            back `to`, the one instead; JSON.
        noted_ms: when, by the wall clock, integer milliseconds UTC.
    """

    model: str
    step: Step
    by: str
    reason: str
    noted_ms: int
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_charge(self) -> str | None:
        """The version that it put in charge; None if it put none."""
        if self.step is Step.PROMOTED:
            return self.model
        instead: str | None = self.evidence.get("to")
        return instead if self.step is Step.ROLLED_BACK else None

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "model": self.model,
            "step": self.step.value,
            "by": self.by,
            "reason": self.reason,
            "evidence": dict(self.evidence),
            "noted_ms": self.noted_ms,
        }


class ModelLog:
    """Reads and writes steps. Blocking."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def append(self, step: ModelStep) -> None:
        """Note a step.

        Raises:
            LakeUnavailableError: it was not noted, or it was and the answer was lost.
        """
        row = step.document()
        note(self._lake, MODEL_LOG, [{**row, "evidence": json.dumps(row["evidence"], sort_keys=True)}])

    def steps(self, model: str | None = None) -> list[ModelStep]:
        """Return the steps of a model, or of all, oldest first.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        return [
            ModelStep(
                row["model"],
                Step(row["step"]),
                row["by"],
                row["reason"],
                row["noted_ms"],
                json.loads(row["evidence"] or "{}"),
            )
            for row in noted(self._lake, MODEL_LOG)
            if model is None or row["model"] == model
        ]

    def next_ms(self, now_ms: int) -> int:
        """Return when a step that is taken now is noted: after all others, though clocks may be set back.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        return max(now_ms, 1 + max((step.noted_ms for step in self.steps()), default=-1))

    def newest(self) -> dict[str, ModelStep]:
        """Return each model's newest step.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        return {step.model: step for step in self.steps()}


def newest_change(steps: Sequence[ModelStep]) -> ModelStep | None:
    """Return the newest step that put another model in charge; None if none did."""
    return next((step for step in reversed(steps) if step.in_charge is not None), None)


def newest_canary(steps: Sequence[ModelStep]) -> ModelStep | None:
    """Return the step by which a version became the canary that is out; None if none is."""
    newest = {step.model: step for step in steps}
    return next((step for step in newest.values() if step.step is Step.CANARY), None)


def noted_roles(steps: Sequence[ModelStep]) -> dict[str, str]:
    """Return which versions are champion and canary by what was noted, without asking the registry."""
    change, canary = newest_change(steps), newest_canary(steps)
    found = {
        "champion": None if change is None else change.in_charge,
        "canary": None if canary is None else canary.model,
    }
    return {role: version for role, version in found.items() if version is not None}
