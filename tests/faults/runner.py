"""The background process of the full form: `python -m tests.faults.runner FOLDER [--only GLOB] [--fresh]`."""

import argparse
import fcntl
import fnmatch
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from config.settings import Settings
from stack.embedded import EmbeddedStack
from tests.conftest import ROOT, embedded_stack
from tests.faults.catalogue import scenarios
from tests.faults.results import Results, code_fingerprint, header, line, totals
from tests.faults.scenario import Arena, Row, Scenario, run_scenario
from tests.faults.workers import worker_host

LOCK: Final = "lock"  # held while a run is under way
RUN: Final = "run.json"  # who runs it, and at the end with which exit code
LOG: Final = "run.log"  # the rows, and why one failed
NOISE: Final = "stderr.log"  # what clients say of a broker that is gone
LOCK_PATIENCE_S: Final = 2.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="*")
    parser.add_argument("--fresh", action="store_true")
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    with (folder / LOCK).open("w") as lock:
        if not _locked(lock.fileno()):
            say("Another run is under way.")
            return 2
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _unwind)
        (folder / RUN).write_text(json.dumps({"pid": os.getpid(), "only": given.only}))
        code = 1
        try:
            code = run(folder, given.only, fresh=given.fresh)
        except KeyboardInterrupt:
            say("Stopped; the rows above are kept.")
            code = 130
        finally:
            (folder / RUN).write_text(json.dumps({"exit_code": code}))
    return code


def run(folder: Path, only: str, *, fresh: bool) -> int:
    """Run the chosen scenarios that have no row yet; return the exit code."""
    chosen = [scenario for scenario in scenarios() if scenario.in_full and fnmatch.fnmatch(scenario.name, only)]
    if not chosen:
        say(f"No scenario is called {only}.")
        return 2
    results = Results(folder / "results.jsonl", code_fingerprint(ROOT))
    if fresh:
        results.clear()
    done = {name: row for name, row in results.rows().items() if row.is_exact}
    left = [scenario for scenario in chosen if scenario.name not in done]
    say(header())
    for scenario in chosen:
        if scenario.name in done:
            say(line(done[scenario.name]) + " (done before)")
    if left:
        with _arena(folder) as arena:
            for scenario in left:
                row = _attempt(scenario, arena)
                results.add(row)
                say(line(row))
    rows = [results.rows()[scenario.name] for scenario in chosen]
    if left and len(left) < len(rows):
        say("\n" + "\n".join([header(), *map(line, rows)]))
    say(totals(rows))
    return 0 if all(row.is_exact for row in rows) else 1


def say(text: str) -> None:
    """Print at once: somebody follows."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def _arena(folder: Path) -> Iterator[Arena]:
    home, worlds = folder / "home", folder / "worlds"
    shutil.rmtree(worlds, ignore_errors=True)
    worlds.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("SHOPSTREAM_") and name != "SHOPSTREAM_CACHE_DIR"]:
        del os.environ[name]
    default: Path = Settings.model_fields["cache_dir"].default
    cache_dir = Path(os.environ.pop("SHOPSTREAM_CACHE_DIR", str(default))).expanduser()
    say("Starting a stack of its own")
    with embedded_stack(home, cache_dir) as endpoints, worker_host(folder / "host.log") as host:
        yield Arena(
            endpoints=endpoints,
            cache_dir=cache_dir,
            folder=worlds,
            host=host,
            is_full=True,
            home=home,
            stack=EmbeddedStack(home, cache_dir),
        )


def _attempt(scenario: Scenario, arena: Arena) -> Row:
    """Run a scenario; whatever goes wrong is a row, too, and the next one finds the services running."""
    try:
        return run_scenario(scenario, arena)
    except Exception as error:  # noqa: BLE001 - it is told in the row and in the log
        say(traceback.format_exc())
        assert arena.stack is not None
        arena.stack.up()
        return Row.failed(scenario, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300])


def _locked(lock: int) -> bool:
    """Take the lock; somebody who only asks whether a run is under way holds it for an instant, too."""
    deadline_s = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(LOCK_PATIENCE_S / 100)
        else:
            return True


def _unwind(number: int, _frame: FrameType | None) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)  # what was started is stopped undisturbed
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
