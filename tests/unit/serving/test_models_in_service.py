"""The models that answer: what is loaded, what is refused, and what stays when the registry or a file fails."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from serving.errors import ModelRefusedError
from serving.models_in_service import CANARY, CHAMPION, FORMER, Loaded, ModelsInService, Refused, loaded
from tests.fakes.models import POPULAR, FakeModel, FakeModels
from tests.waiting import wait_until

DEADLINE_S = 30.0


@pytest.fixture
def registry() -> FakeModels:
    found = FakeModels()
    for version in ("1", "2", "3"):
        found.add(version)
    return found


@pytest.fixture
def service(registry: FakeModels) -> Iterator[Callable[..., ModelsInService]]:
    with ExitStack() as closing:

        def opened(interval_s: float = 3_600.0) -> ModelsInService:
            found = ModelsInService(registry, interval_s=interval_s)
            closing.callback(found.close)
            return found

        yield opened


def versions(models: ModelsInService) -> tuple[str | None, str | None, str | None]:
    now = models.now
    champion, fallback = (None if found is None else found.version for found in (now.champion, now.fallback))
    return champion, None if now.canary is None else now.canary.version, fallback


def test_roles_are_what_the_aliases_say_and_each_model_is_loaded_once(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.set_alias(CHAMPION, "1")
    registry.set_alias(CANARY, "2")
    models = service()
    assert versions(models) == ("1", "2", None)
    assert models.now.champion is not None
    assert models.now.champion.popular == POPULAR
    models.look()
    registry.set_alias(CHAMPION, "2")
    registry.remove_alias(CANARY)
    models.look()
    assert versions(models) == ("2", None, None)
    assert registry.loads == ["1", "2"]


def test_files_that_an_erasure_has_written_anew_are_loaded(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.set_alias(CHAMPION, "1")
    models = service()
    without_the_user = FakeModel(("p9",))
    registry.add("1", without_the_user, manifest_sha256="another seal")
    models.look()
    assert models.now.champion is not None
    assert models.now.champion.model is without_the_user


def test_the_thread_sees_a_promotion(registry: FakeModels, service: Callable[..., ModelsInService]) -> None:
    registry.set_alias(CHAMPION, "1")
    models = service(0.01)
    registry.set_alias(CHAMPION, "2")
    wait_until(lambda: versions(models) == ("2", None, None), DEADLINE_S, "the promotion is not seen")


def test_a_registry_that_is_down_changes_nothing(registry: FakeModels, service: Callable[..., ModelsInService]) -> None:
    registry.set_alias(CHAMPION, "1")
    models = service()
    assert models.problem == ""
    registry.is_down = True
    models.look()
    assert versions(models) == ("1", None, None)
    assert "the registry is down" in models.problem
    registry.is_down = False
    registry.set_alias(CHAMPION, "2")
    models.look()
    assert (versions(models), models.problem) == (("2", None, None), "")


def test_a_registry_that_is_down_at_the_start_is_asked_again(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.set_alias(CHAMPION, "1")
    registry.is_down = True
    models = service()
    assert versions(models) == (None, None, None)
    registry.is_down = False
    models.look()
    assert versions(models) == ("1", None, None)


def test_a_new_champion_that_was_tampered_with_takes_nobodys_place(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.set_alias(CHAMPION, "1")
    models = service()
    registry.tamper("2")
    registry.set_alias(CHAMPION, "2")
    models.look()
    assert versions(models) == ("1", None, None)
    registry.refused.clear()  # the folder was restored
    models.look()
    assert versions(models) == ("2", None, None)


def test_a_canary_that_cannot_be_loaded_is_told_as_refused(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.set_alias(CHAMPION, "1")
    registry.set_alias(CANARY, "2")
    registry.tamper("2")
    models = service()
    assert models.now.canary == Refused("2", "ArtefactError")
    registry.refused.clear()
    assert isinstance(models.look().canary, Loaded)


def test_a_canary_without_a_champion_or_that_is_the_champion_is_none(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.set_alias(CANARY, "2")
    models = service()
    assert versions(models) == (None, None, "2")
    registry.set_alias(CHAMPION, "2")
    models.look()
    assert versions(models) == ("2", None, None)


def test_without_a_champion_the_best_known_of_the_others_is_asked_what_is_popular(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.add("10")
    registry.tamper("10")
    models = service()
    assert versions(models) == (None, None, "3"), "the newest that can be loaded"
    registry.set_alias(FORMER, "1")
    assert versions(service()) == (None, None, "1")


def test_a_champion_whose_alias_is_gone_is_still_asked_what_is_popular(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.set_alias(CHAMPION, "1")
    models = service()
    registry.remove_alias(CHAMPION)
    models.look()
    assert versions(models) == (None, None, "1")


def test_a_champion_that_was_tampered_with_before_a_start_serves_nobody(
    registry: FakeModels, service: Callable[..., ModelsInService]
) -> None:
    registry.set_alias(CHAMPION, "2")
    registry.set_alias(FORMER, "1")
    registry.tamper("2")
    assert versions(service()) == (None, None, "1")


def test_no_versions_no_service(service: Callable[..., ModelsInService], registry: FakeModels) -> None:
    registry.held.clear()
    assert versions(service()) == (None, None, None)


def fail(_user_id: str) -> None:
    raise ValueError("shape")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (FakeModel(popular=()), "no product for a user whom it does not know"),
        (FakeModel(fails=fail), "ValueError: shape"),
    ],
)
def test_a_model_that_cannot_answer_a_stranger_is_refused(registry: FakeModels, model: FakeModel, says: str) -> None:
    registry.add("4", model)
    with pytest.raises(ModelRefusedError, match=says):
        loaded(registry.load, "4")
