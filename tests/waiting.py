"""Waiting in tests: for a condition, with a deadline, never for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

_POLL_S = 0.02

T = TypeVar("T")


def wait_until(condition: Callable[[], T], deadline_s: float, message: str | Callable[[], str]) -> T:
    """Call `condition` until it returns something true, and return that.

    Args:
        condition: must be cheap; what it raises ends the wait.
        deadline_s: how long the test machine may take at the very worst; it is no measure of speed.
        message: what did not happen; a function is called at the end, to tell what was seen last.

    Raises:
        AssertionError: the deadline passed.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            text = message() if callable(message) else message
            raise AssertionError(f"after {deadline_s:g} s: {text}")
        time.sleep(_POLL_S)
