"""A fresh short run on a stack of its own, then `shopstream parity --users all`: `make parity`."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from cli.interrupts import termination_unwinds
from config.settings import Settings, as_environment, load_settings
from schemas.topics import ensure_topics
from tests.conftest import ROOT, embedded_stack
from tests.parity.short_run import short_run

EVENTS: Final = 30_000


def main() -> int:
    """Return the exit code of the comparison."""
    started_s = time.monotonic()
    cache_dir = load_settings().cache_dir.expanduser()
    home = Path(tempfile.mkdtemp(prefix="shopstream-parity-"))
    with termination_unwinds(), embedded_stack(home, cache_dir) as endpoints:
        settings = load_settings(
            {
                "home": home,
                "cache_dir": cache_dir,
                "kafka": {"bootstrap_servers": endpoints.kafka},
                "registry": {"url": endpoints.registry},
                "redis": {"url": endpoints.redis},
                "lake": {"path": home / "lake"},
                "feast": {"registry_path": home / "feast" / "registry.db"},
                "gates": {"freshness_policy": "off"},
            }
        )
        ensure_topics(settings)
        say(f"[{time.monotonic() - started_s:.0f} s] {EVENTS:,} events to a worker that is killed, and one that is not")
        log = short_run(settings, home / "worker.log", EVENTS)
        say(f"[{time.monotonic() - started_s:.0f} s] {log.acknowledged_count:,} records were sent: comparing")
        return compare(settings)


def compare(settings: Settings) -> int:
    """Run the command as a user does."""
    environment = {**os.environ, **as_environment(settings)}
    command = [sys.executable, "-m", "cli.main", "parity", "--users", "all"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def say(line: str) -> None:
    """Print a line of progress; the last line on stdout is the comparison's."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - it is a command


if __name__ == "__main__":
    sys.exit(main())
