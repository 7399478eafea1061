"""A topic gets more partitions: the how-to moves the states to the new log, and nothing is lost or counted twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from cli.demo_check import compare_features, compare_states
from cli.main import app
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from schemas.event import EVENT_TOPICS
from schemas.kafka_client import client_settings
from schemas.topics import describe_topics
from sinks.lake_reads import offsets, table_counts
from sinks.tables import LAKE_TABLES
from tests.waiting import wait_until
from tests.worker_runs import send, tail, traffic, wait_committed, wait_ready
from traffic.sent_log import Sent, SentLog
from traffic.timed import Mark, TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

MORE_PARTITIONS = 6


def replay(settings: Settings, *arguments: str) -> dict[str, Any]:
    """Run the command in this process, which has imported Feast already; return its JSON."""
    command = ["replay", "--into", "online", "--nice", "0", "--json", *arguments]
    result = CliRunner().invoke(app, command, env=as_environment(settings), catch_exceptions=False)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def add_partitions(settings: Settings) -> None:
    from confluent_kafka.admin import AdminClient, NewPartitions

    admin = AdminClient(client_settings(settings.kafka))
    wanted = [NewPartitions(topic, MORE_PARTITIONS) for topic in EVENT_TOPICS]
    for done in admin.create_partitions(wanted, operation_timeout=30).values():
        done.result()
    wait_until(
        lambda: all(describe_topics(settings)[topic].partition_count == MORE_PARTITIONS for topic in EVENT_TOPICS),
        60,
        "the partitions are not there",
    )


def sent_again(log: SentLog, count: int) -> list[TimedEvent]:
    """Return the newest events once more, as a producer's retry would bring them."""
    newest = sorted((each for each in log.records() if each.event), key=lambda each: each.append_time_ms)[-count:]
    return [TimedEvent(0, each.topic, each.event, Mark.DUPLICATE) for each in newest if each.event]


def history(*logs: SentLog) -> dict[str, Sequence[Sent]]:
    """Return each user's records over all logs, numbered anew: offsets of two logs are not comparable."""
    users: dict[str, list[Sent]] = {}
    for log in logs:
        for user, sent in log.by_user().items():
            users.setdefault(user, []).extend(sent)
    return {user: [each._replace(offset=number) for number, each in enumerate(sent)] for user, sent in users.items()}


def assert_right(settings: Settings, *logs: SentLog) -> None:
    """Assert that every record is in the lake once, and that states and features are those of both logs."""
    held = sorted(
        (topic, partition, offset)
        for table in ("raw_events", "dead_letters")
        for (topic, partition), found in offsets(settings.lake_path, LAKE_TABLES[table]).items()
        for offset in found
    )
    assert held == sorted((each.topic, each.partition, each.offset) for log in logs for each in log.records())
    agreement = compare_states(settings)
    assert (agreement.differing, agreement.examples) == (0, ())
    users = history(*logs)
    assert agreement.state_count >= len(users)
    checked, mismatches = compare_features(settings, users, 300)
    assert (checked, mismatches) == (min(300, len(users)), [])


def test_more_partitions(settings: Settings, tmp_path: Path) -> None:
    before, after, log_path = SentLog(), SentLog(), tmp_path / "worker.log"
    send(settings, traffic(2_000, seed=40), before)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        assert stop_worker(process) == 0, tail(log_path)
    old = {topic: describe_topics(settings)[topic].log_epoch for topic in EVENT_TOPICS}
    add_partitions(settings)
    send(settings, [*sent_again(before, 50), *traffic(1_000, seed=41)], after)
    problems = replay(settings, "--topic", EVENT_TOPICS[0], "--all", "--dry-run")["failures"]
    assert all(f"--from-epoch={old[EVENT_TOPICS[0]]}`" in problem for problem in problems), problems

    epochs = [f"--from-epoch={epoch}" for epoch in old.values()]
    planned = replay(settings, *epochs, "--dry-run")
    assert [each["problem"] for each in planned["planned"]] == [None, None]
    assert table_counts(settings.lake_path)["repairs"] == 0
    told = replay(settings, *epochs)
    assert told["failures"] == []
    assert sum(each["moved"] for each in told["moved"]) > 0
    assert replay(settings, "--dry-run")["planned"] == []

    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        assert stop_worker(process) == 0, tail(log_path)
    assert table_counts(settings.lake_path)["dead_letters"] == 0
    assert_right(settings, before, after)

    with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
        redis.flushdb()
    rebuilt = replay(settings)
    assert [each["status"] for each in rebuilt["rebuilt"]] == ["live"] * 2 * MORE_PARTITIONS
    assert_right(settings, before, after)
