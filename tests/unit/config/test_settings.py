"""Settings: precedence, origins, masks, and errors that name the key."""

import json
from pathlib import Path

import pytest

from config.errors import SettingsError
from config.settings import as_environment, load_settings, setting_origins


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def origin_of(key: str, **overrides: object) -> tuple[str, str]:
    rows = {row.key: row for row in setting_origins(load_settings(overrides), overrides)}
    return rows[key].value, rows[key].origin


def test_with_nothing_set_everything_has_a_default() -> None:
    assert origin_of("worker.group_id") == ("shopstream-features", "default")
    assert load_settings().lake_path == Path.cwd() / ".shopstream" / "lake"


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints = tmp_path / ".shopstream" / "stack" / "endpoints.json"
    endpoints.parent.mkdir(parents=True)
    endpoints.write_text(json.dumps({"kafka": "stack:1", "registry": "http://stack", "redis": "redis://stack"}))
    key = "kafka.bootstrap_servers"
    assert origin_of(key) == ("stack:1", "embedded stack")
    (tmp_path / "shopstream.toml").write_text('[kafka]\nbootstrap_servers = "file:1"\n')
    assert origin_of(key) == ("file:1", "shopstream.toml")
    monkeypatch.setenv("SHOPSTREAM_KAFKA__BOOTSTRAP_SERVERS", "variable:1")
    assert origin_of(key) == ("variable:1", "environment")
    assert origin_of(key, kafka={"bootstrap_servers": "flag:1"}) == ("flag:1", "flag")
    assert origin_of("registry.url") == ("http://stack", "embedded stack")


def test_secrets_are_masked() -> None:
    value, _ = origin_of("redis.url", redis={"url": "rediss://app:canary@host:6379/2"})
    assert value == "rediss://app:********@host:6379/2"


def test_a_child_process_gets_equal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(
        {"home": Path("/elsewhere"), "redis": {"url": "redis://:s@h"}, "worker": {"flush_rows": 7}}
    )
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"worker": {"group_id": ""}}, "worker.group_id"),
        ({"kafka": {"partitions": "many"}}, "kafka.partitions"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_an_error_names_the_key(overrides: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(overrides)


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "shopstream.toml").write_text("[kafka\n")
    with pytest.raises(SettingsError, match=r"shopstream\.toml"):
        load_settings()


def test_a_broken_endpoints_file_is_told(tmp_path: Path) -> None:
    endpoints = tmp_path / ".shopstream" / "stack" / "endpoints.json"
    endpoints.parent.mkdir(parents=True)
    endpoints.write_text("half a fi")
    with pytest.raises(SettingsError, match="stack up"):
        load_settings()


def test_a_missing_address_says_how_to_give_one() -> None:
    with pytest.raises(SettingsError, match=r"kafka and redis.*stack up"):
        load_settings().require("kafka", "redis")
