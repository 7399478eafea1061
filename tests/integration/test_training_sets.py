"""Training sets of a lake that a worker wrote: equal to what readers were really given, and to the oracle."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from features.catalog import FEATURES, VIEWS
from schemas.event import Event
from serving.reader import FeatureReader, UserFeatures
from sinks.delta import opened
from sinks.derived_tables import view_prefix
from sinks.served import ServedRow, read_served
from sinks.tables import FEATURE_LOG
from tests import oracle
from tests.worker_runs import send, tail, traffic, wait_committed, wait_ready
from traffic.sent_log import Sent, SentLog
from training.as_corrected import WARM_UP_MS

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

NAMES = [feature.name for feature in FEATURES]
READS = 40
USERS_PER_READ = 25


def train_set(settings: Settings, out: Path, *arguments: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the command in this process, which has imported Feast already; return rows and manifest."""
    command = ["train", "set", "--out", str(out), "--json", *arguments]
    result = CliRunner().invoke(app, command, env=as_environment(settings), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows, json.loads(result.stdout)


def read_during_traffic(settings: Settings, log: SentLog) -> None:
    """Read users again and again while events arrive; every answer is kept in the lake's table `served`."""
    reader = FeatureReader.from_settings(settings)
    try:
        with ThreadPoolExecutor(1) as pool:
            users = sorted(log.by_user())
            sending = pool.submit(send, settings, traffic(2_500, seed=31), log)
            read = 0
            while read < READS or not sending.done():
                reader.read([users[(read * USERS_PER_READ + n) % len(users)] for n in range(USERS_PER_READ)])
                read += 1
            sending.result()
    finally:
        reader.close()


def read_in_peace(settings: Settings, log: SentLog) -> Sequence[UserFeatures]:
    reader = FeatureReader.from_settings(settings)
    try:
        return reader.read([*sorted(log.by_user())[:200], "nobody"])
    finally:
        reader.close()


def write_labels(path: Path, rows: Sequence[ServedRow]) -> None:
    times = pa.array([row.served_ms for row in rows], pa.timestamp("ms", tz="UTC"))
    pq.write_table(pa.table({"user_id": [row.user_id for row in rows], "event_timestamp": times}), path)


def servable_ms(settings: Settings) -> Mapping[tuple[str, str, int], int]:
    """Return when each state was readable, by topic, user and version."""
    handle = opened(settings.lake_path / FEATURE_LOG.name)
    assert handle is not None
    rows = handle.to_pyarrow_table(columns=["topic", "user_id", "version", "servable_ms"]).to_pylist()
    return {(row["topic"], row["user_id"], row["version"]): row["servable_ms"] for row in rows}


def logs_until(sent: Sequence[Sent], instant_ms: int) -> dict[str, list[tuple[int, Event]]]:
    logs: dict[str, list[tuple[int, Event]]] = {topic: [] for topic in VIEWS}
    for record in sent:
        if record.event is not None and record.event.event_time_ms <= instant_ms:
            logs[record.topic].append((record.offset, record.event))
    return {topic: oracle.corrected(log) for topic, log in logs.items()}


def test_sets_equal_what_readers_were_given_and_what_the_oracle_says(settings: Settings, tmp_path: Path) -> None:
    serving = settings.serving.model_copy(update={"served_share": 1.0, "served_flush_interval_ms": 200})
    settings = settings.model_copy(update={"serving": serving})
    log, log_path = SentLog(), tmp_path / "worker.log"
    send(settings, traffic(800, seed=30), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        read_during_traffic(settings, log)
        wait_committed(settings, log_path)
        in_peace = read_in_peace(settings, log)
        assert stop_worker(process) == 0, tail(log_path)
    served = [row for rows in read_served(settings.lake_path, 0, 2**53) for row in rows]
    assert len(served) >= READS * USERS_PER_READ + len(in_peace)
    write_labels(tmp_path / "labels.parquet", served)

    rows, told = train_set(
        settings, tmp_path / "served", "--mode", "as_served", "--labels", str(tmp_path / "labels.parquet")
    )
    assert_as_served(settings, served, rows, in_peace)
    assert {schema["sha256"] is not None for schema in told["writer_schemas"]} == {True}
    assert {position["table"] for position in told["positions"]} == {"raw_events", "feature_log"}

    rows, told = train_set(settings, tmp_path / "bought", "--mode", "as_corrected", "--events", "purchase")
    by_user = log.by_user()
    purchases = {
        (user, record.event.event_id)
        for user, sent in by_user.items()
        for record in sent
        if record.event is not None and record.event.kind == "purchase"
    }
    assert len(rows) + told["left_out"].get("before_lake", 0) == len(purchases)
    assert rows
    for row in rows:
        assert row["label_ms"] == row["label_event_time_ms"] - 1
        right = oracle.expected(logs_until(by_user[row["user_id"]], row["label_ms"]), row["label_ms"])
        assert {name: row[name] for name in NAMES} == {name: right[name] for name in NAMES}
    assert time.time_ns() // 1_000_000 - WARM_UP_MS < min(row["label_ms"] for row in rows)


def assert_as_served(
    settings: Settings, served: Sequence[ServedRow], rows: Sequence[Mapping[str, Any]], in_peace: Sequence[UserFeatures]
) -> None:
    """Compare row by row with what was given.

    A reader asks for an instant and reads after it, so it may be given a state that was acknowledged later than the
    instant: by definition (ADR 2) that one is not part of the set. All other answers are equal, to the last value.
    """
    readable_ms = servable_ms(settings)
    last_instant = max(row.served_ms for row in served)
    newer = 0
    for given, row in zip(served, rows, strict=True):
        assert (row["user_id"], row["label_ms"]) == (given.user_id, given.served_ms)
        versions = {topic: row[f"{view_prefix(topic)}_version"] for topic in VIEWS}
        if versions == {topic: view.version for topic, view in given.views.items()}:
            assert {name: row[name] for name in NAMES} == json.loads(given.values)
            assert row["as_of_ms"] == given.as_of_ms
            continue
        newer += 1
        for topic, view in given.views.items():
            if versions[topic] != view.version:
                assert view.version is not None
                assert view.version > (versions[topic] or 0)
                assert readable_ms[topic, given.user_id, view.version] > given.served_ms
    assert newer < len(served) / 2
    quiet = [row for row in rows if row["label_ms"] == last_instant]
    assert len(quiet) == len(in_peace)
    for answer, row in zip(sorted(in_peace, key=lambda each: each.user_id), sorted(quiet, key=_user), strict=True):
        assert {name: row[name] for name in NAMES} == answer.values
        assert row["clamped"] == answer.clamped


def _user(row: Mapping[str, Any]) -> str:
    return str(row["user_id"])
