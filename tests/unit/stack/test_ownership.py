"""Which services the stack runs: those whose address the user has not set."""

from pathlib import Path

import pytest

from config.settings import load_settings
from stack.ownership import embedded_services

ALL = {"kafka", "registry", "redis"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_with_nothing_set_all_are_embedded() -> None:
    assert embedded_services(load_settings()) == ALL


def test_addresses_of_a_running_stack_are_not_the_users(folder: Path) -> None:
    endpoints = folder / ".shopstream" / "stack" / "endpoints.json"
    endpoints.parent.mkdir(parents=True)
    endpoints.write_text('{"kafka": "127.0.0.1:1", "registry": "http://127.0.0.1:2", "redis": "redis://127.0.0.1:3"}')
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "127.0.0.1:1"
    assert embedded_services(settings) == ALL


def test_a_stack_without_kafka_leaves_the_users_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints = folder / ".shopstream" / "stack" / "endpoints.json"
    endpoints.parent.mkdir(parents=True)
    endpoints.write_text('{"registry": "http://127.0.0.1:2", "redis": "redis://127.0.0.1:3"}')
    monkeypatch.setenv("SHOPSTREAM_KAFKA__BOOTSTRAP_SERVERS", "broker:9092")
    settings = load_settings().require("kafka", "registry", "redis")
    assert settings.kafka.bootstrap_servers == "broker:9092"
    assert embedded_services(settings) == {"registry", "redis"}


def test_the_settings_file_makes_a_service_the_users(folder: Path) -> None:
    (folder / "shopstream.toml").write_text('[redis]\nurl = "redis://cache:6379/1"\n')
    assert embedded_services(load_settings()) == {"kafka", "registry"}


def test_a_flag_makes_a_service_the_users() -> None:
    overrides = {"registry": {"url": "http://registry:8081"}}
    assert embedded_services(load_settings(overrides), overrides) == {"kafka", "redis"}


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPSTREAM_REDIS__URL", "")
    assert embedded_services(load_settings()) == ALL
