"""Recommends products: the champion to most users, a canary to a fixed share of them, popular ones where neither can.

Whatever a canary does wrong (it fails, takes too long, cannot be loaded, has nothing to say) is answered for by the
champion, and is counted against the canary. A champion that fails is answered for by what it says to somebody whom it
does not know. What is wrong with a model never reaches a user.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

import mmh3
from prometheus_client import CollectorRegistry, Counter, Histogram

from config.errors import ShopstreamError
from config.metrics import SERVING_METRICS
from config.settings import Settings
from serving.bounded_call import BoundedCaller
from serving.errors import NoModelError, RecommendationError
from serving.models_in_service import CANARY, CHAMPION, K_MAX, Features, Loaded, ModelsInService, Refused
from serving.reader import FeatureReader, now_ms
from serving.recommendation_log import Answer, RecommendationLog, recommendation_id, stored_id_of

if TYPE_CHECKING:
    from serving.reader import UserFeatures

logger = logging.getLogger(__name__)

FALLBACK: Final = "fallback"
_SPEC: Final = {spec.name: spec for spec in SERVING_METRICS}


@dataclass(frozen=True, slots=True)
class Recommendations:
    """An answer.

    Attributes:
        product_ids: best first, each once.
        recommendation_id: what a click on one of them is to carry.
        model: version that answered.
        role: `champion`, `canary`, or `fallback` where another one answered than was to.
        seconds: how long it took, features included.
    """

    product_ids: tuple[str, ...]
    recommendation_id: str
    model: str
    role: str
    seconds: float


class FeatureSource(Protocol):
    """Reads features (serving/reader.py)."""

    def read(
        self, user_ids: Sequence[str], as_of_ms: int | None = None, *, model: str | None = None
    ) -> "Sequence[UserFeatures]":
        """Return the features of users, in their order."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class AnswerSink(Protocol):
    """Keeps answers (serving/recommendation_log.py)."""

    def offer(self, answers: Sequence[Answer], /) -> None:
        """Take the answers of one question; returns at once, and never raises."""
        ...

    def close(self) -> None:
        """Write what is kept."""
        ...


@dataclass(frozen=True, slots=True)
class _Question:
    user_id: str
    k: int
    as_of_ms: int
    asked_ms: int
    features: Features | None = None


def is_in_share(user_id: str, version: str, share: float) -> bool:
    """Say whether a user gets this canary: by a hash of the two, so that everybody decides alike, always.

    The version is the seed, so that it is not the same users who try every canary.

    Args:
        user_id: as stores hold it.
        share: of all users, 0 to 1.
    """
    return float(mmh3.hash(user_id, mmh3.hash(version, signed=False), signed=False)) < share * 2**32


class Recommender:
    """Answers who should be shown what. Not for several threads at once: give each its own. Close it at the end.

    Args:
        features: gives the features of a user; closed with this.
        models: gives the models; closed with this.
        log: keeps every answer; closed with this.
        canary_share: of the users, who get a canary while there is one.
        canary_timeout_s: how long a canary may take.
        stored_id: makes of a user's id the one that stores and models know.
        registry: where the metrics of `config.metrics.SERVING_METRICS` are collected.
    """

    def __init__(
        self,
        features: FeatureSource,
        models: ModelsInService,
        log: AnswerSink,
        *,
        canary_share: float,
        canary_timeout_s: float,
        stored_id: Callable[[str], str] = str,
        clock_ms: Callable[[], int] = now_ms,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._features = features
        self._models = models
        self._log = log
        self._share = canary_share
        self._timeout_s = canary_timeout_s
        self._stored_id = stored_id
        self._clock_ms = clock_ms
        self._canaries = BoundedCaller("canary")
        collected = registry or CollectorRegistry()
        seconds, failures = _SPEC["shopstream_recommend_seconds"], _SPEC["shopstream_model_failures"]
        self._seconds = Histogram(
            seconds.name, seconds.description, seconds.labels, buckets=seconds.buckets, registry=collected
        )
        self._failures = Counter(failures.name, failures.description, failures.labels, registry=collected)

    @classmethod
    def from_settings(cls, settings: Settings, registry: CollectorRegistry | None = None) -> Self:
        """Open one on the stores, the lake and the registry of models of the settings.

        Raises:
            SettingsError: no Redis is set.
            NotAppliedError: the definitions were never applied.
        """
        from training.models import Models

        features = FeatureReader.from_settings(settings)
        models = ModelsInService(Models.from_settings(settings), interval_s=settings.rollout.reload_interval_ms / 1000)
        return cls(
            features,
            models,
            RecommendationLog.from_settings(settings, registry),
            canary_share=settings.rollout.canary_share,
            canary_timeout_s=settings.rollout.canary_timeout_ms / 1000,
            stored_id=stored_id_of(settings),
            registry=registry,
        )

    def recommend(self, user_id: str, k: int = 10, as_of_ms: int | None = None) -> Recommendations:
        """Recommend `k` products to a user, or as many as there are; popular ones to a user who is not known.

        Args:
            user_id: as events carry it.
            k: 1 to `K_MAX`.
            as_of_ms: the instant to answer for, integer milliseconds UTC; now, if None.

        Raises:
            RecommendationError: the user's id is empty, or `k` is out of range.
            NoModelError: no model serves yet, and none is known whose popular products could be shown.
        """
        began = time.perf_counter()
        if not user_id or not 1 <= k <= K_MAX:
            raise RecommendationError(
                f"{k} products for the user {user_id!r} cannot be recommended.",
                hint=f"Give a user's id, and a number of products from 1 to {K_MAX}.",
            )
        service = self._models.now
        asked_ms, stored_id = self._clock_ms(), self._stored_id(user_id)
        question = _Question(stored_id, k, asked_ms if as_of_ms is None else as_of_ms, asked_ms)
        if service.champion is None:
            return self._answered([self._without_champion(service.fallback, question)], began)
        canary = service.canary
        if canary is not None and not is_in_share(stored_id, canary.version, self._share):
            canary = None
        version = service.champion.version if canary is None else canary.version
        question = replace(question, features=self._read(user_id, as_of_ms, version))
        failed: list[Answer] = []
        if canary is not None and question.features is not None:
            tried = self._by_canary(canary, question)
            if tried.error is None:
                return self._answered([tried], began)
            failed = [tried]
        role = FALLBACK if failed else CHAMPION
        return self._answered([*failed, self._by_champion(service.champion, question, role)], began)

    def close(self) -> None:
        """Stop, and write what is kept. Again is harmless."""
        self._models.close()
        self._canaries.close()
        self._log.close()
        self._features.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, user_id: str, as_of_ms: int | None, version: str) -> Features | None:
        """Return the features of a user; None where they cannot be read, which is no fault of a model."""
        try:
            return self._features.read([user_id], as_of_ms, model=version)[0].values
        except ShopstreamError as error:
            logger.warning("features cannot be read, popular products are recommended: %s", type(error).__name__)
            return None

    def _by_canary(self, canary: Loaded | Refused, question: _Question) -> Answer:
        """Return the canary's answer; if it failed, one without products that says why."""
        if isinstance(canary, Refused):
            return self._failed(canary.version, question, 0.0, "refused", canary.why)
        began = time.perf_counter()
        try:
            products = self._canaries.call(lambda: _asked(canary, question), self._timeout_s)
        except TimeoutError:
            why = f"no answer within {self._timeout_s:g} s"
            return self._failed(canary.version, question, time.perf_counter() - began, "timeout", why)
        except Exception as error:  # noqa: BLE001 - whatever a model raises must not reach a user
            logger.warning("canary %s failed: %s", canary.version, type(error).__name__)
            return self._failed(canary.version, question, time.perf_counter() - began, "error", type(error).__name__)
        return _answer(canary.version, CANARY, products, question, time.perf_counter() - began)

    def _by_champion(self, champion: Loaded, question: _Question, role: str) -> Answer:
        popular = champion.popular[: question.k]
        if question.features is None:
            self._failures.labels(CHAMPION, "features").inc()
            return _answer(champion.version, FALLBACK, popular, question, 0.0, "no features")
        began = time.perf_counter()
        try:
            products = _asked(champion, question)
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("champion %s failed: %s", champion.version, type(error).__name__)
            self._failures.labels(CHAMPION, "error").inc()
            seconds, why = time.perf_counter() - began, type(error).__name__
            return _answer(champion.version, FALLBACK, popular, question, seconds, why)
        return _answer(champion.version, role, products, question, time.perf_counter() - began)

    def _without_champion(self, fallback: Loaded | None, question: _Question) -> Answer:
        if fallback is None:
            problem = f" ({self._models.problem})" if self._models.problem else ""
            raise NoModelError(
                f"There is no champion yet, and no model whose popular products could be recommended{problem}.",
                hint="Train one: `shopstream train run`; `shopstream models guard` then puts it in charge.",
            )
        return _answer(fallback.version, FALLBACK, fallback.popular[: question.k], question, 0.0, "no champion")

    def _failed(self, version: str, question: _Question, seconds: float, cause: str, why: str) -> Answer:
        self._failures.labels(CANARY, cause).inc()
        return _answer(version, CANARY, (), question, seconds, why)

    def _answered(self, answers: Sequence[Answer], began: float) -> Recommendations:
        given, seconds = answers[-1], time.perf_counter() - began
        self._seconds.labels(given.role).observe(seconds)
        self._log.offer(answers)
        return Recommendations(given.product_ids, given.recommendation_id, given.model, given.role, seconds)


def _asked(chosen: Loaded, question: _Question) -> tuple[str, ...]:
    """Return what a model says, each product once, filled up with popular ones.

    Raises:
        RecommendationError: it says nothing.
        Exception: whatever the model raises.
    """
    features = question.features or {}
    said = dict.fromkeys(chosen.model.recommend(question.user_id, features, question.k))
    if not said:
        raise RecommendationError(f"Model {chosen.version} has no product for a user.")
    return tuple(dict.fromkeys([*said, *chosen.popular]))[: question.k]


def _answer(
    version: str, role: str, products: Sequence[str], question: _Question, seconds: float, error: str | None = None
) -> Answer:
    return Answer(
        recommendation_id=recommendation_id(version),
        user_id=question.user_id,
        model=version,
        role=role,
        product_ids=tuple(products),
        as_of_ms=question.as_of_ms,
        seconds=seconds,
        error=error,
        served_ms=question.asked_ms,
    )
