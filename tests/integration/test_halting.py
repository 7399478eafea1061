"""A halt on the real stack: raw rows land and nothing else, whoever dies, and after it all is as if it had not been."""

import time
from pathlib import Path

import pytest

from cli.worker_process import stop_worker, worker_process
from config.settings import Settings
from feature_repo.fence import FenceStore
from features.catalog import VIEWS
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from serving.reader import FeatureReader, ViewStatus
from sinks.lake_reads import table_counts
from streams.observing import GroupLags, read_workers
from tests.worker_runs import assert_exact, send, tail, traffic, until, wait_committed, wait_ready
from traffic.sent_log import SentLog

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]


def lag_of(settings: Settings, topic: str) -> int:
    return sum(lag.lag_records for lag in GroupLags(settings).read() if lag.tp.topic == topic)


def landed(settings: Settings, log: SentLog) -> None:
    """Wait until all raw rows are in the lake, though clicks are halted, and carts are committed."""
    letters = sum(log.defect_counts.values())
    until(
        lambda: table_counts(settings.lake_path)["raw_events"] == log.acknowledged_count - letters,
        "raw rows do not land",
    )
    until(lambda: lag_of(settings, CARTS_TOPIC) == 0, "the carts do not go on")


def test_a_halt_outlives_its_worker_and_leaves_no_trace(settings: Settings, tmp_path: Path) -> None:
    log_path = tmp_path / "worker.log"
    log, fences = SentLog(), FenceStore.from_settings(settings)
    send(settings, traffic(1_000, seed=51), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        halted_since_ms = time.time_ns() // 1_000_000
        assert fences.halt_blocking(CLICKS_TOPIC, halted_since_ms) > 0
        halted = fences.read_blocking(CLICKS_TOPIC)
        send(settings, traffic(1_500, seed=52, broken=0.01), log, broken=True)
        landed(settings, log)
        report = read_workers(settings)
        assert {tp.topic for tp in report.halted} == {CLICKS_TOPIC}
        assert fences.read_blocking(CLICKS_TOPIC) == halted
        process.kill()
        process.wait()

    reader = FeatureReader.from_settings(settings, for_inspection=True)
    answer = reader.read([next(iter(log.by_user()))])[0]
    reader.close()
    assert answer.views[VIEWS[CLICKS_TOPIC].view].status is ViewStatus.HALTED
    assert answer.views[VIEWS[CLICKS_TOPIC].view].halted_since_ms == halted_since_ms

    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        send(settings, traffic(500, seed=53), log)
        landed(settings, log)
        assert fences.read_blocking(CLICKS_TOPIC) == halted
        assert lag_of(settings, CLICKS_TOPIC) > 0
        assert stop_worker(process) == 0, tail(log_path)
        assert fences.read_blocking(CLICKS_TOPIC) == halted

    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        until(lambda: bool(read_workers(settings).halted), "the worker does not notice the halt")
        assert fences.free_blocking(CLICKS_TOPIC) == len(halted)
        wait_committed(settings, log_path)  # with no new record
        assert read_workers(settings).halted == {}
        assert stop_worker(process) == 0, tail(log_path)
    assert_exact(settings, log)
    assert table_counts(settings.lake_path)["dead_letters"] == sum(log.defect_counts.values())
