"""A process sees the definitions of its own version, and changes no other's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feature_repo import load_feast
from feature_repo.errors import DefinitionVersionError
from feature_repo.registry_versions import version_of
from feature_repo.retiring import check_retirable

load_feast()

from feast.protos.feast.core.Registry_pb2 import Registry  # noqa: E402

from feature_repo.registry_store import SqliteRegistryStore  # noqa: E402


def registry_of(**names: list[str]) -> Any:
    registry = Registry()
    for field, found in names.items():
        for name in found:
            if field == "data_sources":
                registry.data_sources.add(name=name, project="shop")
            else:
                getattr(registry, field).add().spec.MergeFrom(spec_of(registry, field, name))
    return registry


def spec_of(registry: Any, field: str, name: str) -> Any:
    spec = type(registry).FromString(b"")
    made = getattr(spec, field).add().spec
    made.name, made.project = name, "shop"
    return made


def names_in(registry: Any) -> set[str]:
    named = {
        each.spec.name
        for field in ("feature_views", "feature_services", "entities")
        for each in getattr(registry, field)
    }
    return named | {each.name for each in registry.data_sources}


def stored_by_another(path: Path, registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store a registry as code of version 2 would."""
    with monkeypatch.context() as patch:
        patch.setattr("feature_repo.registry_versions.DEFINITION_VERSION", 2)
        store = open_store(path)
        store.get_registry_proto()
        store.update_registry_proto(registry)


def open_store(path: Path) -> SqliteRegistryStore:
    return SqliteRegistryStore(SimpleNamespace(path=str(path)), None)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("user_clicks_v1", 1),
        ("user_clicks_v2_log", 2),
        ("user_carts_push", 1),
        ("user_carts_push_v2", 2),
        ("session_features_v11", 11),
        ("session_features_request", 1),
        ("user", None),
        ("weather_v2", None),
        ("user_clicks_v2_daily", None),
    ],
)
def test_a_name_tells_its_version_and_those_of_others_are_nobodys(name: str, version: int | None) -> None:
    assert version_of(name) == version


OF_1 = {"feature_views": ["user_clicks_v1"], "data_sources": ["user_clicks_push"], "entities": ["user"]}
OF_2 = {
    "feature_views": ["user_clicks_v2"],
    "data_sources": ["user_clicks_push_v2", "user_clicks_v2_log"],
    "feature_services": ["session_features_v2"],
    "entities": ["user"],
}


def test_two_versions_write_one_registry_and_neither_sees_or_deletes_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "registry.db"
    store = open_store(path)
    store.get_registry_proto()
    store.update_registry_proto(registry_of(**OF_1))
    stored_by_another(path, registry_of(**OF_2), monkeypatch)

    own = open_store(path)
    seen = own.get_registry_proto()
    assert names_in(seen) == {"user_clicks_v1", "user_clicks_push", "user"}
    own.update_registry_proto(registry_of(feature_views=["user_clicks_v1"], entities=["user"]))
    assert names_in(own.get_registry_proto()) == {"user_clicks_v1", "user"}
    assert own.stored_versions("shop") == [1, 2]
    assert own.stored_versions("another") == []
    with monkeypatch.context() as patch:
        patch.setattr("feature_repo.registry_versions.DEFINITION_VERSION", 2)
        found = names_in(open_store(path).get_registry_proto())
    assert found == {"user_clicks_v2", "user_clicks_push_v2", "user_clicks_v2_log", "session_features_v2", "user"}


def test_a_retired_version_is_gone_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registry.db"
    store = open_store(path)
    store.get_registry_proto()
    store.update_registry_proto(registry_of(**OF_1))
    stored_by_another(path, registry_of(**OF_2), monkeypatch)
    open_store(path).retire("another", 2)
    assert open_store(path).stored_versions("shop") == [1, 2]
    open_store(path).retire("shop", 2)
    assert open_store(path).stored_versions("shop") == [1]
    assert names_in(open_store(path).get_registry_proto()) == {"user_clicks_v1", "user_clicks_push", "user"}


def test_only_another_version_that_was_applied_can_be_retired() -> None:
    check_retirable(2, [1, 2])
    with pytest.raises(DefinitionVersionError, match="version 1 is the one of this code"):
        check_retirable(1, [1, 2])
    with pytest.raises(DefinitionVersionError, match="no definition version 3 in the Feast registry; there are 1, 2"):
        check_retirable(3, [1, 2])
