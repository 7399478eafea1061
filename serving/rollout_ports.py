"""What a rollout needs of others: the registry of models, the requests for retrainings, the reference of drift."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from serving.models_in_service import Model


class Trained(Protocol):
    """A version in the registry, and what it was trained on (training/models.py)."""

    @property
    def version(self) -> str:
        """Its number."""
        ...

    @property
    def request_id(self) -> str | None:
        """The request for a retraining that it answers; None if it was trained without one."""
        ...

    @property
    def from_ms(self) -> int:
        """First event time that it was trained on, integer milliseconds UTC."""
        ...

    @property
    def to_ms(self) -> int:
        """End of these event times, not included."""
        ...


class Registry(Protocol):
    """Where models are registered (training/models.py)."""

    def alias(self, name: str, /) -> Trained | None:
        """Return the version that has an alias."""
        ...

    def set_alias(self, name: str, version: str, /) -> None:
        """Give an alias to a version, and take it from any other."""
        ...

    def remove_alias(self, name: str, /) -> None:
        """Take an alias away; nothing happens where there is none."""
        ...

    def versions(self) -> Sequence[Trained]:
        """Return all versions."""
        ...

    def load(self, version: str, /) -> Model:
        """Return a version's model, its files checked."""
        ...


class Requests(Protocol):
    """The requests that models were trained for (sinks/retraining.py)."""

    def note(self, request_id: str, step: str, detail: str, evidence: Mapping[str, Any], /) -> None:
        """Note what became of a request."""
        ...


class Baseline(Protocol):
    """Moves the reference of drift (serving/baseline.py)."""

    def __call__(self, model: Trained, promoted_ms: int, newest_ms: int | None, /) -> Mapping[str, Any]:
        """Take the reference for a model, and say what came of it."""
        ...
