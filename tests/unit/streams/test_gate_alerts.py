"""What gates decide reaches a webhook: signed, once, also when its host is down at first."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, load_settings
from sinks.delivering import outbox_of
from sinks.lake_root import lake_of
from sinks.noting import noted
from sinks.outbox_sender import OutboxSender
from sinks.quality_tables import GATE_LOG
from stack.ports import free_port
from streams.gate_alerts import GateAlerts, alert_once
from streams.gate_sources import noted_in
from streams.gating import GateNews
from tests.waiting import wait_until
from tests.webhook_receiver import SECRET, WebhookReceiver, webhook_receiver

NEWS = GateNews(
    "shop.clicks.v1",
    "nulls",
    "halted",
    "5.1 % of click.category_id are empty",
    {"value": 0.051, "threshold": 0.01, "offsets": {0: [7, 90]}},
    1_717_747_750_123,
)


def settings(tmp_path: Path, port: int, **more: Any) -> Settings:
    alerts = {"webhook_url": f"http://127.0.0.1:{port}/alerts", "webhook_secret": SECRET, "allow_private": True}
    return load_settings({"home": tmp_path / "home", "alerts": {**alerts, "attempts": 1, **more}})


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as found:
        yield found


def alerts_of(settings: Settings) -> GateAlerts:
    outbox = outbox_of(settings)
    return GateAlerts(outbox, OutboxSender(outbox, rest_s=0.02))


def test_a_decision_is_one_signed_message(tmp_path: Path, receiver: WebhookReceiver) -> None:
    alerts = alerts_of(settings(tmp_path, receiver.port))
    alerts(NEWS)
    alerts(NEWS)
    wait_until(lambda: receiver.posted, 30, "nothing arrives")
    alerts.close()
    assert receiver.failures == []
    assert receiver.documents == [
        {
            "type": "gate.halted",
            "timestamp": "2024-06-07T08:09:10.123Z",
            "data": {
                "topic": "shop.clicks.v1",
                "gate": "nulls",
                "detail": "5.1 % of click.category_id are empty",
                "evidence": {"value": 0.051, "threshold": 0.01, "offsets": {"0": [7, 90]}},
                "at_ms": 1_717_747_750_123,
            },
        }
    ]


def test_decisions_are_told_apart(tmp_path: Path, receiver: WebhookReceiver) -> None:
    alerts = alerts_of(settings(tmp_path, receiver.port))
    for news in (NEWS, replace(NEWS, at_ms=NEWS.at_ms + 1), replace(NEWS, gate="schema"), replace(NEWS, step="alert")):
        alerts(news)
    wait_until(lambda: len(receiver.posted) == 4, 30, "not all arrive")
    alerts.close()
    assert len({posted.headers["webhook-id"] for posted in receiver.posted}) == 4


def test_a_host_that_is_down_at_first_gets_it_once_it_is_up(tmp_path: Path) -> None:
    own = settings(tmp_path, free_port(set()))
    alerts = alerts_of(own)
    alerts(NEWS)
    wait_until(lambda: any(found.attempts > 1 for found in outbox_of(own).waiting()), 30, "it is not tried again")
    assert "does not answer" in outbox_of(own).waiting()[0].answer
    with webhook_receiver(port=int(own.alerts.webhook_url.split(":")[2].split("/")[0])) as receiver:
        wait_until(lambda: receiver.posted and not outbox_of(own).waiting(), 30, "it does not arrive")
        alerts.close()
        alerts_of(own)(NEWS)
        assert len(receiver.documents) == 1
        assert receiver.failures == []


def test_what_a_worker_has_left_is_delivered_by_the_next(tmp_path: Path, receiver: WebhookReceiver) -> None:
    own = settings(tmp_path, receiver.port)
    first = alerts_of(own)
    first.close()
    first(NEWS)  # at its end, when nothing is sent any more
    assert receiver.posted == []
    second = alerts_of(own)
    second.start()
    wait_until(lambda: receiver.posted, 30, "nothing arrives")
    second.close()
    assert len(receiver.documents) == 1


def test_without_a_webhook_there_are_no_alerts(tmp_path: Path) -> None:
    own = load_settings({"home": tmp_path / "home"})
    assert GateAlerts.from_settings(own) is None
    alert_once(own, NEWS)
    assert not (tmp_path / "home").exists()


def test_a_decision_of_a_person_is_sent_at_once(tmp_path: Path, receiver: WebhookReceiver) -> None:
    alert_once(settings(tmp_path, receiver.port), NEWS)
    assert len(receiver.documents) == 1


def test_what_it_could_not_send_waits_for_a_worker(tmp_path: Path) -> None:
    own = settings(tmp_path, free_port(set()), attempts=50)
    alert_once(own, NEWS)  # tried once, so that a command does not hang
    assert [found.attempts for found in outbox_of(own).waiting()] == [1]


def test_a_decision_that_several_workers_tell_is_in_the_log_once(tmp_path: Path) -> None:
    lake = lake_of(load_settings({"home": tmp_path / "home"}))
    for news in (NEWS, NEWS, replace(NEWS, step="resumed", at_ms=NEWS.at_ms + 1), NEWS):
        noted_in(lake)(news)
    assert [(row["step"], row["noted_ms"]) for row in noted(lake, GATE_LOG)] == [
        ("halted", NEWS.at_ms),
        ("resumed", NEWS.at_ms + 1),
    ]
