"""How long an acknowledged event takes until a reader's state includes it, by the state that its user had before."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from config.settings import Settings
from feature_repo.layout import KeyTemplate, unframe_state, view_fields
from features.catalog import VIEWS
from features.state import decode, read_trailer
from schemas.event import Event
from schemas.producer import Delivery
from traffic.sent_log import SentLog
from traffic.timed import TimedEvent

POLL_S: Final = 0.002
EVERY_S: Final = 0.01
OPEN_MAX: Final = 500


class Sample(NamedTuple):
    """One event that was waited for.

    Attributes:
        append_time_ms: the broker's LogAppendTime.
        latency_ms: from then until the state in Redis included it.
        was_complete: the user had a state when the event was acknowledged, and it was not partial.
    """

    append_time_ms: int
    latency_ms: float
    was_complete: bool


@dataclass(slots=True)
class _Open:
    user_id: str
    delivery: Delivery
    was_complete: bool | None = None


class FreshnessLog(SentLog):
    """A sent log that follows every so many acknowledged events until they are readable.

    Attributes:
        samples: those that are done.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(keep=False)
        self._settings = settings
        self._offered: deque[_Open] = deque(maxlen=OPEN_MAX)
        self._offered_s = 0.0
        self._open: list[_Open] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshness", daemon=True)
        self.samples: list[Sample] = []
        self.failures: list[Exception] = []

    def start(self) -> None:
        """Start to follow events, in a thread."""
        self._thread.start()

    def stop(self) -> int:
        """Stop; return how many events were never seen."""
        self._stopped.set()
        self._thread.join()
        if self.failures:
            raise self.failures[0]
        return len(self._open)

    def note(self, timed: TimedEvent, delivery: Delivery) -> None:
        """Take the broker's answer to one record."""
        super().note(timed, delivery)
        now_s = time.monotonic()
        if delivery.error is None and isinstance(timed.payload, Event) and now_s - self._offered_s >= EVERY_S:
            self._offered_s = now_s
            self._offered.append(_Open(timed.payload.user_id, delivery))

    def _run(self) -> None:
        from redis import Redis
        from redis.exceptions import RedisError

        template = KeyTemplate.of(self._settings.feast.project)
        with Redis.from_url(self._settings.redis.url.get_secret_value()) as redis:
            while not self._stopped.wait(POLL_S) or (self._open and self._waits_for_the_last()):
                while self._offered:
                    self._open.append(self._offered.popleft())
                if not self._open:
                    continue
                try:
                    self._look(redis, template)
                except RedisError as error:
                    self.failures.append(error)
                    return

    def _waits_for_the_last(self) -> bool:
        time.sleep(POLL_S)
        return any(time.time() * 1000 - each.delivery.append_time_ms < 5_000 for each in self._open)

    def _look(self, redis: Any, template: KeyTemplate) -> None:
        with redis.pipeline(transaction=False) as pipe:
            for each in self._open:
                pipe.hget(template.key(each.user_id), view_fields(VIEWS[each.delivery.topic].view).state)
            values = pipe.execute()
        now_ms = time.time_ns() / 1e6
        left = []
        for each, value in zip(self._open, values, strict=True):
            state = unframe_state(value) if value else None
            if each.was_complete is None:
                each.was_complete = state is not None and not decode(state).partial
            if state is not None and read_trailer(state).version > each.delivery.offset:
                latency_ms = now_ms - each.delivery.append_time_ms
                self.samples.append(Sample(each.delivery.append_time_ms, latency_ms, each.was_complete))
            else:
                left.append(each)
        self._open = left


def percentiles(samples: Iterable[Sample]) -> dict[str, float]:
    """Return count, p50, p99 and the greatest latency in milliseconds; 0 where there is none."""
    found: Sequence[float] = sorted(sample.latency_ms for sample in samples)
    if not found:
        return {"count": 0, "p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
    at = [found[min(len(found) - 1, int(share * len(found)))] for share in (0.5, 0.99)]
    return {"count": len(found), "p50_ms": round(at[0], 1), "p99_ms": round(at[1], 1), "max_ms": round(found[-1], 1)}
