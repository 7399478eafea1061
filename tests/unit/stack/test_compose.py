"""`compose.yaml` says what the settings, the locks and the embedded stack say."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from config.settings import Settings
from stack.kafka import BROKER_SETTINGS
from stack.pinning import KAFKA_VERSION, REGISTRY_VERSION
from stack.redis import SERVER_SETTINGS
from stack.registry import API_PATH, COMPATIBILITY

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def known_variables(model: type[BaseModel], prefix: str) -> set[str]:
    names = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names |= known_variables(inner, f"{prefix}{name.upper()}__")
        else:
            names.add(f"{prefix}{name.upper()}")
    return names


@pytest.mark.parametrize("service", ["schemas", "worker"])
def test_every_variable_is_a_setting(compose: dict[str, Any], service: str) -> None:
    environment = compose["services"][service]["environment"]
    ours = {name for name in environment if name.startswith("SHOPSTREAM_")}
    assert ours
    assert ours <= known_variables(Settings, "SHOPSTREAM_")


def test_the_variables_are_accepted(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in compose["services"]["worker"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.require("kafka", "registry", "redis").registry.url.endswith(API_PATH)


def test_the_broker_is_set_up_as_the_embedded_one(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    found = {key: environment.get("KAFKA_" + key.upper().replace(".", "_")) for key in BROKER_SETTINGS}
    assert found == BROKER_SETTINGS


def test_redis_is_set_up_as_the_embedded_one(compose: dict[str, Any]) -> None:
    program, *arguments = compose["services"]["redis"]["command"]
    assert program == "valkey-server"
    assert {name.removeprefix("--"): value for name, value in zip(arguments[::2], arguments[1::2], strict=True)} == (
        SERVER_SETTINGS
    )


def test_the_registry_keeps_its_schemas_and_refuses_what_breaks_readers(compose: dict[str, Any]) -> None:
    environment = compose["services"]["registry"]["environment"]
    assert environment["APICURIO_RULES_GLOBAL_COMPATIBILITY"] == COMPATIBILITY
    assert environment["APICURIO_STORAGE_KIND"] == "kafkasql"
    assert environment["APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"] == inside_address(compose)


def inside_address(compose: dict[str, Any]) -> str:
    listeners: str = compose["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    return dict(listener.split("://") for listener in listeners.split(","))["INSIDE"]


def test_the_versions_are_those_of_the_embedded_stack(compose: dict[str, Any]) -> None:
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert compose["services"]["registry"]["image"] == f"apicurio/apicurio-registry:{REGISTRY_VERSION}"


def test_every_port_is_bound_to_loopback_and_told_in_the_head(compose: dict[str, Any]) -> None:
    head = (ROOT / "compose.yaml").read_text().partition("\nname:")[0]
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 4
    for port in ports:
        host, outside, _inside = port.split(":")
        assert host == "127.0.0.1"
        assert f"127.0.0.1:{outside}" in head


def test_addresses_lead_to_services_and_their_ports(compose: dict[str, Any]) -> None:
    environment = compose["services"]["worker"]["environment"]
    assert environment["SHOPSTREAM_KAFKA__BOOTSTRAP_SERVERS"] == inside_address(compose)
    for name in ("registry", "redis"):
        variable = environment[f"SHOPSTREAM_{name.upper()}__URL"]
        host, port = re.match(r"\w+://([\w.]+):(\d+)", variable).groups()  # type: ignore[union-attr]
        assert host == name
        assert compose["services"][name]["ports"][0].endswith(f":{port}")
    assert compose["services"]["worker"]["ports"][0].endswith(f":{environment['SHOPSTREAM_WORKER__METRICS_PORT']}")


def test_the_image_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\w+) \w+$", dockerfile, re.MULTILINE)
    sent = re.findall(r"^!(\w+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(packages) == sorted(sent)
    assert "--require-hashes -r requirements/runtime.txt" in dockerfile
