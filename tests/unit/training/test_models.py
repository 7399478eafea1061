"""The registry: versions and aliases, once each; changed files are refused; a registry that is down says so."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from training.artefacts import ArtefactError, seal
from training.errors import ModelRegistryError
from training.models import Models

ABOUT: dict[str, Any] = {
    "from_ms": 1,
    "to_ms": 9,
    "figures": {"queries": 3, "systems": {"challenger": {"hit_rate_at_10": 0.5}}},
    "verdict": {"is_accepted": True, "reasons": ["it wins"]},
    "lineage": {"request_id": "r1", "champion": None, "lake_versions": {"raw_events": 4}, "git_revision": None},
}


@pytest.fixture
def models(tmp_path: Path, registry: Path) -> Models:
    shutil.copy(registry, tmp_path / "mlflow.db")
    return Models(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "models")


def sealed(models: Models, key: str, content: bytes = b"bytes") -> str:
    partial = models.artefacts / f".{key}"
    partial.mkdir(parents=True)
    (partial / "a file").write_bytes(content)
    sha256 = seal(partial, {"about": ABOUT})
    partial.rename(models.folder(key, sha256))
    return sha256


def test_a_version_tells_what_it_was_made_of(models: Models) -> None:
    sha256 = sealed(models, "k1")
    found = models.register("k1", sha256)
    assert (found.version, found.request_id, found.from_ms, found.to_ms) == ("1", "r1", 1, 9)
    assert found.figures == ABOUT["figures"]
    assert found.verdict["reasons"] == ["it wins"]
    assert found.lineage["lake_versions"] == {"raw_events": 4}
    assert found.folder == models.folder("k1", sha256)
    assert models.versions() == [found]
    assert found.document()["version"] == "1"


def test_registering_again_gives_the_same_version(models: Models) -> None:
    sha256 = sealed(models, "k1")
    first = models.register("k1", sha256)
    second = models.register("k2", sealed(models, "k2", b"others"))
    assert models.register("k1", sha256) == first
    assert [found.version for found in models.versions()] == ["1", "2"] == [first.version, second.version]


def test_a_run_that_was_left_open_is_gone_on_with(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    sha256 = sealed(models, "k1")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for point in ("log_metric", "set_tag", "set_terminated", "create_model_version"):
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, point, killed)
            with pytest.raises(KeyboardInterrupt):
                models.register("k1", sha256)
    assert models.register("k1", sha256).version == "1"
    assert len(models.versions()) == 1


def test_an_alias_moves_from_one_version_to_another(models: Models) -> None:
    assert models.alias("champion") is None
    models.remove_alias("champion")
    one, two = (models.register(key, sealed(models, key, key.encode())) for key in ("k1", "k2"))
    models.set_alias("champion", one.version)
    models.set_alias("former", one.version)
    models.set_alias("champion", two.version)
    assert (models.alias("champion"), models.alias("former"), models.alias("canary")) == (two, one, None)
    models.remove_alias("champion")
    models.remove_alias("champion")
    assert models.alias("champion") is None


def test_another_process_sees_what_was_registered(models: Models, tmp_path: Path) -> None:
    found = models.register("k1", sealed(models, "k1"))
    models.set_alias("champion", found.version)
    other = Models(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "models")
    assert other.alias("champion") == found


def test_changed_files_are_not_registered_nor_loaded(models: Models) -> None:
    sha256 = sealed(models, "k1")
    found = models.register("k1", sha256)
    (found.folder / "a file").write_bytes(b"other")
    with pytest.raises(ArtefactError, match="a file was changed"):
        models.load(found.version)
    with pytest.raises(ArtefactError, match="a file was changed"):
        models.register("k1", sha256)


def test_a_version_that_is_not_there_is_named(models: Models) -> None:
    with pytest.raises(ModelRegistryError, match="There is no model 7"):
        models.load("7")


def test_a_server_that_does_not_answer_is_told_with_its_address(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    down = Models(f"http://someone:secret@{address}", tmp_path / "models", attempts=2)
    with pytest.raises(ModelRegistryError, match=f"http://{address} does not do") as caught:
        down.alias("champion")
    assert "secret" not in str(caught.value)
    assert "training.tracking_uri" in caught.value.hint


def test_a_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(ModelRegistryError, match="cannot be opened"):
        Models(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "models").versions()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, whatever it is called" * 50)
    with pytest.raises(ModelRegistryError, match="not a database"):
        Models(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "models").versions()
