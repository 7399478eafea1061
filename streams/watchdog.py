"""What ends a worker that cannot end itself any more: a stop that hangs, and an event loop that does not run."""

import faulthandler
import logging
import os
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

GRACE_S = 5.0


def arm_hard_exit(timeout_s: float, reason: Callable[[], object]) -> None:
    """End the process if an orderly stop takes longer than `timeout_s`; a worker that hangs must be restarted.

    Args:
        reason: why it stops, for the log; nothing for a stop that was asked for.
    """

    def cut_short() -> None:
        logger.critical("the stop took longer than %g s and is cut short (%s)", timeout_s, reason() or "as asked")
        os._exit(1)

    timer = threading.Timer(timeout_s, cut_short)
    timer.daemon = True
    timer.start()


class LoopWatchdog:
    """Ends the process with code 1 when its event loop has not run for too long, for example because decoding hangs.

    The worker's other watchdogs are tasks of that loop, and hang with it. A thread notices; should native code keep
    even threads from running, faulthandler's own does, and prints where every thread was.

    Args:
        timeout_s: how long the loop may be blocked. Time that the process is suspended for does not count.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tick_s = min(1.0, timeout_s / 4)
        self._beats = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def beat(self) -> None:
        """Tell that the loop runs; called by the loop."""
        self._beats += 1

    def stop(self) -> None:
        """Stop watching: from now on `arm_hard_exit` does."""
        self._stopping.set()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        beats, blocked_s = -1, 0.0
        while not self._stopping.wait(self._tick_s):
            faulthandler.dump_traceback_later(self._timeout_s + GRACE_S, exit=True)
            blocked_s = blocked_s + self._tick_s if self._beats == beats else 0.0
            beats = self._beats
            if blocked_s >= self._timeout_s:
                logger.critical(
                    "the worker has done nothing at all for %g s, perhaps because of a record whose decoding does not "
                    "end; it exits so that it is restarted",
                    self._timeout_s,
                )
                os._exit(1)
        faulthandler.cancel_dump_traceback_later()
