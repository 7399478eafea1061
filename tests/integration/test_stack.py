"""The embedded stack keeps its promises: on real processes, in homes of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from stack.embedded import SERVICES, EmbeddedStack, Endpoints
from stack.errors import PortInUseError
from stack.ports import HOST, Ports, is_free
from stack.processes import Identity, with_marker
from stack.service import Folders
from tests.conftest import ROOT, embedded_stack
from tests.waiting import wait_until

pytestmark = pytest.mark.stack

SUBJECT = "orders-value"
SCHEMA = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}]})
BREAKING = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "number", "type": "string"}]})


def processes(home: Path) -> list[psutil.Process]:
    folders = Folders((home / "stack").resolve())
    return [process for service in SERVICES for process in with_marker(service.marker(folders))]


def pids(stack: EmbeddedStack) -> dict[str, int | None]:
    return {service.name: service.pid for service in stack.status().services}


def register(endpoints: Endpoints, schema: str, subject: str = SUBJECT) -> httpx.Response:
    return httpx.post(f"{endpoints.registry}/subjects/{subject}/versions", json={"schema": schema}, timeout=30)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own") / "home"


@pytest.fixture(scope="module")
def own(home: Path, cache_dir: Path) -> Iterator[EmbeddedStack]:
    """A stack that the tests of this file may ill-treat; each begins by bringing it up."""
    with embedded_stack(home, cache_dir):
        yield EmbeddedStack(home, cache_dir)


def test_two_stacks_side_by_side_share_nothing(stack: Endpoints, own: EmbeddedStack) -> None:
    mine = own.up()
    assert {mine.kafka, mine.registry, mine.redis}.isdisjoint({stack.kafka, stack.registry, stack.redis})
    redis.Redis.from_url(mine.redis).set("side", "mine")
    assert redis.Redis.from_url(stack.redis).get("side") is None
    register(mine, SCHEMA, "side-value").raise_for_status()
    assert "side-value" not in httpx.get(f"{stack.registry}/subjects").json()


def test_up_twice_is_harmless(own: EmbeddedStack) -> None:
    first = own.up()
    before = pids(own)
    assert own.up() == first
    assert pids(own) == before


def test_status_tells_pid_port_memory_and_health(own: EmbeddedStack) -> None:
    endpoints = own.up()
    status = own.status()
    assert status.running
    assert [service.name for service in status.services] == ["kafka", "registry", "redis"]
    for service in status.services:
        assert service.state == "running"
        assert service.port is not None
        assert f":{service.port}" in getattr(endpoints, service.name)
        assert psutil.pid_exists(service.pid or 0)
        assert service.rss_bytes > 1_000_000
    assert status.rss_bytes <= 900_000_000


def test_nothing_listens_beyond_loopback(own: EmbeddedStack) -> None:
    own.up()
    for pid in pids(own).values():
        listening = [each for each in psutil.Process(pid).net_connections() if each.status == psutil.CONN_LISTEN]
        assert listening
        assert {each.laddr.ip for each in listening} == {HOST}


def test_a_schema_that_breaks_readers_is_refused(own: EmbeddedStack) -> None:
    endpoints = own.up()
    register(endpoints, SCHEMA).raise_for_status()
    assert register(endpoints, BREAKING).status_code == 409
    assert httpx.get(f"{endpoints.registry}/config").json() == {"compatibilityLevel": "BACKWARD_TRANSITIVE"}


def test_redis_writes_everything_down_and_evicts_nothing(own: EmbeddedStack) -> None:
    with redis.Redis.from_url(own.up().redis) as client:
        found = client.config_get("appendonly", "maxmemory-policy")
    assert found == {"appendonly": "yes", "maxmemory-policy": "noeviction"}


def test_the_broker_takes_eight_megabytes_and_creates_no_topic_by_itself(own: EmbeddedStack) -> None:
    from confluent_kafka import Consumer, Producer

    endpoints = own.up()
    create_topic(endpoints, "large", {"max.message.bytes": "8388608"})
    problems: list[object] = []
    producer = Producer({"bootstrap.servers": endpoints.kafka, "message.max.bytes": 8_388_608})
    producer.produce("large", bytes(8_380_000), on_delivery=lambda error, _: problems.append(error))
    assert producer.flush(60) == 0
    assert problems == [None]

    consumer = Consumer({"bootstrap.servers": endpoints.kafka, "group.id": "x", "allow.auto.create.topics": True})
    try:
        assert consumer.list_topics("absent", timeout=30).topics["absent"].error is not None
        assert "absent" not in consumer.list_topics(timeout=30).topics
    finally:
        consumer.close()


def create_topic(endpoints: Endpoints, topic: str, config: dict[str, str] | None = None) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": endpoints.kafka})
    admin.create_topics([NewTopic(topic, num_partitions=1, config=config or {})])[topic].result(30)


def test_records_published_before_down_decode_after_up(own: EmbeddedStack, home: Path) -> None:
    before = own.up()
    create_topic(before, "orders")
    schema_id = register(before, SCHEMA).raise_for_status().json()["id"]
    publish(before, ["a", "b", "c"])
    redis.Redis.from_url(before.redis).set("kept", "yes")

    own.down()
    assert processes(home) == []
    assert not own.endpoints_file.exists()
    after = own.up()

    assert after == before
    assert register(after, SCHEMA).json()["id"] == schema_id
    assert read_from_the_start(after, 3) == ["a", "b", "c"]
    assert redis.Redis.from_url(after.redis).get("kept") == b"yes"
    assert register(after, BREAKING).status_code == 409


def publish(endpoints: Endpoints, ids: list[str]) -> None:
    from confluent_kafka import SerializingProducer
    from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
    from confluent_kafka.schema_registry.avro import AvroSerializer

    conf = {"auto.register.schemas": False, "subject.name.strategy": topic_subject_name_strategy}
    with SchemaRegistryClient({"url": endpoints.registry}) as client:
        serializer = AvroSerializer(client, SCHEMA, conf=conf)
        producer = SerializingProducer({"bootstrap.servers": endpoints.kafka, "value.serializer": serializer})
        for each in ids:
            producer.produce("orders", value={"id": each})
        assert producer.flush(60) == 0


def read_from_the_start(endpoints: Endpoints, count: int) -> list[str]:
    from confluent_kafka import DeserializingConsumer, TopicPartition
    from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
    from confluent_kafka.schema_registry.avro import AvroDeserializer

    with SchemaRegistryClient({"url": endpoints.registry}) as client:
        deserializer = AvroDeserializer(client, conf={"subject.name.strategy": topic_subject_name_strategy})
        consumer = DeserializingConsumer(
            {"bootstrap.servers": endpoints.kafka, "group.id": "reader", "value.deserializer": deserializer}
        )
        consumer.assign([TopicPartition("orders", 0, 0)])
        found: list[str] = []

        def enough() -> bool:
            message = consumer.poll(0.2)
            if message is not None:
                found.append(message.value()["id"])
            return len(found) >= count

        try:
            wait_until(enough, 60, lambda: f"only {found} was read")
        finally:
            consumer.close()
    return found


def kill(stack: EmbeddedStack, name: str) -> None:
    """Kill a service, and wait until it is seen: a process answers for some milliseconds after its SIGKILL."""
    psutil.Process(pids(stack)[name]).kill()
    wait_until(lambda: not stack.status().running, 30, f"{name} still runs")


@pytest.mark.parametrize("name", ["kafka", "registry", "redis"])
def test_a_service_that_died_is_started_again_and_the_others_stay(own: EmbeddedStack, name: str) -> None:
    endpoints = own.up()
    schema_id = register(endpoints, SCHEMA).raise_for_status().json()["id"]
    redis.Redis.from_url(endpoints.redis).set("kept", name)
    before = pids(own)
    kill(own, name)

    assert own.up() == endpoints
    after = pids(own)
    assert after[name] != before[name]
    assert {other: pid for other, pid in after.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }
    assert register(endpoints, SCHEMA).json()["id"] == schema_id
    assert redis.Redis.from_url(endpoints.redis).get("kept") == name.encode()


def test_a_schema_id_given_out_right_before_a_kill_is_kept(own: EmbeddedStack) -> None:
    endpoints = own.up()
    schemas = [SCHEMA.replace("Order", f"Order{number}") for number in range(5)]
    given = [register(endpoints, schema, f"kill{n}-value").json()["id"] for n, schema in enumerate(schemas)]
    kill(own, "registry")
    own.up()
    kept = [httpx.get(f"{endpoints.registry}/schemas/ids/{schema_id}", timeout=30).json() for schema_id in given]
    assert [json.loads(each["schema"])["name"] for each in kept] == [f"Order{number}" for number in range(5)]


def test_a_lost_pid_file_does_not_make_a_second_server(own: EmbeddedStack, home: Path) -> None:
    endpoints = own.up()
    (home / "stack" / "redis.pid.json").unlink()
    assert [service.state for service in own.status().services] == ["running", "running", "unhealthy"]
    assert own.up() == endpoints
    assert len(processes(home)) == 3


def test_a_pid_file_that_names_a_stranger_harms_nobody(own: EmbeddedStack, home: Path) -> None:
    own.up()
    own.down()
    stranger = psutil.Process()
    folders = Folders((home / "stack").resolve())
    for service in SERVICES:
        noted = Identity(stranger.pid, stranger.create_time(), 1, service.marker(folders))
        folders.identity(service.name).write_text(json.dumps(asdict(noted)))
    assert not own.status().running
    own.down()
    assert stranger.is_running()
    own.up()
    assert own.status().running


def test_a_copied_home_is_another_stack(own: EmbeddedStack, home: Path, cache_dir: Path, tmp_path: Path) -> None:
    own.up()
    copied = tmp_path / "copy"
    (copied / "stack").mkdir(parents=True)
    for path in (home / "stack").glob("*.json"):
        shutil.copy(path, copied / "stack")
    copy = EmbeddedStack(copied, cache_dir)
    assert [service.state for service in copy.status().services] == ["stopped"] * 3
    copy.down()
    assert own.status().running


def test_a_home_behind_a_link_is_the_same_stack(
    own: EmbeddedStack, home: Path, cache_dir: Path, tmp_path: Path
) -> None:
    endpoints = own.up()
    (tmp_path / "link").symlink_to(home)
    assert EmbeddedStack(tmp_path / "link", cache_dir).up() == endpoints
    assert len(processes(home)) == 3


def test_addresses_left_behind_are_replaced_when_a_stranger_has_the_port(own: EmbeddedStack, home: Path) -> None:
    before = own.up()
    left_behind = own.endpoints_file.read_text()
    own.down()
    own.endpoints_file.write_text(left_behind)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind((HOST, int(before.kafka.rpartition(":")[2])))
        stranger.listen()
        after = own.up()
    assert after.kafka != before.kafka
    assert (after.registry, after.redis) == (before.registry, before.redis)
    assert json.loads(own.endpoints_file.read_text())["kafka"] == after.kafka
    from confluent_kafka.admin import AdminClient

    assert AdminClient({"bootstrap.servers": after.kafka}).list_topics(timeout=30).brokers


def test_a_port_in_use_that_is_asked_for_changes_nothing(own: EmbeddedStack) -> None:
    own.up()
    before = pids(own)
    with socket.socket() as stranger:
        stranger.bind((HOST, 0))
        stranger.listen()
        with pytest.raises(PortInUseError, match="is used by another process"):
            own.up(Ports(kafka=stranger.getsockname()[1]))
    assert pids(own) == before


def test_asking_for_another_port_moves_a_running_service(own: EmbeddedStack) -> None:
    before = own.up()
    port = next(port for port in range(33_000, 34_000) if is_free(port))
    after = own.up(Ports(redis=port))
    assert after.redis == f"redis://127.0.0.1:{port}/0"
    assert (after.kafka, after.registry) == (before.kafka, before.registry)
    assert own.status().running


def test_two_ups_at_once_take_turns(own: EmbeddedStack, home: Path, cache_dir: Path) -> None:
    own.down()
    commands = [cli(home, cache_dir, "up", "--json") for _ in range(2)]
    answers = [command.communicate()[0] for command in commands]
    assert [command.returncode for command in commands] == [0, 0]
    assert json.loads(answers[0]) == json.loads(answers[1])
    assert len(processes(home)) == 3


def cli(home: Path, cache_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `shopstream stack ...` in its own process, with a clean environment and a JAVA_HOME that leads nowhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOPSTREAM_")}
    environment = {
        **kept,
        "SHOPSTREAM_HOME": str(home),
        "SHOPSTREAM_CACHE_DIR": str(cache_dir),
        "PYTHONPATH": str(ROOT),
        "JAVA_HOME": "/nowhere",
        "JAVA_TOOL_OPTIONS": "-Xmx1k",
    }
    code = "from cli.stack import app; app()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def reached(home: Path, *paths: str) -> Callable[[], bool]:
    return lambda: all((home / "stack" / path).exists() for path in paths)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(("lock",), id="before any process"),
        pytest.param(("registry.pid.json",), id="first process"),
        pytest.param(("logs/kafka-format.log",), id="formatting"),
        pytest.param(("redis.pid.json",), id="all started"),
        pytest.param(("registry/schemas.mv.db",), id="registry half-way"),
    ],
)
def test_a_signal_during_up_leaves_no_process(tmp_path: Path, cache_dir: Path, moment: tuple[str, ...]) -> None:
    with ExitStack() as cleanup:
        cleanup.callback(EmbeddedStack(tmp_path, cache_dir).down)
        command = cli(tmp_path, cache_dir, "up")
        wait_until(lambda: reached(tmp_path, *moment)() or command.poll() is not None, 60, f"{moment} is not reached")
        command.send_signal(signal.SIGINT)
        _, error = command.communicate()
        assert command.returncode != 0
        assert "SIGINT" in error
        assert processes(tmp_path) == []
        assert not (tmp_path / "stack" / "endpoints.json").exists()


def test_a_killed_test_run_leaves_no_process(tmp_path: Path, cache_dir: Path) -> None:
    code = (
        "import sys, pathlib, tests.conftest as c\n"
        "with c.embedded_stack(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])):\n"
        "    print('up', flush=True); sys.stdin.read()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(cache_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "up\n"
    assert len(processes(tmp_path)) == 3
    run.kill()
    run.communicate()
    wait_until(lambda: not processes(tmp_path), 60, "the stack of a killed run is still there")


def test_reset_asks_and_then_deletes_the_data(own: EmbeddedStack, home: Path, cache_dir: Path) -> None:
    own.up()
    unanswered = cli(home, cache_dir, "reset")
    unanswered.communicate()
    assert unanswered.returncode == 1
    assert own.status().running

    confirmed = cli(home, cache_dir, "reset", "--yes", "--json")
    answer: dict[str, Any] = json.loads(confirmed.communicate()[0])
    assert answer == {"reset": True}
    assert processes(home) == []
    assert [entry.name for entry in (home / "stack").iterdir()] == ["lock"]
