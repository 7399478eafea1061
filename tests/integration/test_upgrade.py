"""A rolling restart from the release before to this one and back, under traffic: nothing is lost or doubled."""

import asyncio
import os
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

import pytest
from redis import Redis

from cli.worker_process import stop_worker
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
from tests.worker_runs import START_DEADLINE_S, assert_exact, tail, traffic, until, wait_committed
from traffic.broken import EXPECTED_REASONS
from traffic.pacing import Pacer
from traffic.sending import open_sender
from traffic.sent_log import SentLog

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

ROOT = Path(__file__).resolve().parents[2]
RELEASES = sorted((ROOT / "tests" / "golden" / "releases").glob("*.whl"))
RATE = 200.0
EACH_PHASE = 300  # records that both must live through together

# A release's own packages and the environment's, but none of any other's. It imports what takes long and then waits for
# its cue, so that workers are ready when the test wants them.
START = """
import importlib, runpy, sys
folder, checkout, *sys.argv[1:] = sys.argv[1:]
sys.path[:] = [folder, *(path for path in sys.path if path not in ("", checkout))]
from feature_repo import load_feast
load_feast()
for name in ("streams.worker", "feature_repo.opening", "feast.infra.online_stores.redis", "deltalake"):
    importlib.import_module(name)
print(sys.modules["streams.worker"].__file__, flush=True)
sys.stdin.readline()
runpy.run_module("cli.main", run_name="__main__", alter_sys=True)
"""


@dataclass
class Worker:
    """A running worker of either release."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.close()

    def wait_started(self) -> None:
        """Wait until it was given partitions."""

        def started() -> bool:
            assert self.process.poll() is None, tail(self.log)
            return "started at {'" in self.log.read_text(errors="replace")

        wait_until(started, START_DEADLINE_S, lambda: f"it was given no partitions: {tail(self.log)}")

    def stop(self) -> None:
        """Stop it in order."""
        assert stop_worker(self.process) == 0, tail(self.log)


class Fleet:
    """Workers of two releases over one log, one lake and one online store; they end with the block."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        self._settings = settings
        self._logs = logs
        self._workers: list[Worker] = []

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            stop_worker(worker.process)
            if worker.process.stdin is not None:
                worker.process.stdin.close()

    def prepare(self, release: Path) -> Worker:
        """Load a worker of the release in this folder."""
        log = self._logs / f"worker-{len(self._workers)}.log"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", START, str(release), str(ROOT), "worker"],
                cwd=release,
                env={**environment, **as_environment(self._settings)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._workers.append(Worker(process, log))
        return self._workers[-1]


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
        worker.go()
    for worker in join:
        worker.wait_started()
    if leave is not None:
        leave.stop()
    lags = GroupLags(settings)

    def committed() -> int:
        for worker in (*workers, *join):
            assert worker.process.poll() is None, tail(worker.log)
        return sum(lag.committed or 0 for lag in lags.read())

    start = committed()
    until(lambda: committed() >= start + EACH_PHASE, "nothing is committed")


def use_what_only_this_release_knows(settings: Settings) -> None:
    """Make the tables that the release before does not know, have the lake maintained, and set fields of the fences."""
    for table in LAKE_TABLES.values():
        open_or_create(settings.lake_path / table.name, table)
    assert maintain_lake(settings.lake_path, retention_hours=168, open_day=True).tables[0].merged_files > 0
    redis = Redis.from_url(settings.redis.url.get_secret_value())
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
    with Fleet(hasty, tmp_path) as fleet:
        old, new, back = (
            [fleet.prepare(before) for _ in range(2)],
            [fleet.prepare(ROOT) for _ in range(2)],
            fleet.prepare(before),
        )
        with sending(settings, log):
            live_together(settings, join=old)
            live_together(settings, old[1], join=new[:1], leave=old[0])
            use_what_only_this_release_knows(settings)
            live_together(settings, old[1], new[0])
            live_together(settings, new[0], join=new[1:], leave=old[1])
            # and down again: one of the release before joins, and is the last that is left
            live_together(settings, new[1], join=[back], leave=new[0])
            live_together(settings, back, leave=new[1])
        wait_committed(settings, back.log)
        back.stop()
    for release, workers in ((before, (*old, back)), (ROOT, new)):
        for worker in workers:
            assert f"{release}/streams/worker.py" in worker.log.read_text()
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
