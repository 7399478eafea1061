"""What is known of registered models: roles, figures, how they got where they are, and how the canary stands."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from serving.errors import RolloutError
from serving.models_in_service import CANARY, CHALLENGER, CHAMPION, FORMER
from serving.rollout_ports import Registry, Trained
from training.model_log import ModelLog, ModelStep

ROLES: Final = (CHAMPION, CANARY, CHALLENGER, FORMER)
NDCG: Final = "ndcg_at_10"


class Registered(Trained, Protocol):
    """A version, and what was measured of it (training/models.py)."""

    @property
    def created_ms(self) -> int:
        """When it was registered, integer milliseconds UTC."""
        ...

    @property
    def figures(self) -> Mapping[str, Any]:
        """What was measured on the hold-out; JSON."""
        ...

    @property
    def verdict(self) -> Mapping[str, Any]:
        """`is_accepted`, and the `reasons` in words."""
        ...

    def document(self) -> dict[str, Any]:
        """Return all that is known of it; JSON."""
        ...


class Registrations(Protocol):
    """The registry, for who looks at it."""

    def alias(self, name: str, /) -> Trained | None:
        """Return the version that has an alias."""
        ...

    def versions(self) -> Sequence[Registered]:
        """Return all versions."""
        ...


def roles_of(registry: Registrations | Registry) -> dict[str, list[str]]:
    """Return the roles of each version that has one.

    Raises:
        ShopstreamError: the registry does not answer.
    """
    found: dict[str, list[str]] = {}
    for role in ROLES:
        held = registry.alias(role)
        if held is not None:
            found.setdefault(held.version, []).append(role)
    return found


def overview(registry: Registrations, log: ModelLog) -> list[dict[str, Any]]:
    """Return a row for each version, newest first, as JSON has it.

    Raises:
        ShopstreamError: the registry or the lake does not answer.
    """
    roles, newest = roles_of(registry), log.newest()
    return [
        {
            "version": found.version,
            "roles": roles.get(found.version, []),
            "step": _step(newest.get(found.version)),
            "created_ms": found.created_ms,
            "from_ms": found.from_ms,
            "to_ms": found.to_ms,
            "request_id": found.request_id,
            "is_accepted": found.verdict["is_accepted"],
            NDCG: found.figures["systems"][CHALLENGER][NDCG],
            "gain": {"rival": found.figures["rival"], **found.figures["gains"][found.figures["rival"]]},
        }
        for found in reversed(registry.versions())
    ]


def details(registry: Registrations, log: ModelLog, version: str) -> dict[str, Any]:
    """Return all that is known of a version, as JSON has it.

    Raises:
        RolloutError: there is no such version.
        ShopstreamError: the registry or the lake does not answer.
    """
    known = registry.versions()
    for found in known:
        if found.version == version:
            return {
                **found.document(),
                "roles": roles_of(registry).get(version, []),
                "steps": [step.document() for step in log.steps(version)],
            }
    raise unknown(version, known)


def unknown(version: str, known: Sequence[Trained]) -> RolloutError:
    """Return the error that there is no such version."""
    names = ", ".join(found.version for found in known) or "none"
    return RolloutError(f"There is no model {version}.", hint=f"Registered are: {names}.")


def _step(step: ModelStep | None) -> dict[str, Any] | None:
    return None if step is None else {name: value for name, value in step.document().items() if name != "evidence"}
