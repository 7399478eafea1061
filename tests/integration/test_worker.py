"""The worker on the real stack: what it promises when it is stopped, killed, or joined by another."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from redis import Redis

from cli.demo_check import compare_positions
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from serving.reader import FeatureReader, ViewStatus
from sinks.lake_reads import offsets, table_counts
from sinks.tables import LAKE_TABLES
from streams.observing import GroupLags, read_workers
from tests.worker_runs import (
    applied_by_oracle,
    assert_exact,
    send,
    tail,
    traffic,
    until,
    wait_committed,
    wait_ready,
)
from traffic.broken import EXPECTED_REASONS
from traffic.sent_log import SentLog
from traffic.timed import Defect

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def test_every_record_arrives_once_and_every_defect_gets_its_reason(settings: Settings, log_path: Path) -> None:
    log = SentLog()
    send(settings, traffic(3_000, broken=0.01), log, broken=True)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        report = read_workers(settings)
        assert stop_worker(process) == 0, tail(log_path)
    assert_exact(settings, log)
    assert report.outcomes["applied"] == applied_by_oracle(log)
    assert sum(report.outcomes.values()) == log.acknowledged_count
    expected: Counter[str] = Counter()
    for defect, count in log.defect_counts.items():
        expected[EXPECTED_REASONS[defect].value] += count
    assert report.dead_letters == expected
    assert set(log.defect_counts) == set(Defect)


def test_an_orderly_stop_re_reads_nothing(settings: Settings, log_path: Path) -> None:
    log = SentLog()
    send(settings, traffic(2_000, seed=2), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        # in the middle of it: SIGTERM flushes and commits what was applied
        until(lambda: read_workers(settings).outcomes["applied"] > 0, "nothing is applied")
        assert stop_worker(process) == 0, tail(log_path)
    send(settings, traffic(2_000, seed=3), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        report = read_workers(settings)
    assert report.outcomes["redelivered"] == 0
    assert_exact(settings, log)


def test_a_kill_loses_nothing_and_counts_nothing_twice(settings: Settings, log_path: Path) -> None:
    log = SentLog()
    never = settings.model_copy(update={"worker": settings.worker.model_copy(update={"flush_interval_ms": 600_000})})
    send(settings, traffic(2_000, seed=4), log)
    with worker_process(never, log_path) as process:
        wait_ready(settings, process, log_path)
        until(lambda: sum(read_workers(settings).outcomes.values()) == 2_000, "not all is applied")
        process.kill()  # all is in Redis, nothing is in the lake, nothing is committed
        process.wait()
    assert table_counts(settings.lake_path)["raw_events"] == 0
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        report = read_workers(settings)
    assert report.outcomes["redelivered"] == 2_000
    assert_exact(settings, log)
    logged = offsets(settings.lake_path, LAKE_TABLES["feature_log"])
    assert all(len(set(versions)) == len(versions) for versions in logged.values())


def test_two_workers_share_the_partitions_and_one_takes_over(settings: Settings, tmp_path: Path) -> None:
    first_log, second_log = tmp_path / "first.log", tmp_path / "second.log"
    log = SentLog()
    send(settings, traffic(1_000, seed=5), log)
    with worker_process(settings, first_log) as first, worker_process(settings, second_log) as second:
        wait_ready(settings, first, first_log, workers=2)
        send(settings, traffic(1_000, seed=6), log)
        wait_committed(settings, first_log)
        assert stop_worker(second) == 0, tail(second_log)
        send(settings, traffic(1_000, seed=7), log)
        wait_committed(settings, first_log)
        assert stop_worker(first) == 0, tail(first_log)
    assert_exact(settings, log)


def test_faust_runs_the_same_worker(settings: Settings, log_path: Path) -> None:
    log = SentLog()
    send(settings, traffic(500, seed=8), log)
    faust = Path(sys.executable).with_name("faust")
    environment = {**os.environ, **as_environment(settings)}
    with log_path.open("wb") as output:
        process = subprocess.Popen(
            [str(faust), "-A", "streams.app", "worker", "-l", "info"],
            cwd=Path(__file__).resolve().parents[2],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            wait_ready(settings, process, log_path)
            wait_committed(settings, log_path)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, tail(log_path)
        finally:
            process.kill()
            process.wait()
    assert_exact(settings, log)


def test_a_sink_that_is_gone_stops_the_worker_without_a_commit(settings: Settings, log_path: Path) -> None:
    log = SentLog()
    send(settings, traffic(500, seed=9), log)
    settings.lake_path.parent.mkdir(parents=True, exist_ok=True)
    settings.lake_path.write_text("a file where the lake's folder should be")
    hasty = settings.model_copy(update={"worker": settings.worker.model_copy(update={"sink_attempts": 2})})
    with worker_process(hasty, log_path) as process:
        until(lambda: process.poll() is not None, "the worker goes on without its lake")
        assert process.returncode == 1
    assert all(lag.committed is None for lag in GroupLags(settings).read())
    assert "lake" in tail(log_path)
    assert "Traceback" not in log_path.read_text()  # an expected failure is a sentence
    settings.lake_path.unlink()
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
    assert_exact(settings, log)


def test_an_emptied_online_store_stops_the_worker_and_readers_are_told(settings: Settings, log_path: Path) -> None:
    log = SentLog()
    send(settings, traffic(500, seed=10), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
            redis.flushdb()
        send(settings, traffic(500, seed=11), log)
        until(lambda: process.poll() is not None, "the worker goes on without what it had stored")
        assert process.returncode == 1
    assert "emptied" in tail(log_path)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        assert read_workers(settings).rebuilding == len(GroupLags(settings).read())
    lost, doubled, _, _ = compare_positions(settings, log)
    assert (lost, doubled) == (0, 0)
    reader = FeatureReader.from_settings(settings)
    try:
        answers = reader.read(sorted(log.by_user())[:50])
    finally:
        reader.close()
    assert {view.status for answer in answers for view in answer.views.values()} == {ViewStatus.REBUILDING}
