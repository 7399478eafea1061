"""Signals during `up`: held back until no process can be forgotten."""

import signal
import threading
from types import FrameType

from stack.errors import StackInterruptedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, SIGINT, SIGTERM and SIGHUP only set a flag, which `check` turns into an error.

    A signal can otherwise strike between the start of a process and the note of its pid. One that comes too late for
    `check` is handed on to whoever handled it before. In a thread other than the main one, where Python delivers no
    signals, nothing is changed.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            # None: the handler was not installed from Python and cannot be put back by name
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._before.clear()
        if self._received is not None and kind is None:
            signal.raise_signal(self._received)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = number

    def ignore_from_now(self) -> None:
        """Let these signals have no effect for the rest of this process: what is done is done."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        self._before.clear()
        self._received = None

    def check(self) -> None:
        """Raise if a signal came.

        Raises:
            StackInterruptedError: one did.
        """
        if self._received is not None:
            name = signal.Signals(self._received).name
            raise StackInterruptedError(f"Stopped by {name}; what was started has been stopped again.")
