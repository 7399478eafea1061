"""Model files that are not those that were registered are refused by name."""

from pathlib import Path

import pytest

from training.artefacts import MANIFEST, ArtefactError, checked_files, seal


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Path, str]:
    (tmp_path / "ids.json").write_bytes(b'["a"]')
    (tmp_path / "ranker.txt").write_bytes(b"tree")
    return tmp_path, seal(tmp_path, {"version": "7"})


def test_what_was_sealed_comes_back(sealed: tuple[Path, str]) -> None:
    manifest, files = checked_files(*sealed)
    assert manifest["version"] == "7"
    assert files == {"ids.json": b'["a"]', "ranker.txt": b"tree"}


@pytest.mark.parametrize("name", ["ids.json", "ranker.txt", MANIFEST])
def test_a_changed_file_is_refused_by_name(sealed: tuple[Path, str], name: str) -> None:
    path = sealed[0] / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(ArtefactError, match=name):
        checked_files(*sealed)


@pytest.mark.parametrize("name", ["ids.json", MANIFEST])
def test_a_missing_file_is_refused_by_name(sealed: tuple[Path, str], name: str) -> None:
    (sealed[0] / name).unlink()
    with pytest.raises(ArtefactError, match=f"{name} cannot be read"):
        checked_files(*sealed)


def test_a_file_that_nobody_registered_is_refused(sealed: tuple[Path, str]) -> None:
    (sealed[0] / "model.pkl").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"model.pkl is not in the manifest"):
        checked_files(*sealed)
