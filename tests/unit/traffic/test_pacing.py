from collections.abc import Callable, Iterator

import pytest

from schemas.event import CLICKS_TOPIC, Event
from traffic.pacing import Pacer
from traffic.timed import Mark, TimedEvent

EVENT = Event(event_id="e", kind="page_view", user_id="u", event_time_ms=0)


class Clock:
    """A clock that only sleeping, or work, moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pacer(clock: Clock, speed: float | None = 1.0, stopped: Callable[[], bool] = lambda: False) -> Pacer:
    return Pacer(clock=clock, sleep=clock.sleep, speed=speed, stopped=stopped)


def events(count: int, rate: float) -> Iterator[TimedEvent]:
    for tick in range(count):
        yield TimedEvent(int(tick * 1_000 / rate), CLICKS_TOPIC, EVENT, Mark.PLAIN)


@pytest.mark.parametrize("rate", [0.5, 10.0, 1_000.0, 20_000.0])
def test_the_rate_is_held(clock: Clock, rate: float) -> None:
    paced = pacer(clock)
    count = max(10, round(rate * 2))
    assert sum(len(batch) for batch in paced.batches(events(count, rate))) == count
    assert paced.rate == pytest.approx(rate, rel=0.02)


def test_nothing_is_sent_before_its_time_or_much_after(clock: Clock) -> None:
    started_s = clock.now_s
    paced = pacer(clock)
    for batch in paced.batches(events(5_000, 1_000.0)):
        now_ms = (clock.now_s - started_s) * 1_000
        assert all(timed.send_ms <= now_ms for timed in batch)
    assert paced.behind_ms_max <= 5.0


def test_batches_stay_small_at_20000_per_second(clock: Clock) -> None:
    assert max(len(batch) for batch in pacer(clock).batches(events(10_000, 20_000.0))) <= 60


def test_time_that_work_takes_is_not_added_to_the_schedule(clock: Clock) -> None:
    paced = pacer(clock)
    for batch in paced.batches(events(4_000, 1_000.0)):
        clock.now_s += 0.0005 * len(batch)
    assert paced.rate == pytest.approx(1_000.0, rel=0.01)


def test_a_pause_is_made_up_for(clock: Clock) -> None:
    """Open loop: a slow broker does not thin out the traffic."""
    started_s = clock.now_s
    paced = pacer(clock)
    for number, batch in enumerate(paced.batches(events(4_000, 1_000.0))):
        assert len(batch) <= 500
        if number == 100:
            clock.now_s += 1.5
    assert clock.now_s - started_s == pytest.approx(4.0, abs=0.01)
    assert paced.behind_ms_max == pytest.approx(1_500.0, abs=10.0)


def test_a_sender_that_is_too_slow_shows_in_the_rate(clock: Clock) -> None:
    paced = pacer(clock)
    for batch in paced.batches(events(2_000, 1_000.0)):
        clock.now_s += 0.002 * len(batch)
    assert paced.rate < 600.0


def test_speed_divides_the_time(clock: Clock) -> None:
    started_s = clock.now_s
    list(pacer(clock, speed=100.0).batches(events(101, 1.0)))
    assert clock.now_s - started_s == pytest.approx(1.0, abs=0.01)


def test_full_speed_never_sleeps_and_keeps_the_order(clock: Clock) -> None:
    sent = [timed for batch in pacer(clock, speed=None).batches(events(2_000, 1.0)) for timed in batch]
    assert sent == list(events(2_000, 1.0))
    assert clock.sleeps == []


def test_a_request_to_stop_is_seen_while_waiting(clock: Clock) -> None:
    """At one event an hour, too."""
    started_s = clock.now_s
    paced = pacer(clock, stopped=lambda: clock.now_s > started_s + 1.0)
    assert sum(len(batch) for batch in paced.batches(events(10, 1 / 3_600))) == 1
    assert clock.now_s - started_s == pytest.approx(1.0, abs=0.1)


def test_a_schedule_may_have_begun_before(clock: Clock) -> None:
    """Preparing the source took 50 ms: what was due meanwhile goes first, the rest is on time."""
    paced = Pacer(clock=clock, sleep=clock.sleep, start_s=clock.now_s - 0.05)
    sizes = [len(batch) for batch in paced.batches(events(1_000, 1_000.0))]
    assert sizes[0] == pytest.approx(50, abs=1)
    assert paced.seconds == pytest.approx(0.999, abs=0.005)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_events_have_no_rate(clock: Clock, count: int) -> None:
    paced = pacer(clock)
    assert sum(len(batch) for batch in paced.batches(events(count, 1.0))) == count
    assert (paced.rate, paced.sent_count) == (0.0, count)


def test_no_speed_below_zero(clock: Clock) -> None:
    with pytest.raises(ValueError, match="speed must be positive"):
        pacer(clock, speed=0.0)
