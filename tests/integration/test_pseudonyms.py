"""Pseudonyms at ingest on the real stack: the features are the same, and no user id is in anything that is stored."""

import json
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cli.context import Invocation
from cli.demo_check import compare_states
from cli.features import app as features_app
from cli.lake import app as lake_app
from config.settings import Settings, as_environment
from schemas.encoder import read_letter
from schemas.event import DEAD_LETTERS_TOPIC
from schemas.privacy import Pseudonyms
from serving.reader import FeatureReader, ViewStatus
from sinks.tables import DEAD_LETTERS
from streams.observing import read_workers
from tests.faults.workers import WorkerHost, worker_host
from tests.privacy_search import traces
from tests.worker_runs import assert_exact, send, traffic, wait_committed
from traffic.sent_log import SentLog
from traffic.timed import BrokenEvent, TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

KEY = "a key of the tests, long enough"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHost]:
    """A process that starts workers quickly."""
    with worker_host(tmp_path_factory.mktemp("host") / "host.log") as running:
        yield running


@pytest.fixture
def private(settings: Settings) -> Settings:
    privacy = settings.privacy.model_validate({"pseudonymise": True, "key": KEY})
    return settings.model_copy(update={"privacy": privacy})


def renamed(events: Iterable[TimedEvent], name: str) -> Iterator[TimedEvent]:
    """Give users ids that occur nowhere else."""
    for timed in events:
        payload = timed.payload
        event = payload.event if isinstance(payload, BrokenEvent) else payload
        named = msgspec.structs.replace(event, user_id=f"{name}-{event.user_id}@example.org")
        yield timed._replace(payload=BrokenEvent(payload.defect, named) if isinstance(payload, BrokenEvent) else named)


def invoke(app: object, settings: Settings, *arguments: str) -> str:
    overrides = settings.model_dump(mode="python", exclude_unset=True)
    told = CliRunner().invoke(app, list(arguments), obj=Invocation(overrides=overrides))  # type: ignore[arg-type]
    assert told.exit_code == 0, told.output
    return told.stdout


def tail(settings: Settings, *arguments: str) -> str:
    command = [sys.executable, "-m", "cli.main", "events", "tail", "--from-beginning", "--json", *arguments]
    environment = {**os.environ, **as_environment(settings)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout


def published_letters(settings: Settings) -> list[bytes]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "letters", "enable.auto.commit": False}
    )
    try:
        partition = TopicPartition(DEAD_LETTERS_TOPIC, 0)
        _, end = consumer.get_watermark_offsets(partition, timeout=30)
        consumer.assign([TopicPartition(DEAD_LETTERS_TOPIC, 0, 0)])
        values: list[bytes] = []
        while len(values) < end:
            values += [message.value() for message in consumer.consume(100, timeout=5)]
        return values
    finally:
        consumer.close()


def test_features_are_right_and_no_id_is_stored_anywhere(private: Settings, host: WorkerHost, tmp_path: Path) -> None:
    name = f"visitor-{uuid.uuid4().hex[:8]}"
    log, worker_log = SentLog(), tmp_path / "worker.log"
    send(private, renamed(traffic(2_000, seed=31, broken=0.02), name), log, broken=True)
    worker = host.start(private, worker_log)
    wait_committed(private, worker_log)
    (entry,) = (private.home / "workers").glob("*.json")
    with urllib.request.urlopen(json.loads(entry.read_text())["metrics"], timeout=5) as answer:
        metrics = answer.read().decode()
    reasons = read_workers(private).dead_letters
    assert worker.stop() == 0, worker.tail()
    assert_exact(private, log)  # states as folded from the lake, and features against the oracle
    assert compare_states(private).state_count

    user = next(iter(log.by_user()))
    assert traces(private, [name], [("log", worker_log.read_text()), ("metrics", metrics)]) == []
    pseudonym = Pseudonyms(KEY.encode()).of(user)
    assert traces(private, [pseudonym])  # it is there under that name
    letters = published_letters(private)
    assert len(letters) == sum(reasons.values()) == sum(log.defect_counts.values())
    for letter in letters:
        assert name.encode() not in letter
        published = read_letter(letter)
        assert (published.letter.key, published.letter.value, published.value_sha256) == (None, None, None)
    assert any(read_letter(letter).value_size_bytes for letter in letters)
    rows = _letters(private)
    assert {(row["key"], row["value"], row["value_sha256"]) for row in rows} == {(None, None, None)}
    assert any(row["value_size"] for row in rows)

    answered = json.loads(invoke(features_app, private, "get", user, "--json"))["users"][0]
    assert (answered["user_id"], answered["found"]) == (user, True)
    shown = tail(private, "--user", user, "--max", "1")
    assert json.loads(shown)["event"]["user_id"] == pseudonym
    assert name not in shown

    # the status of the partition is that of the real id
    reader = FeatureReader.from_settings(private)
    try:
        statuses = {view.status for view in reader.read([user])[0].views.values()}
    finally:
        reader.close()
    assert statuses <= {ViewStatus.FRESH, ViewStatus.MISSING}

    invoke(lake_app, private, "erase", user, "--yes")
    assert traces(private, [user, pseudonym]) == []


def _letters(settings: Settings) -> list[dict[str, object]]:
    from deltalake import DeltaTable

    rows: list[dict[str, object]] = DeltaTable(settings.lake_path / DEAD_LETTERS.name).to_pyarrow_table().to_pylist()
    return rows
