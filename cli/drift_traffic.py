"""The traffic of `shopstream demo --drift`: hours of a shop in seconds, and visitors who are shown recommendations."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from schemas.event import CLICKS_TOPIC, Event
from traffic.changes import Change
from traffic.pacing import Pacer
from traffic.sending import Sender
from traffic.simulator import Simulator, SimulatorConfig
from traffic.tastes import TasteMove, Tastes
from traffic.timed import Mark, TimedEvent

if TYPE_CHECKING:
    from serving.recommender import Recommender

HOUR_MS: Final = 3_600_000
EVENTS_PER_HOUR: Final = 2_400
USERS: Final = 1_500
PRODUCTS: Final = 600
CATEGORIES: Final = 30
TASTE: Final = 0.85
MOVED_SHARE: Final = 0.8  # of the users; some of them liked what is in fashion before
STEP_MS: Final = 1_000  # of event time, from one visitor to the next
CLICK_AFTER_MS: Final = 400


@dataclass(frozen=True, slots=True)
class Hours:
    """How long each part of the story is, in hours of event time."""

    history: int = 72
    stable: int = 8
    bug: int = 2
    healed: int = 2
    shift: int = 24

    @property
    def until_shift(self) -> int:
        """Hours before tastes move."""
        return self.history + self.stable + self.bug + self.healed

    @property
    def all(self) -> int:
        """Hours of the whole story."""
        return self.until_shift + self.shift


class Traffic:
    """One shop, sent part by part.

    Args:
        sender: open.
        start_ms: event time of the first hour's beginning, integer milliseconds UTC.
    """

    def __init__(self, sender: Sender, hours: Hours, seed: int, start_ms: int) -> None:
        self._sender = sender
        move = TasteMove(start_ms + hours.until_shift * HOUR_MS, MOVED_SHARE, seed)
        self.config = SimulatorConfig(
            seed=seed,
            start_ms=start_ms,
            rate=EVENTS_PER_HOUR / 3_600,
            users=USERS,
            products=PRODUCTS,
            categories=CATEGORIES,
            think_s=60.0,
            taste=TASTE,
            moves=(move,),
        )
        self._events = Simulator(self.config).events()
        self._next: TimedEvent | None = None
        self.now_ms = start_ms

    def send(self, hours: int, *, change: Change | None = None) -> int:
        """Send the next hours as fast as they are taken; return how many events that were.

        Args:
            change: on their way.
        """
        until_ms = self.now_ms + hours * HOUR_MS
        begin_ms = self.now_ms - self.config.start_ms
        end_ms = until_ms - self.config.start_ms
        part = (timed._replace(send_ms=timed.send_ms - begin_ms) for timed in self._before(end_ms))
        pacer = Pacer(clock=time.monotonic, sleep=time.sleep, speed=None)
        self._sender.run(part if change is None else change.over(part), pacer)
        self.now_ms = until_ms
        return pacer.sent_count

    def _before(self, send_ms: int) -> Iterator[TimedEvent]:
        while (timed := self._next or next(self._events)).send_ms < send_ms:
            self._next = None
            yield timed
        self._next = timed

    def send_visit(self, clicks: list[Event]) -> None:
        """Send clicks of visitors, as they are."""
        timed = [TimedEvent(0, CLICKS_TOPIC, click, Mark.PLAIN) for click in clicks]
        self._sender.run(timed, Pacer(clock=time.monotonic, sleep=time.sleep, speed=None))


class Visitors:
    """Visitors who are shown recommendations, and click what they like.

    Args:
        tastes: theirs, at present.
        now_ms: event time of the first of them.
    """

    def __init__(self, traffic: Traffic, recommender: "Recommender", tastes: Tastes, seed: int) -> None:
        self._traffic = traffic
        self._recommender = recommender
        self._tastes = tastes
        self._rng = Random(seed)  # noqa: S311 - reproducible traffic, not a secret
        self._category_of = dict(
            zip(traffic.config.catalogue().product_ids, traffic.config.catalogue().category_ids, strict=True)
        )
        self._run = seed
        self.shown_count = 0
        self.clicked_count = 0

    def come(self, count: int, *, is_over: Callable[[], bool]) -> None:
        """Have visitors come one after the other, until there were so many, or it is over."""
        clicks: list[Event] = []
        for _ in range(count):
            click = self._visit()
            if click is not None:
                clicks.append(click)
            if self.shown_count % 50 == 0:
                self._traffic.send_visit(clicks)
                clicks = []
                if is_over():
                    return
        self._traffic.send_visit(clicks)

    def _visit(self) -> Event | None:
        traffic = self._traffic
        traffic.now_ms += STEP_MS
        user_id = f"u{self._rng.randrange(traffic.config.user_count)}"
        shown = self._recommender.recommend(user_id, 10, traffic.now_ms)
        self.shown_count += 1
        product = self._tastes.clicked(user_id, shown.product_ids, self._rng.random())
        if product is None:
            return None
        self.clicked_count += 1
        return Event(
            event_id=f"shown-{self._run:x}-{self.shown_count:x}",
            kind="click",
            user_id=user_id,
            event_time_ms=traffic.now_ms + CLICK_AFTER_MS,
            product_id=product,
            category_id=self._category_of[product],
            position=shown.product_ids.index(product) + 1,
            recommendation_id=shown.recommendation_id,
        )
