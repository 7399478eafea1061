"""Waiting for what a demo's worker should bring about."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from config.errors import ShopstreamError

if TYPE_CHECKING:
    import subprocess

WAIT_S: Final = 120.0
POLL_S: Final = 0.05


class DemoError(ShopstreamError):
    """The demo could not be run to its end."""


class Waiting:
    """Waits for what a worker should bring about.

    Args:
        process: the worker.
        log_path: where it writes its log.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
        self._process = process
        self._log_path = log_path

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until something holds.

        Args:
            what: what has not happened if it does not, as `the view was not halted`.

        Raises:
            DemoError: it does not within the time, or the worker ended.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if self._process.poll() is not None:
                raise self.ended()
            if time.monotonic() > deadline_s:
                raise DemoError(f"After {timeout_s:.0f} s {what}.", hint=f"See {self._log_path}.")
            time.sleep(POLL_S)

    def ended(self) -> DemoError:
        """Return what to raise when the worker has ended though it should not, or not well."""
        lines = self._log_path.read_text(errors="replace").strip().splitlines() or ["nothing"]
        return DemoError(
            f"The worker ended with code {self._process.returncode}; its last words: {lines[-1].strip()}",
            hint=f"See {self._log_path}.",
        )
