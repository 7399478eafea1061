"""A rolling restart from the release before to this one and back, under traffic: nothing is lost or doubled."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from config.settings import Settings, as_environment
from feature_repo.fence import Fence, FenceStore, PartitionStatus, fence_key
from schemas.event import EVENT_TOPICS
from schemas.topics import describe_topics
from sinks.delta import open_or_create
from sinks.lake_reads import offsets, table_counts
from sinks.maintenance import maintain_lake
from sinks.tables import FEATURE_LOG, LAKE_TABLES
from streams.observing import GroupLags
from tests.waiting import wait_until
from tests.worker_runs import DRAIN_DEADLINE_S, START_DEADLINE_S, assert_exact, tail, traffic, until, wait_committed
from traffic.broken import EXPECTED_REASONS
from traffic.pacing import Pacer
from traffic.sending import open_sender
from traffic.sent_log import SentLog

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

ROOT = Path(__file__).resolve().parents[2]
RELEASES = sorted((ROOT / "tests" / "golden" / "releases").glob("*.whl"))
RATE = 200.0
EACH_PHASE = 300  # records that both must live through together

# A release's own packages and the environment's, but none of any other's. It imports what takes long, once, and then
# becomes a worker each time that it reads the name of a log, or tells how the worker with this process id has ended.
HOST = """
import importlib, os, runpy, sys
folder, checkout = sys.argv[1:]
sys.path[:] = [folder, *(path for path in sys.path if path not in ("", checkout))]
from feature_repo import load_feast
load_feast()
for name in ("streams.worker", "feature_repo.opening", "feast.infra.online_stores.redis", "deltalake"):
    importlib.import_module(name)
print(sys.modules["streams.worker"].__file__, flush=True)
for line in sys.stdin:
    if line.strip().isdigit():
        print(os.waitstatus_to_exitcode(os.waitpid(int(line), 0)[1]), flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    os.setsid()
    log = os.open(line.strip(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(log, 1), os.dup2(log, 2)
    sys.argv[1:] = ["worker"]
    runpy.run_module("cli.main", run_name="__main__", alter_sys=True)
"""


@dataclass
class Worker:
    """A running worker of either release."""

    release: "Release"
    pid: int
    log: Path

    @property
    def runs(self) -> bool:
        """Tell whether it has not ended."""
        return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE

    def wait_started(self) -> None:
        """Wait until it was given partitions."""

        def started() -> bool:
            assert self.runs, tail(self.log)
            return "started at {'" in self.log.read_text(errors="replace")

        wait_until(started, START_DEADLINE_S, lambda: f"it was given no partitions: {tail(self.log)}")

    def stop(self) -> None:
        """Stop it in order."""
        os.kill(self.pid, signal.SIGTERM)
        wait_until(lambda: not self.runs, DRAIN_DEADLINE_S, lambda: f"it does not stop: {tail(self.log)}")
        assert self.release.exit_code(self) == 0, tail(self.log)


class Release:
    """Starts workers of the release in a folder; those that still run end with the block."""

    def __init__(self, folder: Path, settings: Settings, logs: Path) -> None:
        self._logs = logs
        self._running: dict[int, Worker] = {}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._host = subprocess.Popen(
            [sys.executable, "-c", HOST, str(folder), str(ROOT)],
            cwd=folder,
            env={**environment, **as_environment(settings), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._folder = folder

    def __enter__(self) -> "Release":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self._running):
            os.kill(pid, signal.SIGKILL)
            self.exit_code(self._running[pid])
        self._host.communicate()

    def wait_ready(self) -> None:
        """Wait until a worker starts at once."""
        assert self._host.stdout is not None
        assert self._host.stdout.readline().strip() == f"{self._folder}/streams/worker.py"

    def start(self) -> Worker:
        """Start a worker."""
        log = self._logs / f"{self._folder.name}-{len(list(self._logs.glob('*.log')))}.log"
        log.touch()
        pid = self._ask(str(log))
        self._running[pid] = Worker(self, pid, log)
        return self._running[pid]

    def exit_code(self, worker: Worker) -> int:
        """Return how a worker has ended."""
        del self._running[worker.pid]
        return self._ask(str(worker.pid))

    def _ask(self, line: str) -> int:
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._host.stdin.write(f"{line}\n")
        self._host.stdin.flush()
        return int(self._host.stdout.readline())


@contextmanager
def sending(settings: Settings, log: SentLog) -> Iterator[None]:
    """Send traffic, some of it late, doubled or broken, for the time of the block."""
    stopped = threading.Event()
    failures: list[BaseException] = []
    pacer = Pacer(clock=time.monotonic, sleep=time.sleep, stopped=stopped.is_set)

    def run() -> None:
        try:
            with open_sender(settings, log, broken=True) as sender:
                sender.run(traffic(1_000_000, rate=RATE, broken=0.02), pacer)
        except BaseException as error:  # noqa: BLE001 - a test's thread tells what ended it
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    assert failures == []


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The newest release, unpacked."""
    folder = tmp_path / "before"
    with zipfile.ZipFile(RELEASES[-1]) as wheel:
        wheel.extractall(folder)
    return folder


def live_together(
    settings: Settings, *workers: Worker, join: Sequence[Worker] = (), leave: Worker | None = None
) -> None:
    """Let some workers join and then one leave; wait until the others have gone on together."""
    for worker in join:
        worker.wait_started()
    if leave is not None:
        leave.stop()
    lags = GroupLags(settings)

    def committed() -> int:
        for worker in (*workers, *join):
            assert worker.runs, tail(worker.log)
        return sum(lag.committed or 0 for lag in lags.read())

    start = committed()
    until(lambda: committed() >= start + EACH_PHASE, "nothing is committed")


def use_what_only_this_release_knows(settings: Settings) -> None:
    """Make the tables that the release before does not know, have the lake maintained, and set fields of the fences."""
    for table in LAKE_TABLES.values():
        open_or_create(settings.lake_path / table.name, table)
    assert maintain_lake(settings.lake_path, retention_hours=168, open_day=True).tables[0].merged_files > 0
    redis: Any = Redis.from_url(settings.redis.url.get_secret_value())
    for topic in EVENT_TOPICS:
        key = fence_key(settings.feast.project, topic)
        partitions = {name.partition(b":")[0] for name in redis.hkeys(key)}
        assert partitions
        for partition in partitions:
            redis.hset(key, mapping={partition + b":hold_until_ms": "1", partition + b":of_a_later_release": "?"})
    redis.close()


def test_a_rolling_restart_up_and_down_again_loses_and_doubles_nothing(
    settings: Settings, before: Path, tmp_path: Path
) -> None:
    log = SentLog()
    hasty = settings.model_copy(update={"worker": settings.worker.model_copy(update={"flush_interval_ms": 300})})
    with Release(before, hasty, tmp_path) as old, Release(ROOT, hasty, tmp_path) as new:
        old.wait_ready()
        new.wait_ready()
        with sending(settings, log):
            first, second = old.start(), old.start()
            live_together(settings, join=[first, second])
            third = new.start()
            live_together(settings, second, join=[third], leave=first)
            use_what_only_this_release_knows(settings)
            live_together(settings, second, third)
            fourth = new.start()
            live_together(settings, third, join=[fourth], leave=second)
            # and down again: one of the release before joins, and is the last that is left
            fifth = old.start()
            live_together(settings, fourth, join=[fifth], leave=third)
            live_together(settings, fifth, leave=fourth)
        wait_committed(settings, fifth.log)
        fifth.stop()
    assert_exact(settings, log)
    expected: Counter[str] = Counter()
    for defect, count in log.defect_counts.items():
        expected[EXPECTED_REASONS[defect].value] += count
    assert letters_by_reason(settings) == expected
    versions = offsets(settings.lake_path, FEATURE_LOG)
    assert all(len(set(found)) == len(found) for found in versions.values())
    assert table_counts(settings.lake_path)["raw_events"] > 4 * EACH_PHASE
    assert_fences_stand_at_the_end(settings)


def letters_by_reason(settings: Settings) -> Counter[str]:
    from deltalake import DeltaTable

    letters = DeltaTable(settings.lake_path / "dead_letters").to_pyarrow_table(columns=["reason"])
    return Counter(letters.column("reason").to_pylist())


def assert_fences_stand_at_the_end(settings: Settings) -> None:
    ends = {(lag.tp.topic, lag.tp.partition): lag.produced for lag in GroupLags(settings).read()}
    epochs = {topic: info.log_epoch for topic, info in describe_topics(settings).items()}

    async def read() -> dict[str, dict[int, Fence]]:
        store = FenceStore.from_settings(settings)
        fences = {topic: await store.read(topic) for topic in EVENT_TOPICS}
        await store.close()
        return fences

    found = asyncio.run(read())
    assert {(topic, partition) for topic, fences in found.items() for partition in fences} == ends.keys()
    for topic, fences in found.items():
        for partition, fence in fences.items():
            assert (fence.epoch, fence.next_offset) == (epochs[topic], ends[topic, partition])
            assert fence.status is PartitionStatus.LIVE
