"""An event loop whose clock jumps to the next timer, and blocking code that waits in its time.

Nothing ever waits for real, and nothing depends on what the machine does meanwhile: what happens, and in which order,
follows from the program alone.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeVar, cast

Result = TypeVar("Result")


class NothingLeftError(Exception):
    """Every task waits for another one: there is no timer to jump to."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Runs tasks and timers; no sockets, no signals, no subprocesses."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = self
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return virtual seconds since the start."""
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """Stand in for a selector: nothing is ever ready, and waiting takes no time."""
        if timeout is None:
            raise NothingLeftError
        self._now_s += max(timeout, 0.0)
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """Do nothing: there are none."""

    def _write_to_self(self) -> None:
        """Do nothing: nobody else wakes this loop."""


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a loop of its own; what it leaves behind is cancelled."""
    loop = VirtualTimeLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()


@dataclass(frozen=True)
class _Waits:
    """The blocking code asks the loop to await this."""

    awaitable: Awaitable[Any]


@dataclass(frozen=True)
class _Ended:
    """The blocking code is done."""

    result: Any = None
    error: BaseException | None = None


_STOP: Final = object()
_running = threading.local()


class _Thread:
    """A thread that runs only while the loop waits for it, so that there is one order of things."""

    def __init__(self) -> None:
        self._given: SimpleQueue[Any] = SimpleQueue()
        self._told: SimpleQueue[_Waits | _Ended] = SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def give(self, what: Any) -> _Waits | _Ended:
        """Let it go on, until it waits for the loop or ends."""
        self._given.put(what)
        return self._told.get()

    def end(self) -> None:
        """Let the thread end."""
        self._given.put(_STOP)

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Have the loop await something; called in the thread."""
        self._told.put(_Waits(awaitable))
        answer = cast("_Ended", self._given.get())
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _serve(self) -> None:
        _running.thread = self
        while (call := self._given.get()) is not _STOP:
            try:
                ended = _Ended(call())
            except BaseException as error:  # noqa: BLE001 - it is raised again in the loop
                ended = _Ended(error=error)
            self._told.put(ended)


class BlockingCode:
    """Runs blocking code beside the loop; it may wait for virtual time by `wait_for`."""

    def __init__(self) -> None:
        self._idle: list[_Thread] = []

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run a call to its end."""
        thread = self._idle.pop() if self._idle else _Thread()
        told = thread.give(call)
        while isinstance(told, _Waits):
            try:
                answer = _Ended(await told.awaitable)
            except BaseException as error:  # noqa: BLE001 - it is raised in the blocking code
                answer = _Ended(error=error)
            told = thread.give(answer)
        self._idle.append(thread)
        if told.error is not None:
            raise told.error
        return cast("Result", told.result)

    def close(self) -> None:
        """End the idle threads."""
        for thread in self._idle:
            thread.end()
        self._idle.clear()


def wait_for(awaitable: Awaitable[Result]) -> Result:
    """Wait, in blocking code that `BlockingCode` runs, for something of the loop."""
    thread: _Thread = _running.thread
    return cast("Result", thread.wait_for(awaitable))
