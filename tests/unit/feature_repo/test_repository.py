"""The repository's own files, and how it finds its addresses."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from config.errors import SettingsError
from config.settings import load_settings
from feature_repo import load_feast
from feature_repo.addresses import process_addresses
from feature_repo.connections import RedisConnections
from feature_repo.errors import OnlineStoreError
from feature_repo.opening import open_feature_store
from feature_repo.outcomes import record_outcomes, report_outcomes
from features.catalog import FEATURES, ON_DEMAND_VIEW, STATUS_FIELDS, VIEWS
from features.versioning import WriteOutcome

load_feast()

REPOSITORY = Path(__file__).resolve().parents[3] / "feature_repo"


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Addresses that are read anew, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    process_addresses.cache_clear()
    yield
    process_addresses.cache_clear()


def test_the_yaml_names_no_place() -> None:
    text = (REPOSITORY / "feature_store.yaml").read_text()
    without_comments = re.sub(r"#.*", "", text)
    assert not re.search(r"://|\d{2,}|localhost|connection_string|\.shopstream|/", without_comments)
    assert yaml.safe_load(text)["project"] == load_settings().feast.project


def test_feast_imports_the_definitions_and_nothing_else() -> None:
    from feast.repo_operations import get_repo_files

    assert [path.name for path in get_repo_files(REPOSITORY)] == ["definitions.py"]


def test_no_file_is_shadowed_by_a_package() -> None:
    packages = {path.parent.name for path in REPOSITORY.parent.glob("*/__init__.py")}
    assert not packages & {path.stem for path in REPOSITORY.glob("*.py")}


def test_the_definitions_derive_from_the_catalog() -> None:
    from feature_repo import definitions

    names = [feature.name for feature in definitions.session_features.features]
    outputs = [*(feature.name for feature in FEATURES), *(field.name for field in STATUS_FIELDS)]
    assert names == [*outputs, "state_status"]
    views = [definitions.user_clicks, definitions.user_carts]
    assert [view.name for view in views] == [view.view for view in VIEWS.values()]
    assert [view.stream_source.name for view in views] == [view.push_source for view in VIEWS.values()]
    assert all([feature.name for feature in view.features] == ["state"] for view in views)
    assert definitions.session_features_service.name == ON_DEMAND_VIEW


@pytest.mark.usefixtures("addresses")
def test_what_the_yaml_does_not_name_comes_from_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from feature_repo.online_store import ShopstreamOnlineStoreConfig

    monkeypatch.setenv("SHOPSTREAM_REDIS__URL", "redis://somewhere:7000/3")
    config = ShopstreamOnlineStoreConfig()
    monkeypatch.chdir("/")  # as Feast does before it opens the registry
    assert config.redis_url.get_secret_value() == "redis://somewhere:7000/3"
    assert process_addresses().registry_path == tmp_path / ".shopstream" / "feast" / "registry.db"
    named = ShopstreamOnlineStoreConfig(redis_url="redis://elsewhere:1/0", timeout_s=2)
    assert (named.redis_url.get_secret_value(), named.timeout_s) == ("redis://elsewhere:1/0", 2)


@pytest.mark.usefixtures("addresses")
def test_applying_to_another_project_than_the_settings_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from feature_repo.online_store import ShopstreamOnlineStoreConfig

    monkeypatch.setenv("SHOPSTREAM_FEAST__PROJECT", "mine")
    monkeypatch.setenv("SHOPSTREAM_REDIS__URL", "redis://somewhere:7000/3")
    config = ShopstreamOnlineStoreConfig()
    config.check_project("mine")
    with pytest.raises(OnlineStoreError, match="the settings name mine"):
        config.check_project("shopstream")


@pytest.mark.parametrize("forbidden", [{"key_ttl_seconds": 60}, {"skip_dedup": True}, {"client": "glide"}])
def test_what_would_lose_states_cannot_be_chosen(forbidden: dict[str, object]) -> None:
    from feature_repo.online_store import ShopstreamOnlineStoreConfig

    with pytest.raises(ValidationError):
        ShopstreamOnlineStoreConfig(redis_url="redis://h:1/0", timeout_s=1, **forbidden)


def test_opening_takes_everything_from_the_settings(tmp_path: Path) -> None:
    settings = load_settings(
        {"home": tmp_path, "redis": {"url": "redis://:word@h:1/0", "timeout_s": 2}, "feast": {"project": "mine"}}
    )
    store = open_feature_store(settings)
    assert (store.project, store.config.offline_store.lake) == ("mine", str(tmp_path / "lake"))
    assert store.config.registry.path == str(tmp_path / "feast" / "registry.db")
    assert store.config.online_store.redis_url.get_secret_value() == "redis://:word@h:1/0"
    assert "word" not in repr(store.config)


@pytest.mark.usefixtures("addresses")
def test_opening_without_a_redis_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOPSTREAM_REDIS__URL", raising=False)
    with pytest.raises(SettingsError, match="shopstream stack up"):
        open_feature_store(load_settings({"home": tmp_path}))


@pytest.mark.parametrize("url", ["http://h:1", "nonsense", "redis://h:port/0"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(OnlineStoreError, match=r"redis\.url cannot be used"):
        RedisConnections(url, timeout_s=1).blocking()


def test_outcomes_go_to_the_innermost_recorder_only() -> None:
    report_outcomes({"nobody listens": WriteOutcome.WRITTEN})
    with record_outcomes() as outer:
        report_outcomes({"a": WriteOutcome.WRITTEN})
        with record_outcomes() as inner:
            report_outcomes({"b": WriteOutcome.CONFLICT})
        report_outcomes({"a": WriteOutcome.ALREADY_INCLUDED})
    assert outer.by_user == {"a": WriteOutcome.ALREADY_INCLUDED}
    assert inner.counts == {WriteOutcome.CONFLICT: 1}
