"""The line `live`: how fast a worker catches up, everything on; beside a Quix Streams job that counts into Redis."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from bench.backlog import Backlog
from bench.peer import NAMES, Counts, run_peer
from bench.results import Goal, Line, OutputsDifferError, line_of, say, side_by_side
from cli.worker_process import worker_process
from config.settings import Settings
from serving.reader import FeatureReader
from streams.observing import GroupLags, read_workers

GOAL = Goal(value_min=1_000.0, ratio_min=1.0)
POLL_S = 0.05
DEADLINE_S = 600.0
USERS_AT_ONCE = 500


def measure(found: Backlog, rounds: int) -> Line:
    """Measure both sides in turn.

    Raises:
        OutputsDifferError: they did not count the same.
    """

    def ours(number: int) -> float:
        settings = found.settings(f"live_{number}")
        rate = catch_up(settings, sum(found.counts.values())).rate
        nonlocal counted
        counted = counts_of(settings, found.as_of_ms, counted_users)
        return rate

    def peer(number: int) -> float:
        run = run_peer(found, f"live-{number}", redis=True)
        expect_equal(counted, run.counts)
        return run.rate

    counted: Counts = {}
    counted_users = sorted(run_peer(found, "live-users").counts)
    values = side_by_side(rounds, ours, peer, say)
    return line_of(
        "live",
        *values,
        GOAL,
        unit="events/s",
        what="one worker catches up: both topics, all features, Redis through Feast, every event in Delta Lake, "
        "offsets committed",
        peer_what="one Quix Streams process: clicks, counts per user, kind and minute, each update in Redis",
    )


def expect_equal(ours: Counts, peers: Counts) -> None:
    """Compare the counts of both sides; users without an event in the window are left out of both.

    Raises:
        OutputsDifferError: they differ; it names the first user.
    """
    held = {user: counts for user, counts in ours.items() if any(counts)}
    if held != peers:
        user = min(user for user in held.keys() | peers.keys() if held.get(user) != peers.get(user))
        raise OutputsDifferError(f"{user}: {NAMES} are {held.get(user)} here and {peers.get(user)} at the peer")
    say(f"the counts of {len(held):,} users are equal")


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How a worker caught up, from its first batch to its last commit.

    Attributes:
        rate: events per second.
        cpu_us: CPU time of its process per event, in microseconds.
    """

    rate: float
    cpu_us: float


def catch_up(settings: Settings, count: int, then: Callable[[], None] = lambda: None) -> CaughtUp:
    """Run a worker over the backlog, and measure it.

    Args:
        then: called once it has caught up, before it is stopped.
    """
    log_path = settings.home / "worker.log"
    with worker_process(settings, log_path) as process:
        lags = GroupLags(settings)
        started_s = _wait(process, lambda: _read(settings) > 0)
        before, before_s = _read(settings), _cpu_s(process)
        ended_s = _wait(process, lambda: lags.total() == 0)
        spent_s = _cpu_s(process) - before_s
        then()
    return CaughtUp(count / (ended_s - started_s), 1e6 * spent_s / (count - before))


def _read(settings: Settings) -> int:
    return sum(read_workers(settings).outcomes.values())


def _cpu_s(process: "subprocess.Popen[bytes]") -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def _wait(process: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> float:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"the worker ended with {process.returncode}, or took too long")
        time.sleep(POLL_S)
    return time.monotonic()


def counts_of(settings: Settings, as_of_ms: int, users: list[str]) -> Counts:
    """Return what the online store says of users, by user: the counts that both sides of a line have."""
    reader = FeatureReader.from_settings(settings)
    try:
        found: Counts = {}
        for first in range(0, len(users), USERS_AT_ONCE):
            for answer in reader.read(users[first : first + USERS_AT_ONCE], as_of_ms):
                found[answer.user_id] = tuple(int(str(answer.values[name])) for name in NAMES)
        return found
    finally:
        reader.close()
