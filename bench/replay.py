"""The line `replay`: how fast a range goes through the features' code again; beside a Quix Streams job that counts."""

import json
import os
import subprocess
import sys

from bench.backlog import Backlog
from bench.live import expect_equal
from bench.peer import NAMES, Counts, run_peer
from bench.results import Goal, Line, line_of, say, side_by_side
from config.settings import Settings, as_environment
from features.finalize import finalize
from features.state import decode
from replay.execution import opened_source
from replay.lake_folds import FoldOrder, LakeFold
from schemas.event import CLICKS_TOPIC
from schemas.topics import describe_topics
from sinks.lake_reads import PartitionLog

GOAL = Goal(value_min=50_000.0, ratio_min=3.0)
WORKERS = 2


def measure(found: Backlog, rounds: int) -> Line:
    """Measure both sides in turn.

    Raises:
        OutputsDifferError: they did not count the same.
    """
    expect_equal(_counts(found.settings("replay_counts"), found.as_of_ms), run_peer(found, "replay-counts").counts)
    values = side_by_side(
        rounds,
        lambda number: _replay(found, number),
        lambda number: run_peer(found, f"replay-{number}").rate,
        say,
    )
    return line_of(
        "replay",
        *values,
        GOAL,
        unit="events/s",
        what=f"shopstream replay --into nothing --source kafka --workers {WORKERS}: clicks, decoded, checked, "
        "folded into states of all features; the start of its processes included",
        peer_what="one Quix Streams process: clicks, counts per user, kind and minute; from the first record on",
    )


def _replay(found: Backlog, number: int) -> float:
    """Run the command once; return records per second."""
    settings = found.settings(f"replay_{number}")
    arguments = ["replay", "--into", "nothing", "--source", "kafka", "--topic", CLICKS_TOPIC, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments, "--workers", str(WORKERS), "--nice", "0"],
        env={**os.environ, **as_environment(settings)},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    report = json.loads(done.stdout)
    if report["applied"] != found.counts[CLICKS_TOPIC]:
        raise RuntimeError(f"{report['applied']} of {found.counts[CLICKS_TOPIC]} events were applied")
    return float(report["records_per_second"])


def _counts(settings: Settings, as_of_ms: int) -> Counts:
    """Fold the topic as a replay does; return the counts at an instant."""
    counts: Counts = {}
    info = describe_topics(settings)[CLICKS_TOPIC]
    with opened_source(settings, "kafka") as source:
        for partition in range(info.partition_count):
            fold = LakeFold(source, PartitionLog(info.log_epoch, CLICKS_TOPIC, partition), FoldOrder.LOG)
            fold.read_on()
            for user_id, state in fold.states.items():
                values = finalize({CLICKS_TOPIC: decode(state)}, as_of_ms)
                counts[user_id] = tuple(int(str(values[name])) for name in NAMES)
    return counts
