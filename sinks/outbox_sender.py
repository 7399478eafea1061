"""Flushes an outbox beside whatever else a process does."""

import logging
import threading

from sinks.errors import OutboxError
from sinks.outbox import Outbox

logger = logging.getLogger(__name__)


class OutboxSender:
    """Flushes an outbox from a thread of its own: at once after `wake`, and then again and again until it is closed.

    Args:
        rest_s: between two flushes; twice as long after each that left something, up to `rest_max_s`.
    """

    def __init__(self, outbox: Outbox, *, rest_s: float = 15.0, rest_max_s: float = 600.0) -> None:
        self._outbox = outbox
        self._rest_s = rest_s
        self._rest_max_s = rest_max_s
        self._changed = threading.Condition()
        self._is_due = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Tell that something was put; the thread begins with the first call. Returns at once."""
        with self._changed:
            if self._stop.is_set():
                return
            self._is_due = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop after the try that is under way; what waits stays on the disk. Again is harmless.

        Args:
            timeout_s: longest wait for that try; its process may end in the middle of it.
        """
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        rest_s = self._rest_s
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_due or self._stop.is_set(), rest_s)
                if self._stop.is_set():
                    return
                self._is_due = False
            try:
                waits = self._outbox.flush(self._stop).waiting > 0
            except OutboxError as error:
                logger.error("%s", error)  # noqa: TRY400 - the sentence is enough
                waits = True
            rest_s = min(2 * rest_s, self._rest_max_s) if waits else self._rest_s
