"""`doctor` on services that are well, ill, or not there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import typer
from typer.testing import CliRunner

from cli.context import Invocation
from cli.doctor import doctor
from config.settings import Settings, load_settings
from schemas.event import CLICKS_TOPIC
from stack.doctor import Finding, Verdict, examine
from stack.embedded import EmbeddedStack, Endpoints
from stack.ports import HOST, free_port

pytestmark = pytest.mark.stack


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def run(overrides: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    app = typer.Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, ["--json"], obj=Invocation(overrides=overrides))
    found: dict[str, Any] = json.loads(result.stdout)
    return result.exit_code, found


def overrides_of(settings: Settings) -> dict[str, Any]:
    return {
        "home": settings.home,
        "cache_dir": settings.cache_dir,
        "kafka": {"bootstrap_servers": settings.kafka.bootstrap_servers},
        "registry": {"url": settings.registry.url},
        "redis": {"url": settings.redis.url.get_secret_value()},
    }


@pytest.fixture
def unusable_redis(stack: Endpoints) -> Iterator[redis.Redis]:
    """The Redis of the stack with a policy that loses states, for the time of a test."""
    with redis.Redis.from_url(stack.redis) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield client
        client.config_set("maxmemory-policy", "noeviction")


def test_all_is_well_on_the_stack(settings: Settings, topics: object) -> None:
    code, found = run(overrides_of(settings))
    assert [check for check in found["checks"] if check["verdict"] == "failed"] == []
    assert code == 0
    assert found["ok"] is True
    verdicts = {check["name"]: check["verdict"] for check in found["checks"]}
    assert {verdicts[name] for name in ("python", "disk", "programs", "kafka", "registry", "redis", "topics")} == {"ok"}


def test_a_redis_that_evicts_is_found(settings: Settings, unusable_redis: redis.Redis) -> None:
    finding = by_name(examine(settings, overrides_of(settings)))["redis"]
    assert finding.verdict is Verdict.FAILED
    assert "allkeys-lru" in finding.detail
    assert "noeviction" in finding.hint


def test_topics_with_the_producers_timestamps_are_found(settings: Settings, topics: object) -> None:
    set_timestamp_type(settings, "CreateTime")
    code, found = run(overrides_of(settings))
    check = next(each for each in found["checks"] if each["name"] == "topics")
    assert code == 1
    assert check["verdict"] == "failed"
    assert "message.timestamp.type" in check["detail"]
    assert "LogAppendTime" in check["hint"]


def set_timestamp_type(settings: Settings, value: str) -> None:
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    entry = ConfigEntry("message.timestamp.type", value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, CLICKS_TOPIC, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(30)


def test_services_that_do_not_answer_are_named_without_their_passwords(tmp_path: Path, cache_dir: Path) -> None:
    port = free_port(set())
    overrides = {
        "home": tmp_path,
        "cache_dir": cache_dir,
        "kafka": {"bootstrap_servers": f"{HOST}:{port}", "timeout_s": 0.5},
        "registry": {"url": f"http://someone:s3cret@{HOST}:{port}/apis/ccompat/v7", "timeout_s": 0.5},
        "redis": {"url": f"redis://someone:s3cret@{HOST}:{port}/0", "timeout_s": 0.5},
    }
    code, found = run(overrides)
    assert code == 1
    failed = {check["name"]: check for check in found["checks"] if check["verdict"] == "failed"}
    assert set(failed) == {"kafka", "registry", "redis"}
    assert all(str(port) in check["detail"] and check["hint"] for check in failed.values())
    assert "s3cret" not in json.dumps(found)


def test_before_the_first_start_nothing_is_wrong(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, found = run({"home": tmp_path / "home", "cache_dir": cache_dir})
    assert code == 0
    skipped = {check["name"] for check in found["checks"] if check["verdict"] == "skipped"}
    assert {"stack", "kafka", "registry", "redis", "topics"} <= skipped
    assert not (tmp_path / "home").exists()


def test_addresses_of_a_stack_that_is_gone_are_found(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stack = EmbeddedStack(tmp_path, cache_dir)
    port = free_port(set())
    stack.endpoints_file.parent.mkdir(parents=True)
    addresses = {"kafka": f"{HOST}:{port}", "registry": f"http://{HOST}:{port}", "redis": f"redis://{HOST}:{port}/0"}
    stack.endpoints_file.write_text(json.dumps(addresses))
    settings = load_settings({"home": tmp_path, "cache_dir": cache_dir, "kafka": {"timeout_s": 0.5}})
    finding = by_name(examine(settings, {"home": tmp_path}))["stack"]
    assert finding.verdict is Verdict.FAILED
    assert "stack up" in finding.hint
