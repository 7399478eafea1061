"""Users whose states a bug has spoiled are repaired by name, beside a worker; and Kafka rebuilds what the lake does."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from cli.main import app
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from feature_repo.layout import KeyTemplate, frame_state, unframe_state, view_fields
from features.catalog import VIEWS
from features.state import read_trailer, with_trailer
from schemas.event import CLICKS_TOPIC
from tests.worker_runs import assert_exact, send, tail, traffic, wait_committed, wait_ready
from traffic.sent_log import SentLog

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

STATE = view_fields(VIEWS[CLICKS_TOPIC].view).state


def replay(settings: Settings, *arguments: str, stdin: str = "", exit_code: int = 0) -> dict[str, Any]:
    """Run the command in this process, which has imported Feast already; return its JSON."""
    command = ["replay", "--into", "online", "--nice", "0", "--json", *arguments]
    result = CliRunner().invoke(app, command, env=as_environment(settings), input=stdin)
    assert result.exit_code == exit_code, result.stderr
    found: dict[str, Any] = json.loads(result.stdout) if result.stdout else {"error": str(result.exception)}
    return found


def stored(settings: Settings, redis: Any, user: str) -> bytes:
    state = unframe_state(redis.hget(KeyTemplate.of(settings.feast.project).key(user), STATE) or b"")
    assert state is not None
    return state


def test_spoiled_users_are_mended_beside_a_worker_and_kafka_rebuilds_the_same(
    settings: Settings, tmp_path: Path
) -> None:
    log, log_path = SentLog(), tmp_path / "worker.log"
    send(settings, traffic(2_000, seed=30), log)
    clickers = [user for user, sent in log.by_user().items() if any(each.topic == CLICKS_TOPIC for each in sent)]
    first, second, right, *_ = sorted(clickers, key=lambda user: -len(log.by_user()[user]))
    with Redis.from_url(settings.redis.url.get_secret_value()) as connected:
        redis: Any = connected
        with worker_process(settings, log_path) as process:
            wait_ready(settings, process, log_path)
            wait_committed(settings, log_path)
            before = {user: stored(settings, redis, user) for user in clickers}
            for user in (first, second):
                spoiled = with_trailer(before[right], read_trailer(before[user]))
                redis.hset(KeyTemplate.of(settings.feast.project).key(user), STATE, frame_state(spoiled))
            planned = replay(settings, "--user", first, "--dry-run")
            assert (planned["users"], planned["events"]) == (1, len(log.by_user()[first]))
            assert stored(settings, redis, first) != before[first]

            told = replay(settings, "--user", first, "--users-file", "-", stdin=f"{second}\n{right}\n")

            assert (set(told["wrong_users"]), told["right"]) == ({first, second}, 1)
            after = {user: stored(settings, redis, user) for user in clickers}
            assert {user for user in clickers if after[user] != before[user]} == {first, second}
            unknown = CliRunner().invoke(
                app, ["replay", "--into", "online", "--nice", "0", "--user", "nobody"], env=as_environment(settings)
            )
            assert unknown.exit_code == 1
            assert "The lake holds no event of nobody" in str(unknown.exception)
            send(settings, traffic(500, seed=31), log)
            wait_committed(settings, log_path)
            assert_exact(settings, log)
            assert stop_worker(process) == 0, tail(log_path)

        redis.flushdb()
        lake = settings.lake_path
        hidden = lake.rename(lake.with_name(f"lake-{time.monotonic_ns()}"))
        rebuilt = replay(settings, "--source", "kafka")
        assert {each["status"] for each in rebuilt["rebuilt"]} == {"live"}
        for table in lake.iterdir():  # what the rebuild noted joins the lake that is back
            assert table.name in {"repairs", "feature_log"}
        lake.rename(lake.with_name("notes"))
        hidden.rename(lake)
        assert_exact(settings, log)
        again = [replay(settings, "--topic", topic, "--all") for topic in VIEWS]
        assert [each["repaired"] for told in again for each in told["rebuilt"]] == [0] * 8
