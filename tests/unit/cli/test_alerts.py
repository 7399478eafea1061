"""`shopstream alerts`: what waits and what was refused is seen, and sent again once its cause is mended."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.context import ExitCode
from cli.main import app
from config.settings import load_settings
from sinks.delivering import outbox_of
from sinks.outbox import Delivery
from stack.ports import free_port
from tests.webhook_receiver import SECRET, WebhookReceiver, webhook_receiver


class Command:
    """The command on a home of its own, with a webhook at a port."""

    def __init__(self, home: Path, port: int) -> None:
        self.assigned = {
            "alerts.webhook_url": f"http://127.0.0.1:{port}/in?token=query-secret",
            "alerts.webhook_secret": SECRET,
            "alerts.allow_private": "true",
        }
        self.home = home
        alerts = {name.partition(".")[2]: value for name, value in self.assigned.items()}
        self.outbox = outbox_of(load_settings({"home": home, "alerts": alerts}), attempts=1)

    def run(self, *arguments: str) -> tuple[int, str]:
        flags = [part for key, value in self.assigned.items() for part in ("--set", f"{key}={value}")]
        result = CliRunner().invoke(app, ["--home", str(self.home), *flags, "alerts", *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout

    def json(self, *arguments: str) -> tuple[int, Any]:
        code, text = self.run(*arguments, "--json")
        return code, json.loads(text)


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as found:
        yield found


@pytest.fixture
def command(tmp_path: Path, receiver: WebhookReceiver) -> Command:
    return Command(tmp_path / "home", receiver.port)


def delivery(name: str, kind: str = "webhook") -> Delivery:
    return Delivery(name, kind, {"type": "gate.halted"}, 1_717_747_750_123)


def test_nothing_is_said_in_so_many_words(command: Command) -> None:
    assert command.run("status") == (ExitCode.DONE, "Nothing waits, and nothing was refused.\n")
    code, payload = command.json("retry")
    assert (code, payload["put_back"], payload["delivered"]) == (ExitCode.DONE, 0, 0)


def test_what_was_refused_is_listed_and_sent_again(command: Command, receiver: WebhookReceiver) -> None:
    receiver.answers = [410]
    command.outbox.put(delivery("gate-halted-1"))
    command.outbox.flush()
    code, payload = command.json("status")
    assert code == ExitCode.DIFFERENCE
    assert payload["waiting"] == []
    (refused,) = payload["refused"]
    assert (refused["id"], refused["kind"], refused["attempts"]) == ("gate-halted-1", "webhook", 1)
    assert f"http://127.0.0.1:{receiver.port} answered 410" in refused["answer"]
    assert "query-secret" not in json.dumps(payload)

    assert command.json("retry") == (
        ExitCode.DONE,
        {"put_back": 1, "delivered": 1, "refused": 0, "waiting": []},
    )
    assert [posted.headers["webhook-id"] for posted in receiver.posted] == ["gate-halted-1"] * 2
    assert command.json("status")[0] == ExitCode.DONE


def test_what_waits_is_tried_once(tmp_path: Path) -> None:
    command = Command(tmp_path / "home", free_port(set()))
    command.outbox.put(delivery("a"))
    code, payload = command.json("retry")
    assert code == ExitCode.DIFFERENCE
    (waiting,) = payload["waiting"]
    assert (waiting["id"], waiting["attempts"]) == ("a", 1)
    assert "does not answer" in waiting["answer"]
    assert command.json("status")[0] == ExitCode.DONE
    assert "does not answer" in command.run("retry")[1]


def test_a_receiver_that_is_not_set_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command.outbox.put(delivery("run", "airflow"))
    _, text = command.run("status")
    assert "no such receiver is set" in text
    assert "2024-06-07 08:09:10 UTC" in text
