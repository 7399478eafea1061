"""An erased user leaves every model: files and registered SHA-256 change as one, wherever a run is killed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from replay.erase import ModelErasure
from schemas.privacy import Pseudonyms
from sinks.erasures import REQUESTED, ErasureRow, Tombstones, note_erasures
from sinks.lake_root import lake_of
from tests.model_homes import KEY, shop
from training.artefacts import ArtefactError
from training.errors import ModelRegistryError
from training.model_erasing import erase_from_models, model_eraser
from training.models import CHAMPION, Models
from training.registering import Pending, queue, queued
from training.run import train

PSEUDONYMS = Pseudonyms(KEY.encode())
VICTIM = "u3"
LATER_MS = 2**53


def tombstones(until_ms: int = LATER_MS) -> Tombstones:
    return Tombstones(pseudonyms=PSEUDONYMS, noted_ms={PSEUDONYMS.subject(VICTIM): until_ms})


def quiet(_line: str) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, registry: Path) -> Settings:
    settings = shop(tmp_path_factory.mktemp("shop") / "home", registry)
    train(settings)
    return settings


@pytest.fixture
def settings(trained: Settings, tmp_path: Path) -> Settings:
    shutil.copytree(trained.home, tmp_path / "home")
    return trained.model_copy(update={"home": tmp_path / "home"})


@pytest.fixture
def models(settings: Settings) -> Models:
    found = Models.from_settings(settings)
    found.set_alias(CHAMPION, "1")
    return found


def names_victim(models: Models) -> bool:
    return any(f"{VICTIM}u30".encode() in path.read_bytes() for path in models.artefacts.rglob("*") if path.is_file())


def test_the_factors_of_the_user_go_and_the_model_stays(models: Models) -> None:
    before, champion = models.load("1"), models.alias(CHAMPION)
    assert champion is not None
    assert before.source.factors.users.find(VICTIM) is not None
    assert names_victim(models)
    told: list[str] = []
    assert erase_from_models(models, tombstones(), told.append) == [ModelErasure("1", 1, "written anew")]
    assert told == ["model 1: factors of 1 users erased"]
    after = models.load("1")
    assert after.source.factors.users.find(VICTIM) is None
    assert len(after.source.factors.users) == len(before.source.factors.users) - 1
    assert after.recommend("u5", {}, 10) == before.recommend("u5", {}, 10)
    assert after.recommend(VICTIM, {}, 10) == after.recommend("a stranger", {}, 10)
    renewed = models.alias(CHAMPION)
    assert renewed is not None
    assert renewed.manifest_sha256 != champion.manifest_sha256
    assert renewed.about == champion.about
    assert not champion.folder.exists()
    assert not names_victim(models)


def test_again_there_is_nobody_to_erase(models: Models) -> None:
    erase_from_models(models, tombstones(), quiet)
    version = models.versions()
    assert erase_from_models(models, tombstones(), quiet) == [ModelErasure("1", 0, "clean")]
    assert models.versions() == version


def test_a_model_of_data_from_after_the_erasure_is_left_alone(models: Models) -> None:
    read_ms = models.versions()[0].about["read_ms"]
    assert erase_from_models(models, tombstones(read_ms - 1), quiet) == [ModelErasure("1", 0, "clean")]
    assert erase_from_models(models, tombstones(read_ms), quiet) == [ModelErasure("1", 1, "written anew")]


@pytest.mark.parametrize("point", ["before the registry", "after the registry"])
def test_whatever_is_killed_the_model_can_be_loaded_and_the_next_run_finishes(
    models: Models, settings: Settings, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    replace = Models.replace_files

    def killed(self: Models, version: str, sha256: str) -> None:
        if point == "after the registry":
            replace(self, version, sha256)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Models, "replace_files", killed)
        with pytest.raises(KeyboardInterrupt):
            erase_from_models(models, tombstones(), quiet)
    assert len(models.load("1").recommend("u5", {}, 10)) == 10
    model_eraser(settings, quiet)(tombstones())
    assert not names_victim(models)
    assert models.load("1").source.factors.users.find(VICTIM) is None
    folders = [path for path in models.artefacts.iterdir() if path.is_dir() and path.name != "pending"]
    assert folders == [models.versions()[0].folder]


def test_a_queued_model_is_written_anew_and_registered_as_such(models: Models, settings: Settings) -> None:
    found = models.versions()[0]
    copied = models.artefacts / f"other.{found.manifest_sha256[:16]}"
    shutil.copytree(found.folder, copied)
    queue(models.artefacts, Pending("other", found.manifest_sha256))
    erased = erase_from_models(models, tombstones(), quiet)
    assert erased == [ModelErasure("1", 1, "written anew"), ModelErasure("queued other", 1, "written anew")]
    assert not names_victim(models)
    assert models.register(*queued(models.artefacts)[0]).version == "2"
    assert models.load("2").source.factors.users.find(VICTIM) is None


def test_a_model_that_did_not_leave_the_queue_can_still_do_so(models: Models) -> None:
    found = models.versions()[0]
    queue(models.artefacts, Pending(found.key, found.manifest_sha256))
    erase_from_models(models, tombstones(), quiet)
    assert models.register(*queued(models.artefacts)[0]).version == "1"


def test_who_is_erased_while_a_model_is_trained_is_not_in_it(settings: Settings) -> None:
    def tell(line: str) -> None:
        if line == "Fitting the ranker":
            row = ErasureRow("r", REQUESTED, PSEUDONYMS.subject(VICTIM), PSEUDONYMS.key_id, "x:1", "x", 0, 10**9, 5)
            note_erasures(lake_of(settings), [row])

    report = train(settings, tell=tell)
    model = Models.from_settings(settings).load(report.version or "")
    assert model.source.factors.users.find(VICTIM) is None
    assert model.source.factors.users.find("u5") is not None


def test_files_that_were_changed_or_are_elsewhere_are_told(models: Models) -> None:
    folder = models.versions()[0].folder
    (folder / "ranker.txt").write_text("tree")
    with pytest.raises(ArtefactError, match=r"ranker\.txt was changed"):
        erase_from_models(models, tombstones(), quiet)
    shutil.rmtree(folder)
    assert erase_from_models(models, tombstones(), quiet) == [ModelErasure("1", 0, "gone")]


def test_a_registry_that_is_down_stops_the_erasure(models: Models) -> None:
    down = Models("http://127.0.0.1:9", models.artefacts, attempts=1)
    with pytest.raises(ModelRegistryError):
        erase_from_models(down, tombstones(), quiet)


def test_where_no_model_was_ever_trained_no_registry_is_made(tmp_path: Path) -> None:
    uri: Any = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    assert erase_from_models(Models(uri, tmp_path / "models"), tombstones(), quiet) == ()
    assert list(tmp_path.iterdir()) == []
