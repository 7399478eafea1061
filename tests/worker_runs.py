"""What tests of a running worker share: traffic, waiting until all is committed, comparing with the oracle."""

import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cli.demo_check import compare_features, compare_positions, compare_states, expected_applied
from config.settings import Settings
from streams.observing import GroupLags, read_workers
from tests.waiting import wait_until
from traffic.pacing import Pacer
from traffic.sending import open_sender
from traffic.sent_log import SentLog
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import TimedEvent

START_DEADLINE_S = 120.0
DRAIN_DEADLINE_S = 120.0


def traffic(count: int, *, rate: float = 500.0, seed: int = 1, broken: float = 0.0) -> Iterable[TimedEvent]:
    """Return simulated events that happened just now."""
    config = SimulatorConfig(
        seed=seed,
        start_ms=time.time_ns() // 1_000_000 - 60_000,
        rate=rate,
        late_share=0.02,
        duplicate_share=0.02,
        broken_share=broken,
    )
    return Simulator(config, count).events()


def send(settings: Settings, events: Iterable[TimedEvent], log: SentLog, *, broken: bool = False) -> None:
    """Send events at full speed, and wait until the broker has acknowledged them."""
    with open_sender(settings, log, broken=broken) as sender:
        sender.run(events, Pacer(clock=time.monotonic, sleep=time.sleep, speed=None))


def wait_ready(settings: Settings, process: "subprocess.Popen[bytes]", log_path: Path, *, workers: int = 1) -> None:
    """Wait until so many workers own all partitions between them."""
    partition_count = len(GroupLags(settings).read())

    def ready() -> bool:
        assert process.poll() is None, log_path.read_text()
        report = read_workers(settings)
        return report.worker_count >= workers and len(report.read) == partition_count

    wait_until(ready, START_DEADLINE_S, lambda: f"the worker took no partitions: {tail(log_path)}")


def wait_committed(settings: Settings, log_path: Path) -> None:
    """Wait until every record is committed."""
    lags = GroupLags(settings)
    wait_until(lambda: lags.total() == 0, DRAIN_DEADLINE_S, lambda: f"a lag of {lags.total()} stays: {tail(log_path)}")


def assert_exact(settings: Settings, log: SentLog, *, users_max: int = 300) -> None:
    """Assert that every acknowledged record is in the lake once, and that features equal the oracle's."""
    lost, doubled, _, differences = compare_positions(settings, log)
    assert (lost, doubled, differences) == (0, 0, []), differences
    agreement = compare_states(settings)
    assert (agreement.differing, agreement.examples) == (0, ()), agreement
    assert agreement.state_count > 0
    checked, mismatches = compare_features(settings, log.by_user(), users_max)
    assert mismatches == []
    assert checked > 0


def applied_by_oracle(log: SentLog) -> int:
    """Return how many events must be applied."""
    return expected_applied(log.by_user())


def until(condition: Callable[[], bool], message: str) -> None:
    """Wait for a condition of a run that is under way."""
    wait_until(condition, DRAIN_DEADLINE_S, message)


def tail(log_path: Path) -> str:
    """Return the end of a worker's log."""
    return log_path.read_text(errors="replace")[-3_000:] if log_path.exists() else "no log"
