"""Calls that may take too long: what they return or raise comes through, and nobody waits longer than said."""

import threading
from collections.abc import Iterator

import pytest

from serving.bounded_call import BoundedCaller

LONG_S = 30.0
SHORT_S = 0.05


@pytest.fixture
def caller() -> Iterator[BoundedCaller]:
    opened = BoundedCaller("test")
    yield opened
    opened.close()


def test_what_a_call_returns_or_raises_comes_through(caller: BoundedCaller) -> None:
    assert caller.call(lambda: 7, LONG_S) == 7
    with pytest.raises(ZeroDivisionError):
        caller.call(lambda: 1 // 0, LONG_S)
    assert caller.call(lambda: 8, LONG_S) == 8


def test_a_call_that_takes_too_long_is_given_up_and_holds_up_those_after_it_until_it_ends(
    caller: BoundedCaller,
) -> None:
    may_end, has_ended = threading.Event(), threading.Event()

    def slow() -> None:
        may_end.wait(LONG_S)
        has_ended.set()

    with pytest.raises(TimeoutError):
        caller.call(slow, SHORT_S)
    with pytest.raises(TimeoutError, match="an earlier call"):
        caller.call(lambda: 1, SHORT_S)
    may_end.set()
    assert caller.call(lambda: 2, LONG_S) == 2
    assert has_ended.is_set()


def test_the_result_of_a_call_that_was_given_up_is_nobody_elses(caller: BoundedCaller) -> None:
    may_end = threading.Event()
    with pytest.raises(TimeoutError):
        caller.call(lambda: (may_end.wait(LONG_S), "late"), SHORT_S)
    may_end.set()
    assert caller.call(lambda: "mine", LONG_S) == "mine"


def test_closing_waits_for_nobody_who_hangs_and_again_is_harmless() -> None:
    caller, may_end = BoundedCaller("test"), threading.Event()
    with pytest.raises(TimeoutError):
        caller.call(lambda: may_end.wait(LONG_S), SHORT_S)
    caller.close()
    may_end.set()
    caller.close()
