"""What happens to a shop's events on their way, whoever makes them: a bug, a shift, the rhythm of a day.

Each is a pure function of the events. Whether one of them is changed follows from its ids, not from its place, so an
event that is sent twice is changed equally, and a part of the stream is changed as the whole would be.
"""

import math
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any, Final, Protocol

import mmh3
import msgspec

from schemas.event import CLICK_KINDS, Event
from traffic.shop import Act, Catalogue
from traffic.timed import TimedEvent

DAY_MS: Final = 86_400_000
AMPLITUDE_MAX: Final = 0.8  # beyond it Newton's method does not find its way
_STEPS: Final = 12  # of Newton's method
_RARE: Final = 6  # one in so many categories


class Change(Protocol):
    """One change to a stream of events."""

    def over(self, events: Iterable[TimedEvent]) -> Iterator[TimedEvent]:
        """Yield the events in their order, changed; broken records stay as they are."""
        ...


@dataclass(frozen=True)
class Span:
    """A stretch of event time.

    Attributes:
        from_ms: its first instant, integer milliseconds UTC; None for always.
        until_ms: its end, not included; None for no end.
    """

    from_ms: int | None = None
    until_ms: int | None = None

    def holds(self, at_ms: int) -> bool:
        """Tell whether an instant lies in it."""
        return (self.from_ms is None or at_ms >= self.from_ms) and (self.until_ms is None or at_ms < self.until_ms)


ALWAYS: Final = Span()


@dataclass(frozen=True)
class NullBug:
    """A producer forgets a field.

    Attributes:
        share: of the events of these kinds that lose it.
        field: its name.
        kinds: of events.
        during: in which event time.
    """

    share: float
    field: str = "category_id"
    kinds: Set[str] = frozenset(CLICK_KINDS)
    seed: int = 0
    during: Span = ALWAYS

    def __post_init__(self) -> None:
        if self.field not in Event.__struct_fields__ or self.field in {"event_id", "kind", "user_id", "event_time_ms"}:
            raise ValueError(f"no event can lack the field {self.field!r}")

    def over(self, events: Iterable[TimedEvent]) -> Iterator[TimedEvent]:
        """Yield the events in their order, some without the field."""
        for timed in events:
            event = timed.payload
            if (
                isinstance(event, Event)
                and event.kind in self.kinds
                and self.during.holds(event.event_time_ms)
                and _drawn(self.seed, event.event_id) < self.share
            ):
                yield timed._replace(payload=msgspec.structs.replace(event, **{self.field: None}))
            else:
                yield timed


class CategoryShift:
    """Visitors turn to products of other categories, which were rare before.

    A product is replaced by another for the whole of a session, with all that the catalogue says about it, so a cart
    holds what was put into it. Only a session that is cut by the beginning or the end of the stretch may not fit.

    Args:
        share: of the events that name a category, on average over sessions and products.
        catalogue: the shop's (`SimulatorConfig.catalogue`).
        during: in which event time.
    """

    def __init__(self, share: float, catalogue: Catalogue, seed: int = 0, during: Span = ALWAYS) -> None:
        self._share = share
        self._catalogue = catalogue
        self._seed = seed
        self._during = during
        self.categories = catalogue.ranked_categories[-math.ceil(len(catalogue.ranked_categories) / _RARE) :]

    def over(self, events: Iterable[TimedEvent]) -> Iterator[TimedEvent]:
        """Yield the events in their order, some about other products."""
        for timed in events:
            event = timed.payload
            if isinstance(event, Event) and event.category_id and self._during.holds(event.event_time_ms):
                yield timed._replace(payload=self._shifted(event))
            else:
                yield timed

    def _shifted(self, event: Event) -> Event:
        shop = self._catalogue
        about = f"{event.session_id}:{event.product_id or event.category_id}"
        if _drawn(self._seed, about) >= self._share:
            return event
        category = self.categories[int(_drawn(self._seed, f"{about}:category") * len(self.categories))]
        product = shop.product_of(category, _drawn(self._seed, f"{about}:product"))
        changed: dict[str, Any] = {"category_id": category}
        if event.product_id is not None:
            changed["product_id"] = shop.product_ids[product]
        if event.unit_price_minor is not None:
            changed["unit_price_minor"] = shop.prices_minor[product]
        if event.page is not None:
            changed["page"] = shop.page(Act.VIEW_LIST if event.product_id is None else Act.VIEW_PRODUCT, product)
        return msgspec.structs.replace(event, **changed)


@dataclass(frozen=True)
class DailyRhythm:
    """Bends an even pace into days of UTC with busy and quiet hours; a day has as many events as before.

    The pace at the time t of a day, in days, is 1 + amplitude * sin(2 pi t): busiest at 6 o'clock, quietest at 18.

    Attributes:
        amplitude: by how much more the busiest moment has than the average, as a share; at most 0.8.
        start_ms: the instant that stays where it is, as a rule `SimulatorConfig.start_ms`; by it go the times of
            sending. A midnight by default.
    """

    amplitude: float
    start_ms: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.amplitude <= AMPLITUDE_MAX:
            raise ValueError(f"the amplitude of a day must be 0..{AMPLITUDE_MAX}: {self.amplitude}")

    def over(self, events: Iterable[TimedEvent]) -> Iterator[TimedEvent]:
        """Yield the events in their order, at the times of a day with a rhythm, and sent then."""
        for timed in events:
            send_ms = self.bent_ms(self.start_ms + timed.send_ms) - self.start_ms
            event = timed.payload
            if isinstance(event, Event):
                event = msgspec.structs.replace(event, event_time_ms=self.bent_ms(event.event_time_ms))
            yield timed._replace(send_ms=send_ms, payload=event)

    def bent_ms(self, even_ms: int) -> int:
        """Return when of days with a rhythm an event happens that even days would have at this instant.

        The integral of the pace is turned round by Newton's method.
        """
        day, of_day_ms = divmod(even_ms + self._ahead_ms, DAY_MS)
        even = bent = of_day_ms / DAY_MS
        for _ in range(_STEPS):
            bent -= (self._passed(bent) - even) / (1 + self.amplitude * math.sin(2 * math.pi * bent))
        return day * DAY_MS + round(bent * DAY_MS)

    def even_ms(self, bent_ms: int) -> int:
        """Return the instant of even days that becomes this one, give or take a few milliseconds."""
        return self._integral_ms(bent_ms) - self._ahead_ms

    @property
    def _ahead_ms(self) -> int:
        """By how much the start has more behind it on its day than an even pace would have."""
        return self._integral_ms(self.start_ms) - self.start_ms

    def _integral_ms(self, bent_ms: int) -> int:
        day, of_day_ms = divmod(bent_ms, DAY_MS)
        return day * DAY_MS + round(self._passed(of_day_ms / DAY_MS) * DAY_MS)

    def _passed(self, bent: float) -> float:
        return bent + self.amplitude / (2 * math.pi) * (1 - math.cos(2 * math.pi * bent))


def _drawn(seed: int, about: str) -> float:
    """Return a number from 0 up to 1 that follows from a text."""
    return mmh3.hash(about, seed, signed=False) / 2**32
