"""The line `gates`: how fast a worker catches up with gates and the watch of drift, and without, on and off in turn."""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.backlog import MINUTE_MS, RATE, Backlog
from bench.live import POLL_S, CaughtUp, catch_up, counts_of
from bench.results import Goal, Line, OutputsDifferError, line_of, say, side_by_side
from config.settings import Settings
from config.words import span
from quality.gates import GateStatus
from sinks.lake_root import lake_of
from sinks.quality_tables import DRIFT_REFERENCES
from sinks.reference_tables import load_references
from streams.gate_report import standings
from streams.watching import DriftWatch
from traffic.reference_files import write_reference_files
from training.drift_reference import take_reference
from training.drift_status import METRICS_FILE
from training.drift_windows import judged_windows

GOAL = Goal(ratio_min=0.95)
ROUNDS = 7
COMPARED_USERS = 2_000
WINDOWS = 20  # of drift, in the events of a round; by default an hour is one
REFERENCE_WINDOWS = 9  # a calibration needs 8
CHECK_INTERVAL_S = 5.0  # by default 30
DEADLINE_S = 120.0
GATES_OFF = dict.fromkeys(("freshness_policy", "null_policy", "schema_policy", "reference_policy"), "off")
# a window of five minutes holds fewer than 500 events of the rarest kind
GATES_ON = {"schema_policy": "halt", "freshness_max_ms": 7 * 24 * 60 * MINUTE_MS, "min_count": 100}


def measure(found: Backlog, rounds: int) -> Line:
    """Measure both sides in turn.

    Raises:
        OutputsDifferError: they did not count the same, or a gate did not pass, or nobody watched.
    """
    count = sum(found.counts.values())
    users = [f"u{user}" for user in range(COMPARED_USERS)]
    window_ms = max(1, int(count / RATE / 60 / WINDOWS)) * MINUTE_MS
    drift = {"window_ms": window_ms, "lateness_ms": MINUTE_MS, "check_interval_s": CHECK_INTERVAL_S}
    off = {"gates": GATES_OFF, "drift": {**drift, "is_watched": False}}
    prepared = found.settings("gates_prepared", **off)
    catch_up(prepared, count)
    # the rest of the windows is left to be judged
    start_ms = found.config.start_ms
    take_reference(prepared, start_ms, start_ms + (REFERENCE_WINDOWS + 1) * window_ms, None, say)
    expected = counts_of(prepared, found.as_of_ms, users)

    def with_gates(number: int) -> float:
        settings = found.settings(f"gates_on_{number}", gates=GATES_ON, drift=drift)
        _load_tables(settings, found)
        shutil.copytree(prepared.lake_path / DRIFT_REFERENCES.name, settings.lake_path / DRIFT_REFERENCES.name)
        with _watched(settings):
            caught_up = catch_up(settings, count, then=lambda: _check(settings))
        if counts_of(settings, found.as_of_ms, users) != expected:
            raise OutputsDifferError("a worker with gates does not count what one without them does")
        return _rate(caught_up, on_us)

    def without(number: int) -> float:
        return _rate(catch_up(found.settings(f"gates_off_{number}", **off), count), off_us)

    on_us: list[float] = []
    off_us: list[float] = []
    values = side_by_side(rounds, with_gates, without, say, names=("on", "off"), alternates=True)
    line = line_of(
        "gates",
        *values,
        GOAL,
        unit="events/s",
        what="one worker catches up, as in the line `live`, with all four gates, reference tables, and a watch "
        f"beside it that looks for drift every {CHECK_INTERVAL_S:g} s, in windows of {span(window_ms)} of event time",
        peer_what="the same with gates and the watch off",
    )
    return replace(line, cpu_us=round(statistics.median(on_us), 1), peer_cpu_us=round(statistics.median(off_us), 1))


def _rate(caught_up: CaughtUp, cpu_us: list[float]) -> float:
    cpu_us.append(caught_up.cpu_us)
    return caught_up.rate


def _load_tables(settings: Settings, found: Backlog) -> None:
    for name, path in write_reference_files(found.config, settings.home / "reference").items():
        load_references(lake_of(settings), name, path)


@contextmanager
def _watched(settings: Settings) -> Iterator[None]:
    """Run the watch that a worker starts; it has begun before a worker is measured, as it has most of the time."""
    watch = DriftWatch(settings, look_interval_s=POLL_S)
    watch.start()
    try:
        # which the first round leaves
        _until((settings.home / "metrics" / METRICS_FILE).is_file, "the watch of drift does not start")
        yield
    finally:
        watch.stop()


def _check(settings: Settings) -> None:
    """See that what was measured was on.

    Raises:
        OutputsDifferError: it was not.
    """
    for topic in standings(settings):
        for gate, standing in topic.gates.items():
            if standing.verdict is None or standing.verdict.status is not GateStatus.PASS:
                said = "it is off" if standing.verdict is None else standing.verdict.detail
                raise OutputsDifferError(f"gate {gate} of {topic.topic} does not pass: {said}")
    _until(lambda: bool(judged_windows(lake_of(settings), newest=1)), "no window is judged")


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise OutputsDifferError(otherwise)
        time.sleep(POLL_S)
