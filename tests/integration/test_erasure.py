"""A user is erased beside a running worker, and nothing brings it back: not a crash, not a rewind, not an old copy."""

import json
import time
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from cli.context import Invocation
from cli.demo_check import compare_features, compare_positions
from cli.lake import app
from config.settings import Settings
from feature_repo.layout import KeyTemplate
from replay import erase as erasing
from replay.erasure_ports import Ports
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS, Event
from schemas.producer import Delivery
from sinks.lake_reads import table_counts
from tests.faults.workers import HostedWorker, WorkerHost, worker_host
from tests.privacy_search import traces
from tests.worker_runs import assert_exact, send, traffic, wait_committed
from traffic.sent_log import SentLog
from traffic.timed import BrokenEvent, Defect, Mark, TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

KEY = "a key of the tests, long enough"
DEFECTS = tuple(set(Defect) - {Defect.EMPTY_USER_ID})  # nothing tells whose that one is


class Visitor:
    """What one user does, with ids that occur nowhere else."""

    def __init__(self, user_id: str, trail: str) -> None:
        self.user_id = user_id
        self.trail = trail
        self.needles = (f"event-{trail}-", f"product-{trail}-")
        self._count = 0

    def events(self, count: int) -> list[TimedEvent]:
        now_ms = time.time_ns() // 1_000_000
        return [TimedEvent(0, topic, self.event(topic, now_ms), Mark.PLAIN) for topic in self._topics(count)]

    def broken(self, defects: Iterable[Defect]) -> list[TimedEvent]:
        now_ms = time.time_ns() // 1_000_000
        carts = {Defect.NEGATIVE_QUANTITY, Defect.WRONG_TYPE}
        topics = {defect: CARTS_TOPIC if defect in carts else CLICKS_TOPIC for defect in defects}
        return [
            TimedEvent(0, topic, BrokenEvent(defect, self.event(topic, now_ms)), Mark.BROKEN)
            for defect, topic in topics.items()
        ]

    def _topics(self, count: int) -> list[str]:
        return [EVENT_TOPICS[number % 2] for number in range(count)]

    def event(self, topic: str, at_ms: int) -> Event:
        self._count += 1
        more: dict[str, Any] = {"quantity": 1, "unit_price_minor": 500, "currency": "EUR"}
        return Event(
            event_id=f"event-{self.trail}-{self._count}",
            kind="add" if topic == CARTS_TOPIC else "page_view",
            user_id=self.user_id,
            event_time_ms=at_ms + self._count,
            product_id=f"product-{self.trail}-{self._count}",
            **(more if topic == CARTS_TOPIC else {}),
        )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHost]:
    """A process that starts workers quickly."""
    with worker_host(tmp_path_factory.mktemp("host") / "host.log") as running:
        yield running


@dataclass
class Workers:
    """Starts workers one after the other, all with one log."""

    host: WorkerHost
    log: Path

    @contextmanager
    def run(self, settings: Settings) -> Iterator[HostedWorker]:
        """Run a worker until all is committed, and then the block; it is stopped at its end, if it still runs."""
        worker = self.host.start(settings, self.log)
        wait_committed(settings, self.log)
        yield worker
        if worker.runs:
            assert worker.stop() == 0, worker.tail()


@pytest.fixture
def private(settings: Settings) -> Settings:
    return settings.model_copy(update={"privacy": settings.privacy.model_validate({"key": KEY})})


@pytest.fixture
def victim_id() -> str:
    """An id that no other test has left anywhere."""
    return f"customer-{uuid.uuid4().hex[:12]}@example.org"


@pytest.fixture
def workers(host: WorkerHost, tmp_path: Path) -> Workers:
    return Workers(host, tmp_path / "worker.log")


def invoke(settings: Settings, *arguments: str) -> Any:
    overrides = settings.model_dump(mode="python", exclude_unset=True)
    return CliRunner().invoke(app, ["erase", *arguments], obj=Invocation(overrides=overrides))


def erase(settings: Settings, *arguments: str) -> dict[str, Any]:
    told = invoke(settings, *arguments, "--yes", "--json")
    assert told.exit_code == 0, told.output
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


def metrics(settings: Settings) -> str:
    texts = []
    for path in (settings.home / "workers").glob("*.json"):
        with urllib.request.urlopen(json.loads(path.read_text())["metrics"], timeout=5) as answer:
            texts.append(answer.read().decode())
    return "\n".join(texts)


def assert_features(settings: Settings, log: SentLog) -> None:
    users = log.by_user()
    checked, mismatches = compare_features(settings, users, len(users))
    assert (checked, mismatches) == (len(users), [])


def assert_all_exact(settings: Settings, *logs: SentLog) -> None:
    """Assert that the lake holds what these logs do and nothing else, and that states and features are right."""
    together = SentLog()
    for sent in (sent for log in logs for sent in log.records()):
        payload = sent.event or BrokenEvent(sent.defect or Defect.NULL_VALUE, Visitor("", "").event(sent.topic, 0))
        delivery = Delivery(sent.topic, sent.partition, sent.offset, sent.append_time_ms, None)
        together.note(TimedEvent(0, sent.topic, payload, Mark.PLAIN), delivery)
    assert_exact(settings, together)


def test_a_user_is_erased_beside_a_live_worker_and_stays_so(
    private: Settings, workers: Workers, victim_id: str
) -> None:
    victim, returned = Visitor(victim_id, "before"), Visitor(victim_id, "after")
    others, theirs, again = SentLog(), SentLog(), SentLog()
    send(private, traffic(1_000, seed=21, broken=0.01), others, broken=True)
    send(private, [*victim.events(40), *victim.broken(DEFECTS), *victim.events(40)], theirs, broken=True)
    send(private, traffic(500, seed=22), others)
    with workers.run(private) as worker:
        assert traces(private, [victim_id, *victim.needles])  # the search finds what there is
        planned = invoke(private, victim_id, "--dry-run", "--json")
        assert planned.exit_code == 0, planned.output
        plan = json.loads(planned.stdout)
        assert (plan["workers_run"], plan["unread"], plan["is_resumed"]) == (True, 0, False)
        assert plan["rows"]["raw_events"] == 80

        send(private, traffic(200, seed=23), others)  # the worker has something to write meanwhile
        report = erase(private, victim_id)
        assert {table["name"]: table["rows"] for table in report["tables"]}["raw_events"] == 80
        assert set(report["versions"]) == set(EVENT_TOPICS)
        assert all(copy["gone_by_ms"] > time.time_ns() // 1_000_000 for copy in report["last_copies"])
        wait_committed(private, workers.log)
        needles = [victim_id, *victim.needles]
        assert traces(private, needles, [("log", workers.log.read_text()), ("metrics", metrics(private))]) == []
        assert_all_exact(private, others)

        # the worker holds the erased state in memory: it must neither bring it back nor take it for a loss
        send(private, returned.events(6), again)
        wait_committed(private, workers.log)
        assert worker.runs, worker.tail()
        assert traces(private, victim.needles) == []
        assert_features(private, again)
        worker.kill()

    send(private, returned.events(4), again)
    with workers.run(private):
        assert traces(private, victim.needles) == []
        assert_features(private, again)

    rewind(private)
    with Redis.from_url(private.redis.url.get_secret_value()) as redis:
        redis.flushdb()
    with workers.run(private) as worker:
        assert worker.stop() == 0, worker.tail()
        read = worker.records()
    assert traces(private, victim.needles) == []
    assert_features(private, again)
    assert_features(private, others)
    lost, doubled, _, _ = compare_positions(private, others)
    assert (lost, doubled) == (0, 0)
    assert sum(read.values()) == sum(log.acknowledged_count for log in (others, theirs, again))
    assert read["redelivered"] == theirs.acknowledged_count


def rewind(settings: Settings) -> None:
    """Let the group begin again at the first record."""
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
    from confluent_kafka.admin import AdminClient

    from schemas.topics import describe_topics

    infos = describe_topics(settings)
    starts = [TopicPartition(t, number, 0) for t in EVENT_TOPICS for number in range(infos[t].partition_count)]
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    group = ConsumerGroupTopicPartitions(settings.worker.group_id, starts)
    for asked in admin.alter_consumer_group_offsets([group]).values():
        asked.result(30)


class KilledError(BaseException):
    """Stands for kill -9 at one place."""


def test_an_erasure_that_was_killed_is_finished_by_the_next(private: Settings, workers: Workers) -> None:
    places = ("1/5", "2/5", "3/5", "raw_events", "feature_log", "dead_letters", "4/5")
    victims = {
        place: Visitor(f"victim-{number}@example.org", f"killed-{number}") for number, place in enumerate(places)
    }
    others = SentLog()
    for victim in victims.values():
        send(private, [*victim.events(10), *victim.broken(DEFECTS)], SentLog(), broken=True)
    send(private, traffic(300, seed=24), others)
    with workers.run(private):
        pass
    for place, victim in victims.items():
        kill_erasure(private, victim.user_id, place)
    assert traces(private, [victims["1/5"].user_id])
    for victim in victims.values():
        assert erase(private, victim.user_id)["is_resumed"]
    needles = [needle for victim in victims.values() for needle in (victim.user_id, *victim.needles)]
    assert traces(private, needles) == []
    assert_all_exact(private, others)
    assert not erase(private, victims["1/5"].user_id)["is_resumed"]


def kill_erasure(settings: Settings, user_id: str, place: str) -> None:
    """Erase a user until a line of progress begins with `place`."""

    def killed(told: str) -> None:
        if told.startswith(place):
            raise KilledError

    ports = Ports.open(settings, killed)
    try:
        with pytest.raises(KilledError):
            erasing.erase_user(ports, user_id)
    finally:
        ports.close()


def test_an_older_copy_of_redis_brings_nobody_back(private: Settings, workers: Workers, victim_id: str) -> None:
    victim, bystander, returned = Visitor(victim_id, "copied"), Visitor("another", "other"), Visitor(victim_id, "back")
    others, again = SentLog(), SentLog()
    send(private, victim.events(10), SentLog())
    send(private, bystander.events(10), others)
    key = KeyTemplate.of(private.feast.project).key(victim_id)
    with workers.run(private):
        pass
    with Redis.from_url(private.redis.url.get_secret_value()) as redis:
        copy = redis.dump(key)
        erase(private, victim_id)
        redis.restore(key, 0, copy)
        assert traces(private, victim.needles)
        report = erase(private, "--again")
        assert report["versions"] == dict.fromkeys(EVENT_TOPICS, 1)
        assert traces(private, victim.needles) == []
        assert_features(private, others)
        # without that command the worker itself starts anew when the user comes back
        redis.restore(key, 0, copy)
        send(private, returned.events(4), again)
        with workers.run(private):
            assert_features(private, again)
        assert traces(private, victim.needles) == []
    assert_all_exact(private, others, again)


def test_what_no_worker_has_read_yet_is_dropped_when_one_does(
    private: Settings, workers: Workers, victim_id: str
) -> None:
    victim, others = Visitor(victim_id, "unread"), SentLog()
    send(private, victim.events(10), SentLog())
    send(private, traffic(200, seed=25), others)
    report = erase(private, victim_id)
    assert report["unread"] >= 200
    with workers.run(private):
        pass
    assert traces(private, [victim_id, *victim.needles]) == []

    send(private, victim.events(10), SentLog())  # nothing of anybody else follows in their partitions
    assert erase(private, victim_id)["unread"] == 10
    with workers.run(private):
        pass
    assert traces(private, [victim_id, *victim.needles]) == []
    assert_all_exact(private, others)


def test_a_worker_without_the_key_of_earlier_erasures_does_not_start(
    private: Settings, workers: Workers, victim_id: str
) -> None:
    erase(private, victim_id)
    keyless = private.model_copy(update={"privacy": private.privacy.model_validate({})})
    worker = workers.host.start(keyless, workers.log)
    assert worker.ended() != 0
    assert "privacy.key is not set" in worker.tail()
    other = private.model_copy(update={"privacy": private.privacy.model_validate({"key": "another key of the tests"})})
    told = invoke(other, victim_id, "--yes")
    assert told.exit_code != 0
    assert "is not the one set now" in str(told.exception)
    assert table_counts(private.lake_path)["raw_events"] == 0
