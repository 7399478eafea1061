"""What sessions are: a pure function of events in event-time order, the same that features compute online.

An event is a duplicate if one of its user and topic with the same id came at most 10 min before it, by event time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from features.retention import LATENESS_MS
from features.spans import MEASURES, SESSION_GAP_MS, SESSION_MAX_MS

# Of so long before an instant the events must be known, to tell whether a session begins there.
LOOK_BACK_MS: Final = SESSION_GAP_MS + LATENESS_MS

_MEASURES: Final = tuple(measure for measures in MEASURES.values() for measure in measures)
_ADDS: Final = {
    kind: tuple((each.name, each.signs[kind], each.money) for each in _MEASURES if kind in each.signs)
    for kind in {kind for measure in _MEASURES for kind in measure.signs}
}


class SessionEvent(NamedTuple):
    """What a session takes from an event."""

    user_id: str
    event_time_ms: int
    topic: str
    event_id: str
    kind: str
    product_id: str | None
    quantity: int | None
    unit_price_minor: int | None
    device: str | None


@dataclass(slots=True)
class Session:
    """One session, which grows with its events.

    Attributes:
        sums: counts per kind and money in minor units, by the names of the columns of `sessions`.
    """

    user_id: str
    start_ms: int
    end_ms: int
    event_count: int = 0
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys((measure.name for measure in _MEASURES), 0))
    products: set[str] = field(default_factory=set)
    device: str | None = None

    @property
    def is_capped(self) -> bool:
        """Tell whether it is longer than a session can be."""
        return self.end_ms - self.start_ms > SESSION_MAX_MS

    def add(self, event: SessionEvent) -> None:
        """Take in an event that is not before the last one."""
        self.end_ms = event.event_time_ms
        self.event_count += 1
        for name, sign, is_money in _ADDS[event.kind]:
            self.sums[name] += sign * (event.quantity or 0) * (event.unit_price_minor or 0) if is_money else sign
        if event.product_id is not None:
            self.products.add(event.product_id)
        if self.device is None:
            self.device = event.device


def sessions_of(events: Iterable[SessionEvent]) -> Iterator[Session]:
    """Yield the sessions of events that are sorted by user and then by time, in that order; the last may go on."""
    session: Session | None = None
    seen: dict[tuple[str, str], int] = {}
    for event in events:
        if session is not None and session.user_id != event.user_id:
            yield session
            session = None
            seen = {}
        key, time_ms = (event.topic, event.event_id), event.event_time_ms
        before_ms, seen[key] = seen.get(key), time_ms
        if before_ms is not None and time_ms - before_ms <= LATENESS_MS:
            continue
        if session is not None and time_ms - session.end_ms > SESSION_GAP_MS:
            yield session
            session = None
            seen = {key: time_ms}  # all others are further back than duplicates reach
        if session is None:
            session = Session(event.user_id, time_ms, time_ms)
        session.add(event)
    if session is not None:
        yield session
