"""What is folded is held to a rate."""

import threading

import pytest

from replay.pace import Pace, PaceStoppedError


class Time:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_rate_is_held_and_pauses_are_short() -> None:
    time = Time()
    pace = Pace(1_000, clock=lambda: time.now_s, sleep=time.sleep)
    for _ in range(21):
        pace.take(pace.at_once)
    assert pace.at_once == 500
    assert time.now_s == pytest.approx(10.0)


def test_what_was_slow_is_not_made_up_for() -> None:
    time = Time()
    pace = Pace(100, clock=lambda: time.now_s, sleep=time.sleep)
    pace.take(50)
    time.now_s = 60.0
    pace.take(50)
    pace.take(50)
    assert time.now_s == pytest.approx(60.5)


def test_whoever_waits_ends_when_it_is_stopped() -> None:
    pace = Pace(0.001)
    pace.take(1)
    ended: list[bool] = []

    def wait() -> None:
        with pytest.raises(PaceStoppedError):
            pace.take(1)
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    pace.stop()
    thread.join(60)
    assert ended == [True]
