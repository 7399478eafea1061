"""A range through the features' code once more: stopped, killed, gone on with, from Kafka and from the lake."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.worker_process import worker_process
from config.settings import Settings, as_environment
from replay.errors import ReplayBegunError, ReplayRunningError
from replay.execution import opened_source
from replay.lake_folds import FoldOrder, LakeFold
from replay.targets import Into
from schemas.event import EVENT_TOPICS
from schemas.kafka_client import client_settings
from schemas.topics import describe_topics
from sinks.delta import opened
from sinks.lake_reads import PartitionLog
from tests.replay_runs import DEADLINE_S, finished, killed_in_the_middle
from tests.waiting import wait_until
from tests.worker_runs import send, traffic, wait_committed, wait_ready
from traffic.sent_log import SentLog

pytestmark = pytest.mark.stack

COUNT = 6_000


@pytest.fixture
def log(settings: Settings, topics: tuple[str, ...]) -> SentLog:
    """Traffic with late, doubled and broken records, in the topics."""
    sent = SentLog()
    send(settings, traffic(COUNT, broken=0.01), sent, broken=True)
    return sent


@contextmanager
def command(settings: Settings, into: Into, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the command, slowly; at the end it is killed if it still runs."""
    arguments = ["replay", "--into", into.value, "--source", "kafka", "--rate", "1500", "--json", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**os.environ, **as_environment(settings)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def history(settings: Settings) -> list[dict[str, Any]]:
    """Return the rows of the table in the order of the logs, without the run that wrote them."""
    handle = opened(settings.lake_path / "feature_history")
    assert handle is not None
    rows = handle.to_pyarrow_table().drop_columns(["run_id"])
    return list(rows.sort_by([(name, "ascending") for name in ("topic", "partition", "offset")]).to_pylist())


def elsewhere(settings: Settings, tmp_path: Path) -> Settings:
    """Return settings with another home, so with another lake and other runs."""
    return settings.model_copy(update={"home": tmp_path / "elsewhere"})


def test_a_backfill_that_was_killed_and_stopped_equals_one_that_was_not(
    settings: Settings, log: SentLog, tmp_path: Path
) -> None:
    other = elsewhere(settings, tmp_path)
    whole = finished(other, Into.HISTORY, workers=2)
    assert whole["written"] == whole["events"] == len(history(other))
    assert whole["records_read"] == log.acknowledged_count == whole["events"] + whole["dead_letters"]

    with killed_in_the_middle(settings, Into.HISTORY), pytest.raises(ReplayRunningError):
        finished(settings, Into.HISTORY)
    with pytest.raises(ReplayBegunError, match="--resume"):
        finished(settings, Into.HISTORY)

    # stopped by Ctrl-C
    with command(settings, Into.HISTORY, "--resume") as process:
        assert process.stderr is not None
        process.stderr.readline()  # what it will do
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
        assert json.loads(out)["finished"] is False

    rest = finished(settings, Into.HISTORY, resume=True, workers=2)
    assert rest["events"] == whole["events"]
    assert history(settings) == history(other)
    again = finished(settings, Into.HISTORY)
    assert (again["written"], again["held"]) == (0, whole["events"])


def test_what_is_published_again_is_there_once_also_after_a_kill(settings: Settings, log: SentLog) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    copy = f"copy-{uuid.uuid4().hex[:8]}"
    admin = AdminClient(client_settings(settings.kafka))
    admin.create_topics([NewTopic(copy, 3, 1)])[copy].result(30)
    wait_until(lambda: copy in admin.list_topics(timeout=10).topics, DEADLINE_S, "the topic is not there")
    with killed_in_the_middle(settings, Into.TOPIC, copy):
        pass
    done = finished(settings, Into.TOPIC, to_topic=copy, resume=True)
    published = by_key(settings, copy)
    assert sum(map(len, published.values())) == done["published"] == done["events"]
    originals = [by_key(settings, topic) for topic in EVENT_TOPICS]
    for key, values in published.items():
        sent = sum((Counter(each.get(key, ())) for each in originals), Counter[bytes]())
        assert Counter(values) <= sent
        for each in originals:
            mine = [value for value in values if value in each.get(key, ())]
            rest = iter(each.get(key, ()))
            assert all(value in rest for value in mine), "a user's events of one topic changed their order"


def by_key(settings: Settings, topic: str) -> dict[bytes, list[bytes]]:
    """Read what is committed, in the order of the log."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        client_settings(settings.kafka)
        | {"group.id": f"read-{uuid.uuid4().hex}", "isolation.level": "read_committed", "enable.partition.eof": True}
    )
    found: dict[bytes, list[bytes]] = {}
    try:
        for partition in consumer.list_topics(topic, timeout=30).topics[topic].partitions:
            consumer.assign([TopicPartition(topic, partition, 0)])
            while (message := consumer.poll(30.0)) is not None and message.error() is None:
                found.setdefault(message.key() or b"", []).append(message.value())
    finally:
        consumer.close()
    return found


def test_kafka_and_the_lake_give_the_same_counts_and_states(settings: Settings, log: SentLog) -> None:
    log_path = settings.home / "worker.log"
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
    counts = {source: finished(settings, Into.NOTHING, source, workers=2) for source in ("kafka", "lake")}
    assert counts["lake"].pop("dead_letters") + counts["lake"]["events"] == log.acknowledged_count
    counts["kafka"].pop("dead_letters")
    assert counts["kafka"] == counts["lake"]
    states = {name: folded(settings, name) for name in counts}
    assert states["kafka"] == states["lake"]
    assert len(states["lake"]) > 100


def folded(settings: Settings, source_name: str) -> dict[tuple[str, str], bytes]:
    """Fold every partition; return the states by topic and user."""
    found: dict[tuple[str, str], bytes] = {}
    with opened_source(settings, source_name) as source:
        for topic, info in describe_topics(settings).items():
            for partition in range(info.partition_count if topic in EVENT_TOPICS else 0):
                fold = LakeFold(source, PartitionLog(info.log_epoch, topic, partition), FoldOrder.LOG)
                fold.read_on()
                found.update(((topic, user_id), state) for user_id, state in fold.states.items())
    return found
