"""Signals during `up`: none is lost, none strikes in between."""

import signal
import threading
from collections.abc import Iterator

import pytest

from stack.errors import StackInterruptedError
from stack.interrupts import Interrupts


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Begin with Ctrl-C as it is in a terminal (a shell's background job ignores it); put back what a test changes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_the_next_check(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        signal.raise_signal(number)
        with pytest.raises(StackInterruptedError, match=number.name):
            interrupts.check()
        interrupts.ignore_from_now()


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_after_the_last_check_is_handed_on() -> None:
    def strike() -> None:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        strike()


def test_an_error_is_not_covered_by_a_late_signal() -> None:
    def strike() -> None:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("the real problem")

    with pytest.raises(ValueError, match="the real problem"):
        strike()


def test_a_last_act_lets_late_signals_pass() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        interrupts.ignore_from_now()
    signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_a_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def run() -> None:
        with Interrupts() as interrupts:
            seen.append(signal.getsignal(signal.SIGINT))
            interrupts.check()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
