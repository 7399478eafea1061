"""Steps of models on their way to serving, and back: the lake's table `model_log`, of which nothing is ever removed."""

import json
from collections.abc import Mapping
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
        evidence: counts, bounds, the request; JSON.
        noted_ms: when, by the wall clock, integer milliseconds UTC.
    """

    model: str
    step: Step
    by: str
    reason: str
    noted_ms: int
    evidence: Mapping[str, Any] = field(default_factory=dict)

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

    def newest(self) -> dict[str, ModelStep]:
        """Return each model's newest step.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        return {step.model: step for step in self.steps()}
