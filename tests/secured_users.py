"""The users of the secured services of tests: their least rights, their settings, and commands run as one of them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC
from tests.conftest import ROOT
from tests.secured import CANARY, Certificates, SecuredKafka, password

GROUP = "features"
EVENTS = (CLICKS_TOPIC, CARTS_TOPIC)
TOPICS = (*EVENTS, DEAD_LETTERS_TOPIC)

# The least rights; docs/how-to/secure-connections.md gives them as commands, and a test below compares the two.
DESCRIBING = [("TOPIC", topic, "DESCRIBE_CONFIGS") for topic in TOPICS]
KAFKA_RIGHTS = {
    "worker": [
        *(("TOPIC", topic, "READ") for topic in EVENTS),
        ("TOPIC", DEAD_LETTERS_TOPIC, "WRITE"),
        *DESCRIBING,
        ("GROUP", GROUP, "READ"),
    ],
    "producer": [
        *(("TOPIC", topic, "WRITE") for topic in EVENTS),
        ("TOPIC", DEAD_LETTERS_TOPIC, "DESCRIBE"),
        *DESCRIBING,
    ],
    "operator": [*(("TOPIC", topic, "READ") for topic in TOPICS), *DESCRIBING, ("GROUP", GROUP, "DESCRIBE")],
    "registrar": [
        *(("TOPIC", topic, operation) for topic in TOPICS for operation in ("CREATE", "DESCRIBE")),
        *DESCRIBING,
    ],
}
REDIS_RULES = {
    "worker": "~*user_id*shopstream ~shopstream:* +evalsha +eval +hget +hmget +hgetall +hset +hdel +del",
    "reader": "%R~*user_id*shopstream %R~shopstream:* +hmget +hgetall",
    "operator": "%R~*user_id*shopstream %R~shopstream:* +hmget +hgetall +ping +info",
    "nobody": "",
}


@dataclass(frozen=True)
class Secured:
    """The secured services, and the settings with which to reach them."""

    kafka: SecuredKafka
    redis: str
    registry: str
    certificates: Certificates
    feast_registry: Path

    def variables(self, home: Path, kafka_user: str, redis_user: str = "worker") -> dict[str, str]:
        """Return the settings of a user as variables."""
        common = {"CA_FILE": str(self.certificates.ca)}
        sections = {
            "KAFKA": {"BOOTSTRAP_SERVERS": self.kafka.sasl, "SECURITY_PROTOCOL": "SASL_SSL", "TIMEOUT_S": "5"}
            | {"SASL_MECHANISM": "SCRAM-SHA-512", "USERNAME": kafka_user, "PASSWORD": password(kafka_user), **common},
            "REGISTRY": {"URL": self.registry, "USERNAME": "app", "PASSWORD": password("app"), **common},
            "REDIS": {"URL": f"rediss://{self.redis}/0", **common}
            | {"USERNAME": redis_user, "PASSWORD": password(redis_user)},
            "WORKER": {"GROUP_ID": GROUP},
        }
        named = {f"{section}__{key}": value for section, keys in sections.items() for key, value in keys.items()}
        return {f"SHOPSTREAM_{name}": value for name, value in {"HOME": str(home), **named}.items()}

    def plain(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Log in by SASL PLAIN instead, which sends the password itself."""
        user = {"SASL_MECHANISM": "PLAIN", "USERNAME": "plain", "PASSWORD": password("plain")}
        return {**variables, **{f"SHOPSTREAM_KAFKA__{key}": value for key, value in user.items()}}

    def by_certificate(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Show Kafka a certificate instead of a password."""
        kept = {name: value for name, value in variables.items() if not _is_login(name)}
        shown = {"BOOTSTRAP_SERVERS": self.kafka.mtls, "SECURITY_PROTOCOL": "SSL"}
        shown |= {"CERTIFICATE_FILE": str(self.certificates.client), "KEY_FILE": str(self.certificates.client_key)}
        shown |= {"KEY_PASSWORD": password("key")}
        return {**kept, **{f"SHOPSTREAM_KAFKA__{key}": value for key, value in shown.items()}}


def _is_login(name: str) -> bool:
    return name.startswith("SHOPSTREAM_KAFKA__") and name.endswith(("MECHANISM", "USERNAME", "PASSWORD"))


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOPSTREAM_")}
    return {**kept, **variables}


def shopstream(variables: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(
        command, env=environment(variables), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@contextlib.contextmanager
def worker(variables: Mapping[str, str], log_path: Path, *flags: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "cli.main", *flags, "worker", "--loglevel", "debug"]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=environment(variables), cwd=ROOT, stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def command_lines() -> Iterator[str]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            yield " ".join(process.cmdline())


def assert_no_canary(where: str, text: str) -> None:
    assert CANARY not in text, f"a secret is in {where}: {text[max(0, text.index(CANARY) - 200) :][:300]}"


def assert_no_canary_below(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert_no_canary(str(path), path.read_bytes().decode(errors="replace"))
