"""The peer: a Quix Streams job in an environment of its own."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import Backlog
from bench.environment import locked_python
from schemas.event import CLICKS_TOPIC

ENVIRONMENT = "bench"
SCRIPT = Path(__file__).with_name("peers") / "quix_counts.py"
DEADLINE_S = 600.0
WINDOW_MINUTES = 30
NAMES = ("page_view_count_30m", "click_count_30m", "search_count_30m")

Counts = dict[str, tuple[int, ...]]


class PeerFailedError(Exception):
    """The peer's job ended early."""


@dataclass(frozen=True)
class PeerRun:
    """What a run of the job did.

    Attributes:
        rate: records per second, from the first to the last.
        counts: by user, the features of `NAMES` at the instant asked for; users with none of them are left out.
    """

    rate: float
    record_count: int
    counts: Counts


def run_peer(found: Backlog, name: str, *, redis: bool = False) -> PeerRun:
    """Run the job over the topic of clicks, from nothing.

    Args:
        redis: whether it also writes each new count to Redis.

    Raises:
        PeerFailedError: the job failed.
    """
    folder = found.folder / f"peer-{name}"
    folder.mkdir()
    out = folder / "out.json"
    command = [str(locked_python(ENVIRONMENT)), str(SCRIPT), "--topic", CLICKS_TOPIC, "--group", f"peer-{name}"]
    command += ["--broker", found.endpoints.kafka, "--registry", found.endpoints.registry]
    command += ["--state", str(folder / "state"), "--out", str(out)]
    if redis:
        command += ["--redis", found.endpoints.redis]
    log = folder / "log"
    with log.open("wb") as output:
        done = subprocess.run(command, check=False, stdout=output, stderr=output, timeout=DEADLINE_S)
    if done.returncode:
        raise PeerFailedError(f"The peer ended with code {done.returncode}: {log.read_text()[-2_000:]}")
    result = json.loads(out.read_text())
    rate = result["count"] / (result["last_s"] - result["first_s"])
    return PeerRun(rate, result["count"], _counts(result["windows"], found.as_of_ms))


def _counts(windows: dict[str, dict[str, list[int]]], as_of_ms: int) -> Counts:
    """Add up the minutes of the window at an instant."""
    end_ms = as_of_ms + 1
    first_ms = end_ms - WINDOW_MINUTES * 60_000
    sums: Counts = {}
    for user, minutes in windows.items():
        inside = [counts for start, counts in minutes.items() if first_ms <= int(start) < end_ms]
        if inside:
            sums[user] = tuple(map(sum, zip(*inside, strict=True)))
    return sums
