"""Traffic that goes on while something is broken: an open loop at a rate, in a thread of its own."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

import msgspec

from config.settings import Settings
from schemas.event import Event
from tests.waiting import wait_until
from traffic.pacing import Pacer
from traffic.sending import open_sender
from traffic.sent_log import SentLog
from traffic.shop import Funnel
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import TimedEvent

HOT_USER: Final = "u-hot"
BUYERS: Final = Funnel(conversion=0.2, abandonment=0.5)  # so that the partitions of carts get their share, too
START_DEADLINE_S: Final = 60.0
STOP_TIMEOUT_S: Final = 120.0

_seeds = count(1)


def simulated(
    number: int | None = None, *, rate: float = 500.0, broken: float = 0.02, disordered: float = 0.02
) -> Iterable[TimedEvent]:
    """Return events that happen from now on, a run of its own at each call.

    Args:
        number: how many; None for no end.
        rate: events per second.
        broken: share of broken records, so that every run has dead letters.
        disordered: share that is late, and share that is out of order.
    """
    config = SimulatorConfig(
        seed=next(_seeds),
        start_ms=time.time_ns() // 1_000_000 - 60_000,
        rate=rate,
        late_share=disordered,
        disorder_share=disordered,
        duplicate_share=0.02,
        broken_share=broken,
        funnel=BUYERS,
    )
    return Simulator(config, number).events()


def half_on_one_key(events: Iterable[TimedEvent]) -> Iterator[TimedEvent]:
    """Give every second good event to one user."""
    for number, timed in enumerate(events):
        if number % 2 and isinstance(timed.payload, Event):
            yield timed._replace(payload=msgspec.structs.replace(timed.payload, user_id=HOT_USER))
        else:
            yield timed


def bursting(base: float, factor: int, before_s: float, burst_s: float) -> Iterator[TimedEvent]:
    """Yield traffic at a base rate, then at `factor` times that, then at the base rate for as long as before."""
    passed_ms = 0
    for rate, seconds in ((base, before_s), (base * factor, burst_s), (base, before_s)):
        for timed in simulated(int(rate * seconds), rate=rate, disordered=0.0):
            yield timed._replace(send_ms=timed.send_ms + passed_ms)
        passed_ms += int(seconds * 1_000)


def send(settings: Settings, events: Iterable[TimedEvent], log: SentLog) -> None:
    """Send events at full speed, and wait until the broker has answered for each."""
    with open_sender(settings, log, broken=True) as sender:
        sender.run(events, Pacer(clock=time.monotonic, sleep=time.sleep, speed=None))


class Load:
    """Traffic on its way."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    @property
    def goes_on(self) -> bool:
        """Tell whether it has not come to its end by itself."""
        return self._thread.is_alive()


@contextmanager
def background_load(settings: Settings, events: Iterable[TimedEvent], log: SentLog) -> Iterator[Load]:
    """Send events when they are due while the block runs; on leaving all that was sent is acknowledged.

    The block begins when the first of them is acknowledged.
    """
    stop = threading.Event()
    before = log.acknowledged_count
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with open_sender(settings, log, broken=True) as sender:
                pacer = Pacer(clock=time.monotonic, sleep=time.sleep, stopped=stop.is_set)
                sender.run(events, pacer)
        except BaseException as error:  # noqa: BLE001 - it is raised again below, where somebody can see it
            failures.append(error)

    thread = threading.Thread(target=run, name="load", daemon=True)
    thread.start()
    try:
        wait_until(
            lambda: failures or log.acknowledged_count > before, START_DEADLINE_S, "the broker acknowledges nothing"
        )
        yield Load(thread)
    finally:
        stop.set()
        thread.join(STOP_TIMEOUT_S)
        if failures:
            raise failures[0]  # also when the block has failed: then this is why
    assert not thread.is_alive(), "the broker has not answered for all that was sent"
