"""Hostile records and logs on the real stack: what stops a partition, a record or the worker, and what does not."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from cli.demo_check import compare_features, compare_positions, compare_states
from cli.main import app
from config.settings import Settings, as_environment
from schemas.encoder import Encoder
from schemas.event import CLICKS_TOPIC, EVENT_TOPICS, Event
from schemas.loading import own_schema
from schemas.partitioner import partition_of
from schemas.producer import Delivery, EventProducer
from schemas.registry import RegistryClient, register_own_schemas
from schemas.topics import ALL_TOPICS, ensure_topics
from sinks.lake_reads import offsets, table_counts
from sinks.tables import LAKE_TABLES
from streams.observing import GroupLags, read_workers
from streams.ports import TopicPartition
from tests.faults.workers import HostedWorker, WorkerHost, worker_host
from tests.planted_records import CRASH_ID, HANG_ID
from tests.worker_runs import assert_exact, send, traffic, until, wait_committed
from traffic.sent_log import SentLog
from traffic.timed import BrokenEvent, Defect, Mark, TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

POISONED = TopicPartition(CLICKS_TOPIC, 0)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHost]:
    with worker_host(tmp_path_factory.mktemp("host") / "host.log") as started:
        yield started


@pytest.fixture
def registry(settings: Settings) -> Iterator[RegistryClient]:
    client = RegistryClient(settings.registry)
    yield client
    client.close()


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def with_worker(settings: Settings, **changes: Any) -> Settings:
    changes |= {"instance_id": "the-only-one"}  # so that the group does not wait for one that was killed
    return settings.model_copy(update={"worker": settings.worker.model_copy(update=changes)})


@dataclass
class Odd:
    """Records that are sent one by one, whose fate decides how they are noted."""

    settings: Settings
    sent: list[tuple[Event, Delivery]] = field(default_factory=list)

    def send(self, events: list[Event], values: list[bytes] | None = None) -> None:
        with EventProducer(self.settings) as producer:
            for at, event in enumerate(events):
                value = values[at] if values else producer.encode(CLICKS_TOPIC, event)
                producer.send_raw(CLICKS_TOPIC, event.user_id.encode(), value, None, partial(self._note_sent, event))
            producer.flush(30)

    def _note_sent(self, event: Event, delivery: Delivery) -> None:
        self.sent.append((event, delivery))

    def note(self, log: SentLog, letters: set[int], defect: Defect) -> None:
        for event, delivery in self.sent:
            payload = BrokenEvent(defect, event) if delivery.offset in letters else event
            log.note(TimedEvent(0, CLICKS_TOPIC, payload, Mark.PLAIN), delivery)


def own_events(settings: Settings, count: int, prefix: str) -> list[Event]:
    """Return events of users of the partition that is to be poisoned."""
    users = (f"{prefix}-{number}" for number in range(100_000))
    mine = list(islice((user for user in users if partition_of(user.encode(), 4) == POISONED.partition), 20))
    now_ms = time.time_ns() // 1_000_000 - 60_000
    return [
        Event(
            event_id=f"{prefix}-{at}",
            kind="click",
            user_id=mine[at % len(mine)],
            event_time_ms=now_ms + at,
            product_id="p1",  # without them a gate halts the view once it has seen enough
            category_id="c1",
        )
        for at in range(count)
    ]


def letter_offsets(settings: Settings) -> set[int]:
    found = offsets(settings.lake_path, LAKE_TABLES["dead_letters"])
    return set(found.get((POISONED.topic, POISONED.partition), ()))


def test_a_poisoned_partition_stops_and_after_a_restart_all_of_it_is_applied(
    settings: Settings, log_path: Path, host: WorkerHost, registry: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_own_schemas(registry, ALL_TOPICS)  # what a worker would register, and so take the next id
    changed = json.loads(own_schema(CLICKS_TOPIC))
    changed["doc"] = f"as another registry holds it, for {settings.feast.project}"
    earlier = {**changed, "doc": changed["doc"] + " before"}
    next_id = registry.register(f"{settings.feast.project}-earlier", json.dumps(earlier)) + 1

    log, poison = SentLog(), Odd(settings)
    send(settings, traffic(1_000), log)
    events = own_events(settings, 600, "poison")
    encoder = Encoder({CLICKS_TOPIC: next_id})
    poison.send(events, [encoder.event(CLICKS_TOPIC, event) for event in events])
    changes = {"brake_records": 400, "batch_records": 100, "stall_timeout_s": 5.0}
    worker = host.start(with_worker(settings, **changes), log_path)
    until(lambda: read_workers(settings).braked == {POISONED: "unknown_schema"}, "no brake")
    send(settings, traffic(500, seed=2), log)
    others = [tp for tp in (lag.tp for lag in GroupLags(settings).read()) if tp != POISONED]

    def lags() -> dict[TopicPartition, int]:
        return {lag.tp: lag.lag_records for lag in GroupLags(settings).read()}

    until(lambda: not any(lags()[tp] for tp in others), "other partitions do not finish")
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(app, ["status", "--json"])
    braked = {"topic": POISONED.topic, "partition": POISONED.partition, "reason": "unknown_schema"}
    assert json.loads(shown.stdout)["braked_partitions"] == [braked]
    assert worker.stop() == 0, worker.tail()
    assert "unknown_schema" in worker.tail(100_000)
    letters = letter_offsets(settings)
    assert 100 <= len(letters) <= 200
    assert lags()[POISONED] > 0

    assert registry.register(f"{settings.feast.project}-mended", json.dumps(changed)) == next_id
    worker = host.start(with_worker(settings), log_path)
    wait_committed(settings, log_path)
    assert worker.stop() == 0, worker.tail()
    assert letter_offsets(settings) == letters
    poison.note(log, letters, Defect.UNKNOWN_SCHEMA_ID)
    assert_exact(settings, log)


@pytest.mark.parametrize(
    ("event_id", "exit_code", "words"),
    [(CRASH_ID, -signal.SIGSEGV, "signal 11 (SIGSEGV)"), (HANG_ID, 1, "CPU time")],
    ids=["crash", "hang"],
)
def test_a_record_that_ends_the_worker_twice_is_quarantined_on_the_third_start(
    settings: Settings, log_path: Path, host: WorkerHost, event_id: str, exit_code: int, words: str
) -> None:
    log, deadly = SentLog(), Odd(settings)
    send(settings, traffic(800), log)
    [event] = own_events(settings, 1, event_id)
    deadly.send([event])
    send(settings, traffic(800, seed=2), log)
    hasty = with_worker(settings, stall_timeout_s=2.0, probe_cpu_s=0.5)
    for _ in range(2):
        assert host.start(hasty, log_path, is_planted=True).ended() == exit_code
    worker = host.start(with_worker(settings, probe_cpu_s=0.5), log_path, is_planted=True)
    wait_committed(settings, log_path)
    assert worker.stop() == 0, worker.tail()
    [(_, delivery)] = deadly.sent
    assert letter_offsets(settings) == {delivery.offset}
    assert words in worker.tail(100_000)
    deadly.note(log, {delivery.offset}, Defect.CORRUPT_AVRO)
    assert_exact(settings, log)


def test_a_sink_that_hangs_stops_the_worker_with_its_reason(
    settings: Settings, log_path: Path, host: WorkerHost
) -> None:
    log = SentLog()
    send(settings, traffic(300), log)
    patient = settings.redis.model_copy(update={"timeout_s": 120.0})
    hasty = with_worker(settings.model_copy(update={"redis": patient}), stall_timeout_s=2.0, stop_timeout_s=2.0)
    worker = host.start(hasty, log_path)
    wait_committed(settings, log_path)
    with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
        pid = redis.info()["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        send(settings, traffic(300, seed=2), log)
        assert worker.ended() == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "and none was processed for 2 s" in worker.tail()
    worker = host.start(with_worker(settings), log_path)
    wait_committed(settings, log_path)
    assert worker.stop() == 0, worker.tail()
    assert_exact(settings, log)


def in_another_log(worker: HostedWorker) -> None:
    """Assert that a worker has ended because a topic is another log, and say so again when it is started."""
    assert worker.ended() == 1
    said = worker.tail(100_000)
    assert "is another log than" in said or "A topic is gone" in said
    assert "Traceback" not in said


def test_partitions_that_are_added_under_a_running_worker_stop_it(
    settings: Settings, log_path: Path, host: WorkerHost
) -> None:
    from confluent_kafka.admin import AdminClient, NewPartitions

    log = SentLog()
    send(settings, traffic(300), log)
    worker = host.start(with_worker(settings, log_check_interval_s=0.5), log_path)
    wait_committed(settings, log_path)
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for done in admin.create_partitions([NewPartitions(CLICKS_TOPIC, 6)]).values():
        done.result()
    in_another_log(worker)
    lost, doubled, _, differences = compare_positions(settings, log)
    assert (lost, doubled, differences) == (0, 0, [])
    assert compare_features(settings, log.by_user(), 300)[1] == []
    assert compare_states(settings).differing > 0, "states of the former log are not those of the new one"
    in_another_log(host.start(with_worker(settings, log_check_interval_s=0.5), log_path))


def test_a_topic_that_is_recreated_under_a_running_worker_stops_it(
    settings: Settings, log_path: Path, host: WorkerHost
) -> None:
    from confluent_kafka.admin import AdminClient

    log = SentLog()
    send(settings, traffic(300), log)
    worker = host.start(with_worker(settings, log_check_interval_s=0.5), log_path)
    wait_committed(settings, log_path)
    rows = table_counts(settings.lake_path)
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for done in admin.delete_topics(list(EVENT_TOPICS), operation_timeout=30).values():
        done.result()
    until(lambda: not set(EVENT_TOPICS) & set(admin.list_topics(timeout=30).topics), "the topics stay")
    ensure_topics(settings)
    send(settings, traffic(2_000, seed=2), SentLog())
    in_another_log(worker)
    assert table_counts(settings.lake_path) == rows, "nothing of the new log is applied"
    in_another_log(host.start(with_worker(settings, log_check_interval_s=0.5), log_path))
