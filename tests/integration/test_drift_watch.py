"""The watch of drift beside a real worker: it starts with the first request, delivers it, and ends with the worker."""

import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.priority import GIVES_WAY
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from sinks.delivering import outbox_of
from sinks.retraining import Retraining
from streams.watching import LOCK_FILE, is_watched
from tests.waiting import wait_until
from tests.worker_runs import send, tail, traffic, until, wait_committed, wait_ready
from traffic.sent_log import SentLog

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]


def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, Any]:
    """Run the command as a user does, and return its exit code and its JSON."""
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["drift", *arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout)


def watch_of(pid: int) -> psutil.Process | None:
    children = psutil.Process(pid).children()
    found = [child for child in children if "watch" in child.cmdline()]
    return found[0] if found else None


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_forced_retraining_is_delivered_by_the_watch_which_ends_with_its_worker(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    log_path = tmp_path / "worker.log"
    settings = settings.model_copy(update={"drift": settings.drift.model_copy(update={"check_interval_s": 0.5})})
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        send(settings, traffic(500, seed=41), SentLog())
        wait_committed(settings, log_path)
        assert watch_of(process.pid) is None
        assert not (settings.home / LOCK_FILE).exists()

        code, answer = run(settings, monkeypatch, "trigger", "--force", "--reason", "by hand")
        assert (code, answer["outcome"]) == (0, "requested")
        assert [delivery.kind for delivery in outbox_of(settings).waiting()] == ["kafka"]
        until(lambda: is_watched(settings.home), "the worker starts no watch")
        until(lambda: not outbox_of(settings).waiting(), "the request is not delivered")
        metrics = settings.home / "metrics" / "drift.prom"
        until(
            lambda: metrics.exists() and "shopstream_drift_outbox 0.0" in metrics.read_text(), "no metrics are written"
        )
        text = metrics.read_text()
        assert 'shopstream_drift_requests{step="requested"} 1.0' in text
        for part in ("gates", "windows", "outbox", "rollout"):
            assert f'shopstream_drift_part_failing{{part="{part}"}} 0.0' in text, tail(log_path)
        watch = watch_of(process.pid)
        assert watch is not None
        assert watch.nice() == GIVES_WAY
        assert os.getsid(watch.pid) == watch.pid
        assert run(settings, monkeypatch, "status")[1]["in_flight"]["request_id"] == answer["request_id"]
        if is_killed:
            process.kill()
        else:
            assert stop_worker(process) == 0, tail(log_path)
            assert not is_watched(settings.home)
        wait_until(lambda: not watch.is_running(), 60, "the watch outlives its worker")
    assert [request.step for request in Retraining.from_settings(settings).newest()] == ["requested"]
