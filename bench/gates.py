"""The line `gates`: how fast a worker catches up with gates and the watch of drift, and without, on and off in turn."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.backlog import MINUTE_MS, RATE, Backlog
from bench.live import POLL_S, catch_up, counts_of
from bench.results import Goal, Line, OutputsDifferError, line_of, say, side_by_side
from config.settings import Settings
from quality.gates import GateStatus
from sinks.lake_root import lake_of
from sinks.quality_tables import DRIFT_REFERENCES
from sinks.reference_tables import load_references
from streams.gate_report import standings
from streams.watching import DriftWatch, is_watched
from traffic.reference_files import write_reference_files
from training.drift_reference import take_reference
from training.drift_status import METRICS_FILE

GOAL = Goal(ratio_min=0.95)
COMPARED_USERS = 2_000
REFERENCE_WINDOWS_MIN = 10  # of a minute; a calibration needs 8
WATCH_STARTS_S = 120.0
# windows that close while the worker catches up, and six times as many looks as by default
DRIFT = {"window_ms": MINUTE_MS, "lateness_ms": MINUTE_MS, "check_interval_s": 5.0}
OFF = {
    "gates": dict.fromkeys(("freshness_policy", "null_policy", "schema_policy", "reference_policy"), "off"),
    "drift": {**DRIFT, "is_watched": False},
}
ON = {"gates": {"schema_policy": "halt", "freshness_max_ms": 7 * 24 * 60 * MINUTE_MS}, "drift": DRIFT}


def measure(found: Backlog, rounds: int) -> Line:
    """Measure both sides in turn.

    Raises:
        OutputsDifferError: they did not count the same, or a gate did not pass, or nobody watched.
    """
    count = sum(found.counts.values())
    users = [f"u{user}" for user in range(COMPARED_USERS)]
    prepared = found.settings("gates_prepared", **OFF)
    catch_up(prepared, count)
    _take_reference(prepared, found)
    expected = counts_of(prepared, found.as_of_ms, users)

    def with_gates(number: int) -> float:
        settings = found.settings(f"gates_on_{number}", **ON)
        _load_tables(settings, found)
        shutil.copytree(prepared.lake_path / DRIFT_REFERENCES.name, settings.lake_path / DRIFT_REFERENCES.name)
        with _watched(settings):
            rate = catch_up(settings, count, then=lambda: _check(settings))
        if counts_of(settings, found.as_of_ms, users) != expected:
            raise OutputsDifferError("a worker with gates does not count what one without them does")
        return rate

    values = side_by_side(
        rounds,
        with_gates,
        lambda number: catch_up(found.settings(f"gates_off_{number}", **OFF), count),
        say,
        names=("on", "off"),
    )
    return line_of(
        "gates",
        *values,
        GOAL,
        unit="events/s",
        what="one worker catches up, as in the line `live`, with all four gates, reference tables, and a watch "
        f"beside it that looks for drift every {DRIFT['check_interval_s']:g} s",
        peer_what="the same with gates and the watch off",
    )


def _take_reference(settings: Settings, found: Backlog) -> None:
    """Take the first third of the events as reference, so that windows are left to be judged."""
    minutes = sum(found.counts.values()) / RATE / 60
    taken = max(REFERENCE_WINDOWS_MIN, int(minutes / 3))
    first_ms = found.config.start_ms
    take_reference(settings, first_ms, first_ms + (taken + 1) * MINUTE_MS, None, say)


def _load_tables(settings: Settings, found: Backlog) -> None:
    for name, path in write_reference_files(found.config, settings.home / "reference").items():
        load_references(lake_of(settings), name, path)


@contextmanager
def _watched(settings: Settings) -> Iterator[None]:
    """Run the watch that a worker starts; it has begun before a worker is measured, as it has most of the time."""
    watch = DriftWatch(settings, look_interval_s=POLL_S)
    watch.start()
    try:
        deadline_s = time.monotonic() + WATCH_STARTS_S
        while not (settings.home / "metrics" / METRICS_FILE).is_file():  # which the first round leaves
            if time.monotonic() > deadline_s:
                raise OutputsDifferError("the watch of drift does not start")
            time.sleep(POLL_S)
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
    if not is_watched(settings.home):
        raise OutputsDifferError("nobody watches for drift")
