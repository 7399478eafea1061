"""The registry of models in memory; `tests/contract/test_model_registry.py` runs one suite on it and on MLflow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.models_in_service import Model
from training.artefacts import ArtefactError
from training.errors import ModelRegistryError

POPULAR = ("p1", "p2", "p3", "p4", "p5")


@dataclass(frozen=True, slots=True)
class FakeVersion:
    """A registered version."""

    version: str
    request_id: str | None = None
    from_ms: int = 0
    to_ms: int = 0
    manifest_sha256: str = "seal"


class FakeModel:
    """Recommends its own products to all whom it knows, and popular ones to others.

    Args:
        own: what it says to users whom it knows; the popular ones, if None.
        fails: called with the user's id at each question; it may raise, or take its time.
    """

    def __init__(
        self,
        own: Sequence[str] | None = None,
        popular: Sequence[str] = POPULAR,
        fails: Callable[[str], None] = lambda _user_id: None,
    ) -> None:
        self.own = tuple(popular if own is None else own)
        self.popular = tuple(popular)
        self.fails = fails
        self.asked: list[tuple[str, Mapping[str, Any], int]] = []

    def recommend(self, user_id: str, features: Mapping[str, Any], k: int, /) -> Sequence[str]:
        self.asked.append((user_id, features, k))
        self.fails(user_id)
        return (self.own if user_id else self.popular)[:k]


@dataclass
class FakeModels:
    """Versions, aliases and models, all of them public.

    Attributes:
        refused: errors by version that loading it raises.
        is_down: whether every call fails.
        reached: told before and after each effect; it may raise, as a kill would.
    """

    held: dict[str, FakeVersion] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Exception] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    is_down: bool = False
    reached: Callable[[str], None] = lambda _point: None

    def add(self, version: str, model: Model | None = None, **facts: Any) -> FakeVersion:
        """Register a version."""
        found = self.held[version] = FakeVersion(version, **facts)
        self.models[version] = FakeModel() if model is None else model
        return found

    def drop(self, version: str) -> None:
        """Remove a version, and its aliases with it, as MLflow does."""
        del self.held[version]
        self.aliases = {name: held for name, held in self.aliases.items() if held != version}

    def alias(self, name: str, /) -> FakeVersion | None:
        self._check()
        version = self.aliases.get(name)
        return None if version is None else self.held[version]

    def set_alias(self, name: str, version: str, /) -> None:
        self._check()
        self._check_known(version)
        self.reached(f"before {name} is {version}")
        self.aliases[name] = version
        self.reached(f"after {name} is {version}")

    def remove_alias(self, name: str, /) -> None:
        self._check()
        self.reached(f"before {name} is removed")
        self.aliases.pop(name, None)
        self.reached(f"after {name} is removed")

    def versions(self) -> list[FakeVersion]:
        self._check()
        return list(self.held.values())

    def load(self, version: str, /) -> Model:
        self._check()
        self._check_known(version)
        self.loads.append(version)
        if version in self.refused:
            raise self.refused[version]
        return self.models[version]

    def tamper(self, version: str) -> None:
        """Have the files of a version refused from now on."""
        self.refused[version] = ArtefactError(f"The model file {version}/ranker.txt was changed.")

    def _check_known(self, version: str) -> None:
        if version not in self.held:
            raise ModelRegistryError(f"There is no model {version}.")

    def _check(self) -> None:
        if self.is_down:
            raise ConnectionError("the registry is down")
