"""Hold a rate: an open loop on an absolute schedule, so that a slow moment is made up for and never shifts the rest."""

from collections.abc import Callable, Iterable, Iterator

from traffic.timed import TimedEvent

_TICK_S = 0.002  # shortest pause: 40 events a batch at 20,000 per second
_SLEEP_S_MAX = 0.05  # longest pause, so that a request to stop is seen soon
_BATCH_MAX = 500


class Pacer:
    """Hands out events when they are due.

    Args:
        clock: monotonic seconds.
        sleep: pauses for that many seconds, or about.
        speed: times real time; None sends at full speed, whatever `send_ms` says.
        start_s: reading of the clock at which `send_ms` is 0; None for the moment of the first call of `batches`.
        stopped: asked before each batch; True ends the run.

    Attributes:
        sent_count: events handed out so far.
        behind_ms_max: the longest that one of them waited beyond its time, in milliseconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        speed: float | None = 1.0,
        start_s: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        if speed is not None and speed <= 0.0:
            raise ValueError(f"speed must be positive: {speed}")
        self._clock = clock
        self._sleep = sleep
        self._speed = speed
        self._start_s = start_s
        self._stopped = stopped
        self._first_s = self._last_s = 0.0
        self.sent_count = 0
        self.behind_ms_max = 0.0

    @property
    def rate(self) -> float:
        """Events per second from the start until the last was dealt with; 0 for fewer than two."""
        spent_s = self._last_s - self._first_s
        return (self.sent_count - 1) / spent_s if self.sent_count > 1 and spent_s > 0.0 else 0.0

    @property
    def seconds(self) -> float:
        """Seconds from the start until the last event was dealt with."""
        return self._last_s - self._first_s

    def batches(self, events: Iterable[TimedEvent]) -> Iterator[list[TimedEvent]]:
        """Yield the events in their order, none before it is due, at most 500 at once."""
        source = iter(events)
        timed = next(source, None)
        self._first_s = self._last_s = self._clock() if self._start_s is None else self._start_s
        while timed is not None and not self._stopped():
            due_ms = self._due_ms()
            batch: list[TimedEvent] = []
            while timed is not None and timed.send_ms <= due_ms and len(batch) < _BATCH_MAX:
                batch.append(timed)
                timed = next(source, None)
            if batch:
                self.sent_count += len(batch)
                if self._speed is not None:
                    self.behind_ms_max = max(self.behind_ms_max, (due_ms - batch[0].send_ms) / self._speed)
                yield batch
                self._last_s = self._clock()
            if timed is not None and self._speed is not None:
                wait_s = (timed.send_ms - self._due_ms()) / (1_000.0 * self._speed)
                if wait_s > 0.0:
                    self._sleep(min(max(wait_s, _TICK_S), _SLEEP_S_MAX))

    def _due_ms(self) -> float:
        if self._speed is None:
            return float("inf")
        return (self._clock() - self._first_s) * 1_000.0 * self._speed
