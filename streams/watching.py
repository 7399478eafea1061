"""Starts the watch of drift beside a worker: another process at low priority, once there is something to watch.

It computes for seconds at a time, trains perhaps, and may run out of memory; none of that may stop a worker, or slow it
down. One process watches for a home: of several workers, the first to look starts it, and another one when that ends.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Final

from config.errors import ShopstreamError
from config.settings import Settings, as_environment
from sinks.delta import opened
from sinks.lake_root import Lake, lake_of
from sinks.quality_tables import DRIFT_REFERENCES, MODEL_LOG, RETRAINING

WATCH_COMMAND: Final = (sys.executable, "-P", "-m", "cli.main", "drift", "watch", "--until-parent-ends")
LOCK_FILE: Final = "drift_watch.lock"
LOOK_INTERVAL_S: Final = 5.0
STOP_TIMEOUT_S: Final = 5.0

_POLL_S: Final = 0.2
_REST_S: Final = 1.0
_REST_MAX_S: Final = 300.0
_RAN_WELL_S: Final = 600.0

logger = logging.getLogger(__name__)


class DriftWatch:
    """A thread that keeps the watch running, and ends it with the worker.

    Args:
        settings: of the worker; the watch gets the same.
        command: the watch; it ends when its standard input does.
        look_interval_s: time between two looks whether there is something to watch.
        rest_s: before a watch that failed is started again; twice as long after each failure, up to 5 min.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str] = WATCH_COMMAND,
        look_interval_s: float = LOOK_INTERVAL_S,
        rest_s: float = _REST_S,
    ) -> None:
        self._settings = settings
        self._command = command
        self._look_interval_s = look_interval_s
        self._rest_s = rest_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drift watch", daemon=True)

    def start(self) -> None:
        """Begin to look whether there is something to watch."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """End the watch soon; returns at once. Again is harmless."""
        self._stopping.set()

    def stop(self) -> None:
        """End the watch, with SIGKILL if it takes too long, and wait until it has. Blocking."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        lake, rest_s, told = lake_of(self._settings), self._rest_s, ""
        while not self._stopping.wait(self._look_interval_s):
            try:
                if not has_something_to_watch(lake) or is_watched(self._settings.home):
                    continue
                started_s = time.monotonic()
                ended = self._watch()
            except (ShopstreamError, OSError) as error:
                if str(error) != told:
                    logger.warning("drift is not watched: %s", error)
                told = str(error)
                continue
            told = ""
            if self._stopping.is_set() or not ended:
                continue
            if time.monotonic() - started_s >= _RAN_WELL_S:
                rest_s = self._rest_s
            logger.error("the watch of drift ended %s; it is started again in %g s", ended, rest_s)
            self._stopping.wait(rest_s)
            rest_s = min(2 * rest_s, _REST_MAX_S)

    def _watch(self) -> str:
        """Run the watch until it ends or the worker does; return how it failed, nothing if it did not."""
        root = str(Path(__file__).resolve().parents[1])
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,  # it ends with this process, however that ends
            stdout=subprocess.DEVNULL,
            env={**os.environ, **as_environment(self._settings), "PYTHONPATH": root},
            start_new_session=True,  # only then its low priority is not that of the worker, too: cli/priority.py
        )
        try:
            while process.poll() is None and not self._stopping.wait(_POLL_S):
                continue
        finally:
            code = _ended(process)
        if code == 0:
            return ""
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def has_something_to_watch(lake: Lake) -> bool:
    """Tell whether a reference of drift was ever taken, a retraining asked for, or a model registered. Blocking.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    return any(_is_table(lake, table.name) for table in (DRIFT_REFERENCES, RETRAINING, MODEL_LOG))


@contextmanager
def watching_alone(home: Path) -> Iterator[bool]:
    """Be the one process that watches, for the time of the block, which is told whether it is; it ends with us."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK_FILE).open("a") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_watched(home: Path) -> bool:
    """Tell whether another process is watching."""
    with watching_alone(home) as is_alone:
        return not is_alone


def until_the_parent_ends() -> None:
    """Send ourselves SIGTERM once nobody holds the other end of our standard input any more; returns at once."""

    def wait() -> None:
        while os.read(0, 1):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _is_table(lake: Lake, name: str) -> bool:
    address = lake / name
    if isinstance(address, Path):  # without opening it, since this is asked every few seconds
        return (address / "_delta_log").is_dir()
    return opened(address) is not None


def _ended(process: "subprocess.Popen[bytes]") -> int:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
    if process.stdin is not None:
        process.stdin.close()
    return process.wait()
