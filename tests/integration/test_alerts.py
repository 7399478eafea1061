"""Alerts and requests on the real stack: a violated gate is one signed message, a request is on its topic once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from cli.main import app
from cli.worker_process import stop_worker, worker_process
from config.quality import AlertSettings
from config.services import KafkaSettings
from config.settings import Settings, as_environment
from feature_repo.gate_store import GateStore
from schemas.encoder import read_retraining, subject_of
from schemas.event import CLICKS_TOPIC, RETRAIN_TOPIC, Event
from schemas.loading import own_schema
from schemas.registry import COMPATIBILITY, RegistryClient
from schemas.retraining import RetrainingEvent
from schemas.topics import describe_topics, ensure_topics
from sinks.delivering import outbox_of
from sinks.errors import DeliveryRefusedError, NotDeliveredError
from sinks.outbox import Delivery, FlushCounts
from sinks.retrain_topic import RetrainTopic
from sinks.retraining import Retraining
from stack.ports import free_port
from tests.waiting import wait_until
from tests.webhook_receiver import SECRET, webhook_receiver
from tests.worker_runs import send, tail, traffic, until, wait_committed, wait_ready
from traffic.sent_log import SentLog
from traffic.timed import TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

HOUR_MS = 3_600_000


def without_category(events: Iterator[TimedEvent]) -> Iterator[TimedEvent]:
    """Leave the category out of every click."""
    for timed in events:
        event = timed.payload
        if isinstance(event, Event) and event.kind == "click":
            timed = timed._replace(payload=msgspec.structs.replace(event, category_id=None))  # noqa: PLW2901
        yield timed


def alerting(settings: Settings, port: int) -> Settings:
    alerts = AlertSettings(
        webhook_url=f"http://127.0.0.1:{port}/alerts", webhook_secret=SecretStr(SECRET), allow_private=True, attempts=1
    )
    gates = settings.gates.model_copy(update={"min_count": 200})
    return settings.model_copy(update={"alerts": alerts, "gates": gates})


def published(settings: Settings) -> list[tuple[bytes, RetrainingEvent]]:
    """Read all requests that the topic holds now."""
    from confluent_kafka import Consumer, TopicPartition

    consumer: Any = Consumer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "test", "enable.auto.commit": False}
    )
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(RETRAIN_TOPIC, 0), timeout=10)
        consumer.assign([TopicPartition(RETRAIN_TOPIC, 0, 0)])
        messages: list[Any] = []
        while len(messages) < end:
            messages += consumer.consume(end - len(messages), timeout=10)
        return [(message.key(), read_retraining(message.value())) for message in messages]
    finally:
        consumer.close()


@pytest.fixture
def without_retrain_topic(settings: Settings) -> None:
    """Delete what other tests have left of the topic."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    if RETRAIN_TOPIC in admin.list_topics(timeout=30).topics:
        for deletion in admin.delete_topics([RETRAIN_TOPIC], operation_timeout=30).values():
            deletion.result()
        wait_until(
            lambda: RETRAIN_TOPIC not in admin.list_topics(timeout=30).topics, 60, "the topic of the last test stays"
        )


def test_a_violated_gate_is_one_signed_message_and_so_is_the_resume(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path, log = tmp_path / "worker.log", SentLog()
    settings = alerting(settings, free_port(set()))
    port = int(settings.alerts.webhook_url.split(":")[2].split("/")[0])
    store = GateStore.from_settings(settings)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        send(settings, without_category(iter(traffic(2_000, seed=61))), log)
        until(lambda: bool(store.red_blocking()), "the null bug did not halt the view")
        until(lambda: any(found.attempts for found in outbox_of(settings).waiting()), "nothing was tried")
        assert stop_worker(process) == 0, tail(log_path)
    assert SECRET not in log_path.read_text()

    # the host was down, the worker has ended: the next one delivers, and the halt it finds is no news
    with webhook_receiver(port=port) as receiver, worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        until(lambda: bool(receiver.posted), "the alert does not arrive")
        until(lambda: not outbox_of(settings).waiting(), "the alert still waits")
        for name, value in as_environment(settings).items():
            monkeypatch.setenv(name, value)
        result = CliRunner().invoke(app, ["gates", "resume", "clicks", "--reason", "the gap is known"])
        assert result.exit_code == 0, result.output
        wait_committed(settings, log_path)
        assert stop_worker(process) == 0, tail(log_path)
        assert receiver.failures == []
        halted, resumed = receiver.documents
    store.close_blocking()
    assert (halted["type"], resumed["type"]) == ("gate.halted", "gate.resumed")
    assert (halted["data"]["topic"], halted["data"]["gate"]) == (CLICKS_TOPIC, "nulls")
    assert halted["data"]["evidence"]["part"] == "click.category_id"
    assert halted["data"]["evidence"]["offsets"]
    assert resumed["data"]["detail"] == "the gap is known"
    assert {posted.headers["webhook-id"] for posted in receiver.posted} == {
        path.stem.removeprefix("webhook-") for path in (settings.home / "outbox" / "delivered").iterdir()
    }


def ask(settings: Settings) -> dict[str, Any]:
    return Retraining.from_settings(settings).request(
        cause="drift", window_start_ms=HOUR_MS, window_end_ms=2 * HOUR_MS, detail="moved",
        evidence={"scores": {"category_id": {"psi": 0.3}}, "lake_versions": {"raw_events": 7}},
    )  # fmt: skip


@pytest.mark.usefixtures("without_retrain_topic")
def test_a_request_is_on_its_topic_once_though_it_is_asked_for_and_flushed_twice(settings: Settings) -> None:
    describe_topics(settings)  # nobody misses the topic before it is used
    answer = ask(settings)
    assert outbox_of(settings).flush() == FlushCounts(delivered=1)
    assert ask(settings)["outcome"] == "known"
    assert outbox_of(settings).flush() == FlushCounts()
    ((key, event),) = published(settings)
    assert key.decode() == event.request_id == answer["request_id"]
    assert (event.cause, event.window_start_ms, event.window_end_ms) == ("drift", HOUR_MS, 2 * HOUR_MS)
    assert (event.evidence, event.lake_versions) == ({"scores": {"category_id": {"psi": 0.3}}}, {"raw_events": 7})

    registry = RegistryClient(settings.registry)
    subject = subject_of(RETRAIN_TOPIC)
    assert subject == "shop.retrain.v1-value"
    assert registry.lookup(subject, own_schema(RETRAIN_TOPIC)) > 0
    assert registry.compatibility(subject) == COMPATIBILITY
    registry.close()
    assert ensure_topics(settings, (RETRAIN_TOPIC,))[RETRAIN_TOPIC].partition_count == 1


def test_a_second_publication_has_the_same_key(settings: Settings) -> None:
    before = len(published(settings)) if RETRAIN_TOPIC in ensure_topics(settings, (RETRAIN_TOPIC,)) else 0
    answer = ask(settings)
    (delivery,) = outbox_of(settings).waiting()
    sender = RetrainTopic(settings)
    sender(delivery)  # and then we are killed, before the outbox knows
    assert outbox_of(settings).flush() == FlushCounts(delivered=1)
    first, second = published(settings)[before:]
    assert first == second
    assert first[0].decode() == answer["request_id"]


def test_services_that_do_not_answer_let_it_wait(settings: Settings) -> None:
    ask(settings)
    (delivery,) = outbox_of(settings).waiting()
    nowhere = f"127.0.0.1:{free_port(set())}"
    broker = settings.model_copy(update={"kafka": KafkaSettings(bootstrap_servers=nowhere, timeout_s=0.5)})
    registry = settings.registry.model_copy(update={"url": f"http://{nowhere}"})
    for broken in (broker, settings.model_copy(update={"registry": registry})):
        with pytest.raises(NotDeliveredError, match=nowhere) as failure:
            RetrainTopic(broken)(delivery)
        assert failure.value.is_passing


def test_what_is_no_request_or_too_large_is_refused(settings: Settings) -> None:
    ask(settings)
    (delivery,) = outbox_of(settings).waiting()
    for payload, why in (
        ({"request_id": "x"}, "is no request for a retraining"),
        ({**delivery.payload, "evidence": {"x": "y" * 9_000_000}}, "more than shop.retrain.v1 holds"),
    ):
        with pytest.raises(DeliveryRefusedError, match=why):
            RetrainTopic(settings)(Delivery("x", "kafka", payload, 0))
