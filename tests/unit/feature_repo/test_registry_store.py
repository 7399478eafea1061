"""Feast's registry in SQLite."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feature_repo import load_feast
from feature_repo.errors import RegistryConflictError, RegistryError

load_feast()


def open_registry(path: Path) -> Any:
    from feature_repo.registry_store import SqliteRegistryStore

    return SqliteRegistryStore(SimpleNamespace(path=str(path)), None)


def project(name: str) -> Any:
    from feast import Project

    return Project(name=name).to_proto()


def test_what_is_written_is_read_by_another(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "registry.db"
    writer = open_registry(path)
    registry = writer.get_registry_proto()
    assert len(registry.projects) == 0
    registry.projects.append(project("shop"))
    writer.update_registry_proto(registry)
    writer.update_registry_proto(registry)
    assert [found.spec.name for found in open_registry(path).get_registry_proto().projects] == ["shop"]


def test_reading_makes_no_file(tmp_path: Path) -> None:
    open_registry(tmp_path / "registry.db").get_registry_proto()
    assert list(tmp_path.iterdir()) == []


def test_an_old_copy_does_not_overwrite_a_newer_one(tmp_path: Path) -> None:
    first, second = open_registry(tmp_path / "r.db"), open_registry(tmp_path / "r.db")
    mine, theirs = first.get_registry_proto(), second.get_registry_proto()
    theirs.projects.append(project("theirs"))
    second.update_registry_proto(theirs)
    mine.projects.append(project("mine"))
    with pytest.raises(RegistryConflictError, match="Apply again"):
        first.update_registry_proto(mine)
    again = first.get_registry_proto()
    again.projects.append(project("mine"))
    first.update_registry_proto(again)
    assert [found.spec.name for found in second.get_registry_proto().projects] == ["theirs", "mine"]


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(RegistryError, match="delete it and apply"):
        open_registry(path).get_registry_proto()


def test_a_file_that_was_only_made_is_an_empty_registry(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "registry.db").close()
    (tmp_path / "registry.db").touch()
    assert len(open_registry(tmp_path / "registry.db").get_registry_proto().projects) == 0


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    registry = open_registry(tmp_path / "file" / "registry.db")
    with pytest.raises(RegistryError, match="cannot be made"):
        registry.update_registry_proto(registry.get_registry_proto())


def test_teardown_removes_the_file(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "r.db")
    registry.update_registry_proto(registry.get_registry_proto())
    registry.teardown()
    registry.teardown()
    assert list(tmp_path.iterdir()) == []
