"""Who is recommended what: champion, canary, fallback. Whatever a model does, the user gets an answer."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from feature_repo.errors import OnlineStoreError
from serving.errors import NoModelError, RecommendationError
from serving.models_in_service import CANARY, CHAMPION, K_MAX, ModelsInService
from serving.reader import UserFeatures
from serving.recommendation_log import Answer
from serving.recommender import FALLBACK, Recommender, is_in_share
from tests.fakes.models import POPULAR, FakeModel, FakeModels

NOW_MS = 1_700_000_000_000
LONG_S = 30.0
OWN = ("c1", "c2", "c3")
BETTER = ("n1", "n2", "n3")


class Features:
    """Features of anybody."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None, str | None]] = []
        self.is_down = False

    def read(self, user_ids: Sequence[str], as_of_ms: int | None = None, *, model: str | None = None) -> list[Any]:
        self.asked += [(user_id, as_of_ms, model) for user_id in user_ids]
        if self.is_down:
            raise OnlineStoreError("Redis does not answer.")
        return [
            UserFeatures(user_id, {"page_view_count_5m": 1}, as_of_ms, clamped=False, views={}) for user_id in user_ids
        ]

    def close(self) -> None:
        """Nothing is open."""


class Log:
    """Answers, in order."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def offer(self, answers: Sequence[Answer], /) -> None:
        self.answers += answers

    def close(self) -> None:
        """Nothing is open."""


class Shop:
    """A recommender with everything around it."""

    def __init__(self, closing: ExitStack) -> None:
        self.features, self.log, self.registry = Features(), Log(), FakeModels()
        self.metrics = CollectorRegistry()
        self._closing = closing

    def champion(self, model: FakeModel | None = None) -> None:
        self.registry.add("1", model or FakeModel(OWN))
        self.registry.set_alias(CHAMPION, "1")

    def canary(self, model: FakeModel) -> None:
        self.registry.add("2", model)
        self.registry.set_alias(CANARY, "2")

    def recommender(self, *, share: float = 1.0, timeout_s: float = LONG_S, **more: Any) -> Recommender:
        models = ModelsInService(self.registry, interval_s=3_600.0)
        opened = Recommender(
            self.features,
            models,
            self.log,
            canary_share=share,
            canary_timeout_s=timeout_s,
            clock_ms=lambda: NOW_MS,
            registry=self.metrics,
            **more,
        )
        self._closing.callback(opened.close)
        return opened

    def failures(self, role: str, cause: str) -> float | None:
        return self.metrics.get_sample_value("shopstream_model_failures_total", {"role": role, "cause": cause})


@pytest.fixture
def shop() -> Iterator[Shop]:
    with ExitStack() as closing:
        yield Shop(closing)


def test_the_champion_answers_and_the_answer_is_kept(shop: Shop) -> None:
    shop.champion()
    given = shop.recommender().recommend("u1", 2, as_of_ms=NOW_MS - 9)
    assert (given.product_ids, given.model, given.role) == (("c1", "c2"), "1", CHAMPION)
    (answer,) = shop.log.answers
    assert answer.recommendation_id == given.recommendation_id
    assert (answer.user_id, answer.model, answer.role, answer.product_ids) == ("u1", "1", CHAMPION, ("c1", "c2"))
    assert (answer.as_of_ms, answer.served_ms, answer.error) == (NOW_MS - 9, NOW_MS, None)
    assert 0 < answer.seconds < given.seconds
    assert shop.features.asked == [("u1", NOW_MS - 9, "1")]


def test_each_product_is_named_once_and_popular_ones_fill_up(shop: Shop) -> None:
    shop.champion(FakeModel(("c1", "p2", "c1")))
    assert shop.recommender().recommend("u1", 5).product_ids == ("c1", "p2", "p1", "p3", "p4")


def test_ids_are_new_each_time_and_short_enough_for_an_event(shop: Shop) -> None:
    shop.champion()
    recommender = shop.recommender()
    ids = {recommender.recommend("u1").recommendation_id for _ in range(50)}
    assert len(ids) == 50
    assert max(map(len, ids)) <= 64


def test_stores_and_models_know_a_user_by_its_stored_id_and_the_reader_makes_it_itself(shop: Shop) -> None:
    model = FakeModel(OWN)
    shop.champion(model)
    shop.recommender(stored_id=lambda user_id: f"pseudonym of {user_id}").recommend("u1")
    assert model.asked[-1][0] == shop.log.answers[0].user_id == "pseudonym of u1"
    assert shop.features.asked[0][0] == "u1"


def test_a_canary_answers_to_its_users_and_to_nobody_else(shop: Shop) -> None:
    shop.champion()
    shop.canary(FakeModel(BETTER))
    recommender = shop.recommender(share=0.3)
    for n in range(200):
        given = recommender.recommend(f"u{n}")
        assert (given.role == CANARY) == is_in_share(f"u{n}", "2", 0.3)
        assert (given.model, given.product_ids[0]) == (("2", "n1") if given.role == CANARY else ("1", "c1"))
    assert {answer.role for answer in shop.log.answers} == {CANARY, CHAMPION}


def test_the_share_is_stable_exact_enough_and_another_one_for_each_version() -> None:
    users = [f"u{n}" for n in range(20_000)]
    of_two = [user for user in users if is_in_share(user, "2", 0.1)]
    of_three = {user for user in users if is_in_share(user, "3", 0.1)}
    assert abs(len(of_two) - 2_000) < 5 * 1_800**0.5
    assert of_two == [user for user in users if is_in_share(user, "2", 0.1)]
    assert set(of_two) < {user for user in users if is_in_share(user, "2", 0.2)}
    assert abs(len(of_three & set(of_two)) - 200) < 5 * 200**0.5
    assert all(is_in_share(user, "2", 1.0) for user in users)


def refuses(_user_id: str) -> None:
    raise ValueError("a secret of the user")


@pytest.mark.parametrize(
    ("model", "cause", "error"),
    [
        (FakeModel(BETTER, fails=lambda user_id: refuses(user_id) if user_id else None), "error", "ValueError"),
        (FakeModel(()), "error", "RecommendationError"),
    ],
)
def test_a_canary_that_fails_is_answered_for_by_the_champion_and_it_counts(
    shop: Shop, model: FakeModel, cause: str, error: str
) -> None:
    shop.champion()
    shop.canary(model)
    given = shop.recommender().recommend("u1")
    assert (given.product_ids[:3], given.model, given.role) == (OWN, "1", FALLBACK)
    failed, answered = shop.log.answers
    assert (failed.model, failed.role, failed.product_ids, failed.error) == ("2", CANARY, (), error)
    assert (answered.model, answered.role, answered.error) == ("1", FALLBACK, None)
    assert answered.recommendation_id == given.recommendation_id != failed.recommendation_id
    assert shop.failures(CANARY, cause) == 1.0


def test_a_canary_that_takes_too_long_is_not_waited_for(shop: Shop) -> None:
    may_end = threading.Event()
    shop.champion()
    shop.canary(FakeModel(BETTER, fails=lambda user_id: (may_end.wait(LONG_S) if user_id else None, None)[1]))
    recommender = shop.recommender(timeout_s=0.05)
    for user_id in ("u1", "u2"):
        assert recommender.recommend(user_id).product_ids[:3] == OWN
    may_end.set()
    tries = [answer for answer in shop.log.answers if answer.role == CANARY]
    assert [answer.error for answer in tries] == ["no answer within 0.05 s"] * 2
    assert all(answer.seconds >= 0.05 for answer in tries)
    assert shop.failures(CANARY, "timeout") == 2.0
    given = [answer for answer in shop.log.answers if answer.role == FALLBACK]
    assert all(answer.seconds < 0.05 for answer in given), "the canary's time is not the champion's"


def test_a_canary_that_was_tampered_with_is_refused_and_it_counts(shop: Shop) -> None:
    shop.champion()
    shop.canary(FakeModel(BETTER))
    shop.registry.tamper("2")
    given = shop.recommender().recommend("u1")
    assert (given.product_ids[:3], given.role) == (OWN, FALLBACK)
    assert (shop.log.answers[0].model, shop.log.answers[0].error) == ("2", "ArtefactError")
    assert shop.failures(CANARY, "refused") == 1.0


def test_a_champion_that_fails_says_what_is_popular(shop: Shop) -> None:
    shop.champion(FakeModel(OWN, fails=lambda user_id: refuses(user_id) if user_id else None))
    given = shop.recommender().recommend("u1", 3)
    assert (given.product_ids, given.model, given.role) == (POPULAR[:3], "1", FALLBACK)
    assert [answer.error for answer in shop.log.answers] == ["ValueError"]
    assert shop.failures(CHAMPION, "error") == 1.0


def test_without_features_popular_products_are_shown_and_no_canary_is_blamed(shop: Shop) -> None:
    shop.champion()
    shop.canary(FakeModel(BETTER))
    shop.features.is_down = True
    given = shop.recommender().recommend("u1", 3)
    assert (given.product_ids, given.model, given.role) == (POPULAR[:3], "1", FALLBACK)
    assert [answer.error for answer in shop.log.answers] == ["no features"]
    assert shop.failures(CHAMPION, "features") == 1.0


def test_without_a_champion_popular_products_of_any_model_are_shown(shop: Shop) -> None:
    shop.registry.add("1", FakeModel(OWN, popular=("q1", "q2")))
    given = shop.recommender().recommend("u1", 3)
    assert (given.product_ids, given.model, given.role) == (("q1", "q2"), "1", FALLBACK)
    assert [answer.error for answer in shop.log.answers] == ["no champion"]
    assert shop.features.asked == []


def test_without_any_model_it_says_so(shop: Shop) -> None:
    with pytest.raises(NoModelError, match="no champion yet") as raised:
        shop.recommender().recommend("u1")
    assert "train run" in str(raised.value.hint)
    assert shop.log.answers == []


def test_a_registry_that_is_down_is_named_where_nothing_was_loaded(shop: Shop) -> None:
    shop.registry.is_down = True
    with pytest.raises(NoModelError, match="the registry is down"):
        shop.recommender().recommend("u1")


@pytest.mark.parametrize(("user_id", "k"), [("", 10), ("u1", 0), ("u1", K_MAX + 1), ("u1", -1)])
def test_what_is_no_question_is_refused(shop: Shop, user_id: str, k: int) -> None:
    shop.champion()
    with pytest.raises(RecommendationError):
        shop.recommender().recommend(user_id, k)
    assert shop.log.answers == []


def test_the_time_of_reading_features_is_in_the_answer_and_not_in_the_models(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    read: Callable[..., list[Any]] = shop.features.read

    def slow(*arguments: Any, **more: Any) -> list[Any]:
        for _ in range(10):
            next(ticks)
        return read(*arguments, **more)

    monkeypatch.setattr(shop.features, "read", slow)
    shop.champion()
    given = shop.recommender().recommend("u1")
    assert shop.log.answers[0].seconds == 1.0
    assert given.seconds == 13.0


def test_the_recommender_is_found_where_the_package_is_named() -> None:
    import serving

    assert serving.Recommender is Recommender
    with pytest.raises(AttributeError, match="Recommenders"):
        _ = serving.Recommenders
