"""Calls what may take too long, and gives up waiting for it."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

_CLOSE_S: Final = 1.0

_Result = TypeVar("_Result")


class BoundedCaller:
    """Runs one call at a time on a thread of its own. Close it at the end.

    A call that is given up goes on in its thread, because Python cannot stop one; until it ends, others wait for it as
    long as they may, and are then given up, too.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_idle = threading.Semaphore()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], _Result], timeout_s: float) -> _Result:
        """Return what a function returns, or raise what it raises.

        Raises:
            TimeoutError: there was no result in time.
        """
        deadline = time.monotonic() + timeout_s
        if not self._is_idle.acquire(timeout=timeout_s):
            raise TimeoutError("an earlier call still runs")
        outcome: Future[_Result] = Future()

        def job() -> None:
            try:
                outcome.set_result(function())
            except Exception as error:  # noqa: BLE001 - it is raised where the result is waited for
                outcome.set_exception(error)

        self._jobs.put(job)
        return outcome.result(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End the thread; one that is still busy is left to itself. Again is harmless."""
        self._jobs.put(None)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            self._is_idle.release()
