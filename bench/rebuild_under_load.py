"""FLUSHALL on Redis under load, then the how-to: how fresh are users that are rebuilt already, and is all of it right.

python -m bench.rebuild_under_load [--rate 1000] [--seconds 60] [--history 0] [--json] [-- OPTIONS OF replay]

A stack of its own on free ports. Events come at the rate without a pause; after `--seconds` Redis is emptied; the
worker stops and is started again, as a supervisor does; then `shopstream replay --into online`. At the end every state
is folded from the lake and compared. It exits with 3 if one differs, or if p99 was more than twice that of before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.freshness import FreshnessLog, Sample, percentiles
from bench.results import say
from cli.demo_check import compare_states
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment, load_settings
from stack.embedded import EmbeddedStack
from streams.observing import GroupLags, read_workers
from traffic.pacing import Pacer
from traffic.sending import open_sender
from traffic.sent_log import SentLog
from traffic.simulator import Simulator, SimulatorConfig

ROOT: Final = Path(__file__).resolve().parents[1]
WARM_UP_S: Final = 10.0
SETTLE_S: Final = 5.0
LAST_S: Final = 1.0  # what came just before Redis was emptied is readable only when it is rebuilt
DEADLINE_S: Final = 600.0
CAUGHT_UP_S: Final = 4.0  # the lag of Kafka's offsets is up to a flush interval of records
RATIO_MAX: Final = 2.0
HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        history: events that are there before, of the last hour, so that there is more to rebuild.
        replay: further options of the replay.
    """

    rate: float
    seconds: float
    history: int
    users: int
    replay: tuple[str, ...]


def main() -> None:
    """Run it; exit with 3 when something differs or took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--history", type=int, default=0)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("replay", nargs="*", help="options of shopstream replay, after --")
    asked = parser.parse_args()
    options = Options(asked.rate, asked.seconds, asked.history, asked.users, tuple(asked.replay))
    with tempfile.TemporaryDirectory(prefix="shopstream-bench-") as folder, _stack(Path(folder)) as settings:
        found = run(settings, options)
    if asked.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for name, value in found.items():
            say(f"{name}: {value}")
        say(f"differences {found['differences']}")
    sys.exit(0 if found["differences"] == 0 and found["p99_ratio"] <= RATIO_MAX else 3)


def run(settings: Settings, options: Options) -> dict[str, Any]:
    """Empty Redis under load, rebuild it, and compare."""
    if options.history:
        say(f"sending {options.history:,} events of before")
        _send_history(settings, options)
    log, log_path, marks = FreshnessLog(settings), settings.home / "worker.log", Marks()
    with _traffic(settings, options, log) as stop_traffic:
        with worker_process(settings, log_path) as process:
            _wait_ready(settings, process, options)
            time.sleep(WARM_UP_S)
            log.start()
            marks.set("before")
            time.sleep(options.seconds)
            marks.set("last")
            time.sleep(LAST_S)
            _empty(settings)
            say("Redis is empty")
            _wait(lambda: process.poll() is not None, "the worker goes on without what it had stored")
        with worker_process(settings, log_path) as process:
            _wait_ready(settings, process, options)
            say("the worker is back, the replay begins")
            marks.set("replay")
            told = _replay(settings, options)
            marks.set("rebuilt")
            say(f"rebuilt in {told['seconds']} s")
            time.sleep(SETTLE_S)
            marks.set("after")
            time.sleep(options.seconds / 2)
            marks.set("end")
            stop_traffic()
            _wait(lambda: GroupLags(settings).total() == 0, "the worker does not read all")
            never_seen = log.stop()
            stop_worker(process)
    agreement = compare_states(settings)
    return {
        **marks.account(log.samples),
        "rebuild_seconds": told["seconds"],
        "repaired": sum(each["repaired"] for each in told["rebuilt"]),
        "live": sum(each["status"] == "live" for each in told["rebuilt"]),
        "partitions": len(told["planned"]),
        "states": agreement.state_count,
        "never_seen": never_seen,
        "differences": agreement.differing,
    }


class Marks:
    """When each part of the run began, milliseconds UTC."""

    def __init__(self) -> None:
        self._times_ms: dict[str, float] = {}
        self._loads: dict[str, float] = {}

    def set(self, name: str) -> None:
        """Note that a part begins now, and how busy the machine is: others on it spoil the comparison."""
        self._times_ms[name] = time.time_ns() / 1e6
        self._loads[name] = round(os.getloadavg()[0], 1)

    def account(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return the percentiles of each part, and how those of the rebuild compare with those of before."""

        def part(first: str, end: str, *, was_complete: bool = True) -> dict[str, float]:
            first_ms, end_ms = self._times_ms[first], self._times_ms[end]
            inside = (each for each in samples if first_ms <= each.append_time_ms < end_ms)
            return percentiles(each for each in inside if each.was_complete is was_complete)

        before, during = part("before", "last"), part("replay", "rebuilt")
        return {
            "before": before,
            "during": during,
            "during_of_users_not_rebuilt": part("replay", "rebuilt", was_complete=False),
            "after": part("after", "end"),
            "p50_ratio": round(during["p50_ms"] / max(before["p50_ms"], 0.1), 2),
            "p99_ratio": round(during["p99_ms"] / max(before["p99_ms"], 0.1), 2),
            "load_average": self._loads,
        }


@contextmanager
def _stack(folder: Path) -> Iterator[Settings]:
    stack = EmbeddedStack(folder / "stack", load_settings().cache_dir)
    say("starting Kafka, the schema registry and Redis")
    try:
        found = stack.up()
        yield load_settings(
            {
                "home": folder / "home",
                "kafka": {"bootstrap_servers": found.kafka},
                "registry": {"url": found.registry},
                "redis": {"url": found.redis},
                "feast": {"project": "bench_rebuild"},
                "worker": {"group_id": "bench-rebuild"},
                "gates": {"freshness_policy": "off"},
            }
        )
    finally:
        stack.down()


def _send_history(settings: Settings, options: Options) -> None:
    start_ms = time.time_ns() // 1_000_000 - HOUR_MS
    rate = options.history * 1_000 / HOUR_MS
    config = SimulatorConfig(seed=1, start_ms=start_ms, rate=rate, users=options.users)
    with open_sender(settings, SentLog(keep=False), broken=False) as sender:
        events = Simulator(config, options.history).events()
        sender.run(events, Pacer(clock=time.monotonic, sleep=time.sleep, speed=None))


@contextmanager
def _traffic(settings: Settings, options: Options, log: FreshnessLog) -> Iterator[Callable[[], None]]:
    """Send events at the rate, in a thread, until the yielded function is called."""
    stopped = threading.Event()

    def send() -> None:
        config = SimulatorConfig(seed=2, start_ms=time.time_ns() // 1_000_000, rate=options.rate, users=options.users)
        pacer = Pacer(clock=time.monotonic, sleep=time.sleep, stopped=stopped.is_set)
        with open_sender(settings, log, broken=False) as sender:
            sender.run(Simulator(config).events(), pacer)
        say(f"sent {pacer.sent_count:,} events, at most {pacer.behind_ms_max:.0f} ms behind their time")

    def stop() -> None:
        stopped.set()
        thread.join()

    thread = threading.Thread(target=send, name="traffic")
    thread.start()
    try:
        yield stop
    finally:
        stop()


def _wait_ready(settings: Settings, process: "subprocess.Popen[bytes]", options: Options) -> None:
    """Wait until the worker owns all partitions, and has caught up."""
    lags = GroupLags(settings)

    def is_ready() -> bool:
        if process.poll() is not None:
            raise SystemExit((settings.home / "worker.log").read_text()[-2_000:])
        return len(read_workers(settings).read) == len(lags.read()) and lags.total() < CAUGHT_UP_S * options.rate

    _wait(is_ready, "the worker does not catch up")


def _empty(settings: Settings) -> None:
    from redis import Redis

    with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
        redis.flushall()


def _replay(settings: Settings, options: Options) -> dict[str, Any]:
    command = [sys.executable, "-m", "cli.main", "replay", "--into", "online", "--json", *options.replay]
    environment = {**os.environ, **as_environment(settings)}
    done = subprocess.run(  # in a session of its own, as in another terminal: it must not slow the traffic it is beside
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, start_new_session=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the replay ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _wait(condition: Callable[[], bool], message: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(message)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
