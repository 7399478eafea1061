"""The peer: a Quix Streams job in an environment of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import Backlog
from bench.results import say
from schemas.event import CLICKS_TOPIC

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-bench"
LOCK = ROOT / "requirements" / "bench.txt"
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


def python() -> Path:
    """Return the interpreter of the peer's environment, made from its lock when it is not there."""
    interpreter = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / ".locked"
    if not stamp.is_file() or stamp.read_text() != LOCK.read_text():
        say("installing the peer's environment")
        uv = [str(Path(sys.executable).with_name("uv"))]
        variables = dict(os.environ)
        if "PIP_INDEX_URL" in variables:  # uv reads its own variables only
            variables["UV_DEFAULT_INDEX"] = variables["PIP_INDEX_URL"]
        locked = ["--only-binary", ":all:", "--require-hashes", str(LOCK)]
        for command in (
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)],
            [*uv, "pip", "sync", "--quiet", "--python", str(interpreter), *locked],
        ):
            subprocess.run(command, check=True, env=variables, stdout=sys.stderr)
        stamp.write_text(LOCK.read_text())
    return interpreter


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
    command = [str(python()), str(SCRIPT), "--topic", CLICKS_TOPIC, "--group", f"peer-{name}"]
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
