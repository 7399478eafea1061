"""A Redis that was emptied is rebuilt from the lake while the worker goes on, until every reader is told FRESH."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from cli.main import app
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from serving.reader import FeatureReader, ViewStatus
from sinks.lake_reads import table_counts
from streams.observing import GroupLags, read_workers
from tests.waiting import wait_until
from tests.worker_runs import assert_exact, send, tail, traffic, until, wait_committed, wait_ready
from traffic.sent_log import SentLog

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

ROOT = Path(__file__).resolve().parents[2]
REPLAY_DEADLINE_S = 180


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def replay(settings: Settings, *arguments: str) -> dict[str, Any]:
    """Run the command in this process, which has imported Feast already; return its JSON."""
    command = ["replay", "--into", "online", "--nice", "0", "--json", *arguments]
    result = CliRunner().invoke(app, command, env=as_environment(settings), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def replay_process(settings: Settings) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "replay", "--into", "online", "--nice", "0"],
        cwd=ROOT,
        env={**os.environ, **as_environment(settings)},
    )


def empty(settings: Settings) -> None:
    with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
        redis.flushdb()


def statuses(settings: Settings, users: Iterable[str]) -> set[ViewStatus]:
    """Return what readers are told about users, apart from a topic that a user has no event in."""
    reader = FeatureReader.from_settings(settings)
    try:
        answers = reader.read(sorted(users)[:200])
    finally:
        reader.close()
    return {view.status for answer in answers for view in answer.views.values()}


def test_emptied_under_load_and_rebuilt_while_live_goes_on(settings: Settings, log_path: Path) -> None:
    log = SentLog()
    send(settings, traffic(2_000, seed=20), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        empty(settings)
        send(settings, traffic(300, seed=21), log)
        until(lambda: process.poll() is not None, "the worker goes on without what it had stored")
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        send(settings, traffic(300, seed=22), log)
        assert statuses(settings, log.by_user()) == {ViewStatus.REBUILDING}
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send, settings, traffic(2_000, seed=23), log)
            told = replay(settings)
            sending.result()
        assert {each["status"] for each in told["rebuilt"]} == {"live"}
        assert len(told["rebuilt"]) == len(GroupLags(settings).read())
        send(settings, traffic(500, seed=24), log)
        wait_committed(settings, log_path)
        until(lambda: read_workers(settings).rebuilding == 0, "the worker does not learn that all is rebuilt")
        assert statuses(settings, log.by_user()) <= {ViewStatus.FRESH, ViewStatus.MISSING}
        assert_exact(settings, log)
        again = replay(settings, "--topic", "shop.clicks.v1", "--all")
        assert {each["repaired"] for each in again["rebuilt"]} == {0}
        assert stop_worker(process) == 0, tail(log_path)
    assert_exact(settings, log)


def test_rebuilt_before_any_worker_starts_killed_and_run_again(settings: Settings, log_path: Path) -> None:
    log = SentLog()
    send(settings, traffic(3_000, seed=25), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        assert stop_worker(process) == 0, tail(log_path)
    empty(settings)
    planned = replay(settings, "--dry-run")
    assert {each["status"] for each in planned["planned"]} == {"lost"}
    assert sum(each["events"] for each in planned["planned"]) == table_counts(settings.lake_path)["raw_events"]
    assert table_counts(settings.lake_path)["repairs"] == 0
    killed = replay_process(settings)
    wait_until(lambda: table_counts(settings.lake_path)["repairs"] > 0, REPLAY_DEADLINE_S, "the replay repairs nobody")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert {each["status"] for each in replay(settings)["rebuilt"]} == {"live"}
    assert statuses(settings, log.by_user()) <= {ViewStatus.FRESH, ViewStatus.MISSING}
    send(settings, traffic(500, seed=26), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        assert read_workers(settings).rebuilding == 0
    assert_exact(settings, log)
    assert replay(settings)["planned"] == []
