"""Logins, certificates and least rights against a secured Kafka, Redis and schema registry; and no secret anywhere."""

import contextlib
import json
import logging
import os
import re
import signal
import traceback
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cli.main import run
from config.errors import ShopstreamError
from config.services import RedisSettings, RegistrySettings
from config.settings import Settings, load_settings
from feature_repo.connections import RedisConnections
from feature_repo.errors import OnlineStoreAccessError
from feature_repo.opening import apply_definitions
from schemas.errors import BrokerAccessError, RegistryAccessError
from schemas.event import CLICKS_TOPIC, DEAD_LETTERS_TOPIC
from schemas.registry import RegistryClient
from schemas.topics import check_group_rights, check_rights, describe_topics
from sinks.lake_reads import table_counts
from stack.embedded import Endpoints
from streams.observing import read_workers
from tests.conftest import ROOT
from tests.secured import (
    CANARY,
    Certificates,
    own_folder,
    password,
    secured_kafka,
    secured_redis,
    secured_registry,
    tls_proxy,
)
from tests.secured_users import (
    EVENTS,
    KAFKA_RIGHTS,
    REDIS_RULES,
    Secured,
    assert_no_canary,
    assert_no_canary_below,
    command_lines,
    shopstream,
    worker,
)
from tests.waiting import wait_until
from tests.worker_runs import tail, wait_committed, wait_ready

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def secured(stack: Endpoints, cache_dir: Path) -> Iterator[Secured]:
    """The services with topics, users and rights."""
    with contextlib.ExitStack() as running:
        folder = running.enter_context(own_folder())
        for name in ("broker", "redis"):
            (folder / name).mkdir()
        certificates = Certificates.make(folder)
        kafka = running.enter_context(secured_kafka(folder / "broker", cache_dir, certificates))
        redis, _ = running.enter_context(secured_redis(folder / "redis", REDIS_RULES, certificates))
        registry = running.enter_context(secured_registry(stack, certificates, user="app"))
        for name, rights in KAFKA_RIGHTS.items():
            kafka.add_user(name)
            kafka.allow(name, *rights)
        kafka.allow("plain", *KAFKA_RIGHTS["worker"])  # known to the broker's file, for SASL PLAIN
        yield Secured(kafka, redis, registry, certificates, folder / "feast.db")


@pytest.fixture(scope="module")
def registered(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """The same with topics and schemas, made by the user who may."""
    home = tmp_path_factory.mktemp("registrar")
    done = shopstream(secured.variables(home, "registrar"), "schema", "register")
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SHOPSTREAM_FEAST__REGISTRY_PATH", str(secured.feast_registry))
        apply_definitions(settings_of(secured.variables(home, "worker"), patched))
    return secured


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands may run in this process: what they do to logging is undone, and no setting is inherited."""
    for name in [name for name in os.environ if name.startswith("SHOPSTREAM_")]:
        monkeypatch.delenv(name)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


def settings_of(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


# -- good -----------------------------------------------------------------------------------------------------------


def test_least_rights_are_enough_and_no_secret_is_told(
    registered: Secured,
    in_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    home, log_path = tmp_path / "home", tmp_path / "worker.log"
    operator = registered.variables(home, "operator", "operator")
    settings = settings_of(operator, monkeypatch)
    told: list[str] = []
    with worker(registered.plain(registered.variables(home, "worker")), log_path) as process:
        traffic = ("--rate", "500", "--seconds", "1", "--users", "20", "--broken", "0.04", "--json")
        produced = shopstream(registered.variables(home, "producer"), "produce", *traffic)
        assert produced.returncode == 0, produced.stderr
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        assert_no_canary("the command lines", "\n".join(command_lines()))
        endpoint = json.loads(next((home / "workers").glob("*.json")).read_text())["metrics"]
        with urllib.request.urlopen(endpoint) as answer:
            told.append(answer.read().decode())
        report = read_workers(settings)
        for command in ("status", "doctor", "config show", "config show --json"):
            run_well(command)
        settings_of(registered.variables(home, "operator", "reader"), monkeypatch)
        run_well("features get u1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, tail(log_path)
    told += capfd.readouterr()
    assert "FRESH" in told[-2]
    sent = json.loads(produced.stdout)["sent"]
    assert report.outcomes.total() == sent
    assert report.dead_letters.total() > 0
    assert table_counts(settings.lake_path)["raw_events"] == sent - report.outcomes["dead_letter"]
    assert_no_canary("what was printed", "\n".join([*told, produced.stdout, produced.stderr]))
    assert "aiokafka.conn" in log_path.read_text() or "Request to" in log_path.read_text(), "the log is at debug level"
    assert_no_canary_below(tmp_path)


def run_well(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(command.split())
    assert ended.value.code == 0, command


def test_a_certificate_instead_of_a_password_and_a_right_that_is_taken_away(
    registered: Secured, in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path, right = tmp_path / "worker.log", ("TOPIC", CLICKS_TOPIC, "READ")
    variables = registered.by_certificate(registered.variables(tmp_path / "home", "worker"))
    settings = settings_of(variables, monkeypatch)
    with worker(variables, log_path) as process:
        wait_ready(settings, process, log_path)
        registered.kafka.forbid("worker", right)
        try:
            assert process.wait(60) == 1
        finally:
            registered.kafka.allow("worker", right)
    last = log_path.read_text().strip().splitlines()[-1]
    assert last.startswith("Stopped: Kafka at ")
    assert f"does not allow our certificate to read topic {CLICKS_TOPIC}" in last
    assert_no_canary_below(tmp_path)


def test_a_certificate_for_redis_and_for_the_registry(secured: Secured, stack: Endpoints) -> None:
    made = secured.certificates
    files = {"ca_file": made.ca, "certificate_file": made.client, "key_file": made.client_key}
    with (
        secured_registry(stack, made, asks_for_certificate=True) as url,
        tls_proxy(int(secured.redis.rpartition(":")[2]), made, asks_for_certificate=True) as port,
    ):
        known = RegistrySettings(url=url, key_password=password("key"), **files)
        with contextlib.closing(RegistryClient(known)) as client:
            assert client.compatibility()
        with (
            contextlib.closing(RegistryClient(RegistrySettings(url=url, ca_file=made.ca))) as client,
            pytest.raises(RegistryAccessError, match=r"refused us in the TLS handshake.*registry\.certificate_file"),
        ):
            client.compatibility()
        nobody = RedisSettings(url=f"rediss://127.0.0.1:{port}/0", ca_file=made.ca)
        connections = RedisConnections(nobody.connection_url.get_secret_value(), timeout_s=5)
        with pytest.raises(OnlineStoreAccessError, match="refused us in the TLS handshake"), connections.explained():
            connections.blocking().ping()
        connections.close_blocking()


# -- refused --------------------------------------------------------------------------------------------------------

WRONG = f"{CANARY}-wrong"
FAULTS: dict[str, tuple[dict[str, str], str, str]] = {
    # what is set, what is said, and which setting is named
    "login of Kafka": ({"KAFKA__PASSWORD": WRONG}, r"Kafka at \S+ refused the login of user \w+: ", "kafka.password"),
    "CA of Kafka": ({"KAFKA__CA_FILE": "stranger"}, r"Kafka at \S+ .*TLS: certificate verify failed", "kafka.ca_file"),
    "login of the registry": ({"REGISTRY__PASSWORD": WRONG}, r"registry at \S+ does not let in", "registry.password"),
    "CA of the registry": ({"REGISTRY__CA_FILE": "stranger"}, r"registry at \S+ .*not trusted", "registry.ca_file"),
    "login of Redis": ({"REDIS__PASSWORD": WRONG}, r"(Redis at )?\S+ refused the login", "redis.password"),
    "CA of Redis": ({"REDIS__CA_FILE": "stranger"}, r"(Redis at )?\S+ .*TLS: .*not trusted", "redis.ca_file"),
    "right in Redis": (
        {"REDIS__USERNAME": "nobody", "REDIS__PASSWORD": password("nobody")},
        r"(Redis at )?\S+ does not allow",
        "ACL rule",
    ),
    "right to write": (
        {"KAFKA__USERNAME": "operator", "KAFKA__PASSWORD": password("operator")},
        rf"does not allow user operator to write topic {CLICKS_TOPIC}",
        "secure-connections.md",
    ),
    "right to a group": (
        {"KAFKA__USERNAME": "producer", "KAFKA__PASSWORD": password("producer")},
        "does not allow user producer to see the consumer group features",
        "secure-connections.md",
    ),
}
LOGINS = [f"login of {whom}" for whom in ("Kafka", "the registry", "Redis")]
AUTHORITIES = [f"CA of {whom}" for whom in ("Kafka", "the registry", "Redis")]
CASES = [
    *(("worker", fault) for fault in [*LOGINS, *AUTHORITIES, "right in Redis"]),
    *(("doctor", fault) for fault in [*LOGINS, "right in Redis"]),
    *(("produce --rate 10 --seconds 1", fault) for fault in [*LOGINS[:2], "right to write"]),
    *(("schema register", fault) for fault in [LOGINS[1], AUTHORITIES[1]]),
    *(("status", fault) for fault in [LOGINS[0], AUTHORITIES[0], "right to a group"]),
    *(("features get u1", fault) for fault in [LOGINS[2], AUTHORITIES[2], "right in Redis"]),
    ("events tail --max 1", LOGINS[0]),
]


@pytest.mark.parametrize(("command", "fault"), CASES, ids=[", ".join(case) for case in CASES])
def test_a_refusal_is_one_clear_line(
    command: str,
    fault: str,
    registered: Secured,
    in_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    changed, said, named = FAULTS[fault]
    user = {"worker": "worker", "produce": "producer"}.get(command.split(maxsplit=1)[0], "operator")
    for name, value in registered.variables(tmp_path / "home", user).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHOPSTREAM_FEAST__REGISTRY_PATH", str(registered.feast_registry))
    for name, value in changed.items():
        told = str(registered.certificates.stranger_ca) if value == "stranger" else value
        monkeypatch.setenv(f"SHOPSTREAM_{name}", told)
    with pytest.raises(SystemExit) as ended:
        run(command.split())
    out, err = capfd.readouterr()
    assert ended.value.code == 1, (out, err)
    line = err.strip()
    if command == "doctor":
        line = " ".join(part.strip() for part in out[out.index("failed") :].splitlines()[:2])
    else:
        assert (out, line.count("\n"), line[:12]) == ("", 0, "shopstream: ")
    assert re.search(said, line), line
    assert named in line
    assert "Traceback" not in out + err
    assert_no_canary("what was printed", out + err)
    assert_no_canary("the traceback", with_debug(command))
    assert_no_canary("what was printed with it", "".join(capfd.readouterr()))
    assert_no_canary_below(tmp_path)


def with_debug(command: str) -> str:
    """Return the traceback that `--debug` shows."""
    try:
        run(["--debug", *command.split()])
    except SystemExit:
        return ""
    except ShopstreamError:
        return traceback.format_exc()
    raise AssertionError("the command ended well")


@pytest.mark.parametrize("right", KAFKA_RIGHTS["worker"], ids=str)
def test_each_right_of_a_worker_is_needed(
    right: tuple[str, str, str],
    registered: Secured,
    in_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(registered.variables(tmp_path, "worker"), monkeypatch)

    def refusal() -> str:
        try:
            topics = describe_topics(settings)
            check_rights(settings, topics, {**dict.fromkeys(EVENTS, "READ"), DEAD_LETTERS_TOPIC: "WRITE"})
            check_group_rights(settings)
        except BrokerAccessError as error:
            return str(error)
        return ""

    assert refusal() == ""
    registered.kafka.forbid("worker", right)
    told = wait_until(refusal, 10, "the broker goes on allowing it")
    assert right[1] in told
    registered.kafka.allow("worker", right)
    wait_until(lambda: not refusal(), 10, "the broker goes on refusing it")


def test_a_reader_may_not_write(secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(secured.variables(tmp_path, "operator", "reader"), monkeypatch)
    connections = RedisConnections(settings.redis.connection_url.get_secret_value(), timeout_s=5)
    with pytest.raises(OnlineStoreAccessError, match="does not allow user reader"), connections.explained():
        connections.blocking().hset("shopstream:fence:x", "a", "b")
    connections.close_blocking()


def test_the_page_gives_these_rights_as_commands() -> None:
    page = (ROOT / "docs" / "how-to" / "secure-connections.md").read_text().replace("\\\n", " ")
    given: dict[str, set[tuple[str, str, str]]] = {}
    for user, operations, kind, names in re.findall(
        r"--allow-principal User:(\w+)((?: +--operation \w+)+)(?: +--(topic|group) ((?:\S+)(?: +--\3 \S+)*))", page
    ):
        for name in re.split(rf" +--{kind} ", names):
            for operation in re.findall(r"--operation (\w+)", operations):
                upper = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()
                given.setdefault(user, set()).add(
                    (kind.upper(), name.replace("shopstream-features", "features"), upper)
                )
    assert given == {user: set(rights) for user, rights in KAFKA_RIGHTS.items()}
    for user, rules in REDIS_RULES.items():
        assert not rules or f"user {user} on >PASSWORD {rules}" in page
