"""The models that answer at present: loaded, checked, and looked after by a thread.

Aliases of the registry say which version has which role. Every few seconds the thread asks for them, and loads what is
new beside what answers; also a version whose files an erasure has written anew. One that cannot be loaded (its files
were tampered with, a library is missing) takes nobody's place: the champion before it goes on, a canary is told as
refused, so that its failures count.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from features.catalog import FEATURES
from features.finalize import finalize
from serving.errors import ModelRefusedError
from serving.reader import FeatureValue

logger = logging.getLogger(__name__)

CHAMPION: Final = "champion"
CANARY: Final = "canary"
CHALLENGER: Final = "challenger"
FORMER: Final = "former"

K_MAX: Final = 100
NOBODY: Final = ""  # no event can have this user id
_FALLBACK_TRIES: Final = 3

Features: TypeAlias = Mapping[str, FeatureValue]


class Model(Protocol):
    """What recommends (training/recommending.py)."""

    def recommend(self, user_id: str, features: Features, k: int, /) -> Sequence[str]:
        """Return at most `k` products, best first; to a user that it does not know, popular ones.

        Args:
            user_id: as stores hold it.
        """
        ...


class Registered(Protocol):
    """A version in the registry."""

    @property
    def version(self) -> str:
        """Its number."""
        ...

    @property
    def manifest_sha256(self) -> str:
        """What seals its files; another one once an erasure has written them anew."""
        ...


class ModelSource(Protocol):
    """Where models are registered (training/models.py)."""

    def alias(self, name: str, /) -> Registered | None:
        """Return the version that has an alias."""
        ...

    def versions(self) -> Sequence[Registered]:
        """Return all versions."""
        ...

    def load(self, version: str, /) -> Model:
        """Return a version's model, its files checked; raises whatever is wrong with them."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can answer.

    Attributes:
        popular: what it recommends to somebody whom it does not know.
        manifest_sha256: of the files that it was loaded from; empty if nobody asked.
    """

    version: str
    model: Model
    popular: tuple[str, ...]
    manifest_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A version that has a role and cannot answer.

    Attributes:
        why: kind of the error.
    """

    version: str
    why: str


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers.

    Attributes:
        champion: None where there is none, or none that could ever be loaded.
        canary: None where there is none.
        fallback: whose popular products are shown while there is no champion.
    """

    champion: Loaded | None = None
    canary: Loaded | Refused | None = None
    fallback: Loaded | None = None


class ModelsInService:
    """Keeps the models of the present roles. Threads may share it; close it at the end.

    Args:
        source: the registry; used by one thread at a time.
        interval_s: time between two looks.
    """

    def __init__(self, source: ModelSource, *, interval_s: float) -> None:
        self._source = source
        self._interval_s = interval_s
        self._service = Service()
        self._refused: dict[str, str] = {}
        self._told = ""
        self._looking = threading.Lock()
        self._is_closing = threading.Event()
        self.look()
        self._thread = threading.Thread(target=self._run, name="models-in-service", daemon=True)
        self._thread.start()

    @property
    def now(self) -> Service:
        """Who answers; all of one look."""
        return self._service

    @property
    def problem(self) -> str:
        """What is wrong with the registry, in words; empty if it could be asked at the last look."""
        return self._told

    def look(self) -> Service:
        """Ask for the aliases now, and load what is new; blocking. A registry that fails changes nothing."""
        with self._looking:
            try:
                champion, canary = self._source.alias(CHAMPION), self._source.alias(CANARY)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the registry, the models here go on
                self._tell(f"the registry of models cannot be asked ({type(error).__name__}: {error})")
                return self._service
            self._tell("")
            self._service = self._next(champion, canary)
            return self._service

    def close(self) -> None:
        """Stop looking. Again is harmless."""
        self._is_closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closing.wait(self._interval_s):
            self.look()

    def _next(self, champion: Registered | None, canary: Registered | None) -> Service:
        before = self._service
        in_charge: Loaded | None = None
        if champion is not None:
            in_charge = self._loaded(champion) or before.champion
        on_trial: Loaded | Refused | None = None
        if canary is not None and in_charge is not None and canary.version != in_charge.version:
            on_trial = self._loaded(canary) or Refused(canary.version, self._refused[canary.version])
        fallback = None if in_charge is not None else before.fallback or before.champion or self._any_model()
        return Service(in_charge, on_trial, fallback)

    def _loaded(self, registered: Registered) -> Loaded | None:
        """Return a version, loaded before or now; None, and its reason kept, if it cannot be."""
        version, seal = registered.version, registered.manifest_sha256
        before = self._service
        for held in (before.champion, before.canary, before.fallback):
            if isinstance(held, Loaded) and (held.version, held.manifest_sha256) == (version, seal):
                return held
        try:
            found = replace(loaded(self._source.load, version), manifest_sha256=seal)
        except Exception as error:  # noqa: BLE001 - files and libraries of a model fail in their own ways
            why = type(error).__name__
            if self._refused.get(version) != why:
                logger.warning("model %s is refused; another one answers for it (%s: %s)", version, why, error)
            self._refused[version] = why
            return None
        self._refused.pop(version, None)
        return found

    def _any_model(self) -> Loaded | None:
        candidates = {found.version: found for found in self._candidates()}
        return next((found for each in candidates.values() if (found := self._loaded(each)) is not None), None)

    def _candidates(self) -> Iterator[Registered]:
        try:
            named = [self._source.alias(name) for name in (FORMER, CANARY, CHALLENGER)]
            others = sorted(self._source.versions(), key=_age)
        except Exception as error:  # noqa: BLE001 - as in `look`
            self._tell(f"the registry of models cannot be asked ({type(error).__name__}: {error})")
            return
        yield from [found for found in named if found is not None]
        yield from others[:_FALLBACK_TRIES]

    def _tell(self, problem: str) -> None:
        if problem and problem != self._told:
            logger.warning("%s; the models that are loaded go on", problem)
        self._told = problem


def loaded(load: Callable[[str], Model], version: str) -> Loaded:
    """Load a version, and have it answer once, to somebody whom nobody knows.

    Raises:
        ModelRefusedError: it has nothing for such a user, or fails.
        Exception: whatever is wrong with its files or the registry.
    """
    model = load(version)
    values = finalize({}, None)
    features = {feature.name: values[feature.name] for feature in FEATURES}
    try:
        popular = tuple(dict.fromkeys(model.recommend(NOBODY, features, K_MAX)))
    except Exception as error:
        raise ModelRefusedError(
            f"Model {version} fails to answer to a user whom it does not know: {type(error).__name__}: {error}.",
            hint="Train another one: `shopstream train run`.",
        ) from error
    if not popular:
        raise ModelRefusedError(
            f"Model {version} has no product for a user whom it does not know.",
            hint="It was trained on too little; train another one: `shopstream train run`.",
        )
    return Loaded(version, model, popular)


def _age(found: Registered) -> tuple[int, str]:
    """Order versions, newest first where they are numbers."""
    return (-int(found.version) if found.version.isdigit() else 0, found.version)
