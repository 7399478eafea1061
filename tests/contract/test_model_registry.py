"""What a rollout relies on of a registry of models: one suite on the fake and on MLflow."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.errors import ShopstreamError
from config.settings import Settings
from features.finalize import finalize
from serving.models_in_service import NOBODY, loaded
from serving.rollout_ports import Registry
from tests.fakes.models import FakeModels
from tests.trained_models import another, trained
from training.artefacts import ArtefactError
from training.models import Models


class Fake:
    """The registry in memory, with versions 1 to 3."""

    def __init__(self) -> None:
        self.registry: Registry
        self.registry = self._models = FakeModels()
        self._models.add("1", from_ms=1, to_ms=2)
        self._models.add("2", from_ms=1, to_ms=2, request_id="drift-7")
        self._models.add("3", from_ms=1, to_ms=2)

    def tamper(self, version: str) -> None:
        self._models.tamper(version)


class Mlflow:
    """MLflow in a SQLite file, with versions 1 to 3 of one model; a new client for each question."""

    def __init__(self, home: Path) -> None:
        settings = Settings(home=home)
        first = trained(settings)
        models = Models.from_settings(settings)
        another(models, first, "second", request_id="drift-7")
        another(models, first, "third")
        self.registry: Registry = Models.from_settings(settings)
        self._folders = {found.version: found.folder for found in models.versions()}

    def tamper(self, version: str) -> None:
        path = self._folders[version] / "ranker.txt"
        path.write_bytes(path.read_bytes() + b" ")


World = Fake | Mlflow


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Mlflow:
    return Mlflow(tmp_path_factory.mktemp("registry"))


@pytest.fixture(params=["fake", "mlflow"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    found: World = Fake() if request.param == "fake" else request.getfixturevalue("mlflow")
    yield found
    for name in ("champion", "canary"):
        found.registry.remove_alias(name)


def test_versions_are_told_oldest_first_with_what_they_were_made_of(world: World) -> None:
    found = world.registry.versions()
    assert [each.version for each in found] == ["1", "2", "3"]
    assert [each.request_id for each in found] == [None, "drift-7", None]
    assert all(0 < each.from_ms < each.to_ms for each in found)


def test_an_alias_is_of_one_version_until_it_is_given_to_another(world: World) -> None:
    registry = world.registry
    assert registry.alias("champion") is None
    registry.set_alias("champion", "1")
    registry.set_alias("champion", "2")
    registry.set_alias("canary", "2")
    champion, canary = registry.alias("champion"), registry.alias("canary")
    assert champion is not None
    assert champion == canary
    assert (champion.version, champion.request_id) == ("2", "drift-7")
    registry.remove_alias("champion")
    assert registry.alias("champion") is None
    assert registry.alias("canary") is not None


def test_taking_away_what_is_not_there_is_harmless(world: World) -> None:
    world.registry.remove_alias("champion")
    world.registry.remove_alias("champion")
    assert world.registry.alias("champion") is None


@pytest.mark.parametrize("version", ["99", "no number"])
def test_an_unknown_version_is_an_error_that_says_so(world: World, version: str) -> None:
    registry = world.registry
    calls: list[Callable[[], object]] = [
        lambda: registry.set_alias("champion", version),
        lambda: registry.load(version),
    ]
    for call in calls:
        with pytest.raises(ShopstreamError, match=version):
            call()
    assert registry.alias("champion") is None


def test_a_model_answers_to_somebody_whom_nobody_knows(world: World) -> None:
    found = loaded(world.registry.load, "1")
    assert 5 <= len(found.popular) == len(set(found.popular))
    assert tuple(found.model.recommend(NOBODY, finalize({}, None), 3)) == found.popular[:3]
    assert len(found.model.recommend("u1", {}, 3)) == 3


def test_files_that_were_tampered_with_are_refused(world: World) -> None:
    world.tamper("3")
    with pytest.raises(ArtefactError):
        world.registry.load("3")
    assert world.registry.load("2") is not None
