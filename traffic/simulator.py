"""A shop's traffic as a pure function of its configuration: many visitors at once, at a nominal rate.

At each tick of the nominal rate one open session, drawn at random, takes its next step; so the time between two steps
of a visitor is exponential, sessions overlap, and event times advance with the rate. A bounded run opens its last
sessions early enough for all to end, so that shares over sessions hold for a run of any length.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgspec

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from traffic.shop import Act, Catalogue, Funnel, Step, Visitors, zipf
from traffic.tastes import TasteMove, Tastes
from traffic.timed import BrokenEvent, Defect, Mark, TimedEvent

_DEVICES: Final = ("mobile",) * 6 + ("desktop",) * 3 + ("tablet",)
_KINDS: Final = ("page_view", "page_view", "click", "search", "add", "remove", "purchase")  # by Act
_WITHOUT_PRODUCT: Final = (Act.VIEW_LIST, Act.SEARCH)
_RECOMMENDED: Final = 10  # the first positions of a list are recommendations
_CART_DEFECTS: Final = frozenset({Defect.NEGATIVE_QUANTITY, Defect.WRONG_TYPE})
_RECENT: Final = 256  # events of which one may be sent a second time
_OPENING_SHARE: Final = 0.5  # of the events, until as many sessions are open as should be
_STEPS_PER_SESSION: Final = 5  # about; bounds how many sessions a short run opens at once


@dataclass(frozen=True)
class SimulatorConfig:
    """What a run of the simulator depends on, and all of it: equal configurations give equal events.

    Attributes:
        start_ms: event time of the first event, integer milliseconds UTC; part of every id, so that two runs with the
            same seed are not taken for duplicates of each other.
        rate: events per second, duplicates and broken ones included.
        users: how many there are; None for 20 per event per second.
        think_s: mean time between two steps of a visitor, in seconds; rate * think_s sessions are open at once.
        late_share: share of the events that come 11 to 60 minutes late, beyond the allowed lateness.
        disorder_share: share that come up to 9 minutes late, within it.
        duplicate_share: share that repeat one of the last 256 events.
        broken_share: share that are broken, each `Defect` in turn.
        taste: share of the products that a visitor comes upon by their taste (traffic/tastes.py); the others come by
            popularity alone, as all do with 0.
        moves: how tastes move, in the order of time.
    """

    seed: int
    start_ms: int
    rate: float = 1_000.0
    users: int | None = None
    products: int = 5_000
    categories: int = 60
    think_s: float = 2.0
    late_share: float = 0.002
    disorder_share: float = 0.01
    duplicate_share: float = 0.005
    broken_share: float = 0.0
    currency: str = "EUR"
    funnel: Funnel = field(default_factory=Funnel)
    taste: float = 0.0
    moves: tuple[TasteMove, ...] = ()

    def __post_init__(self) -> None:
        shares = (self.late_share, self.disorder_share, self.duplicate_share, self.broken_share)
        if any(share < 0.0 for share in shares) or sum(shares) > 0.9:
            raise ValueError(
                f"the shares of late, disordered, duplicate and broken events must add up to 0..0.9: {shares}"
            )
        if self.rate <= 0.0 or self.think_s <= 0.0 or self.user_count < 1 or min(self.products, self.categories) < 1:
            raise ValueError("rate, think_s, users, products and categories must be positive")
        if not (0.0 <= self.funnel.abandonment < 1.0 and self.funnel.cart_share <= 1.0):
            raise ValueError("conversion cannot be greater than the share of carts that are not abandoned")
        if not 0.0 <= self.taste <= 1.0:
            raise ValueError(f"the share of products by taste must be 0..1: {self.taste}")
        if [move.at_ms for move in self.moves] != sorted(move.at_ms for move in self.moves):
            raise ValueError("the moves of tastes must be in the order of time")

    @property
    def user_count(self) -> int:
        """How many users there are."""
        return max(100, round(20 * self.rate)) if self.users is None else self.users

    def catalogue(self) -> Catalogue:
        """Return the shop of these visitors; equal seeds and sizes give equal shops."""
        return Catalogue(Random(self.seed), self.products, self.categories)  # noqa: S311 - as in Simulator

    def tastes(self, at_ms: int | None = None) -> Tastes:
        """Return what these visitors like at an instant of event time, or after all moves."""
        moves = self.moves if at_ms is None else [move for move in self.moves if move.at_ms <= at_ms]
        return Tastes(self.seed, self.catalogue(), moves)


class _Session(msgspec.Struct, gc=False):
    # gc=False here and in Step: tens of thousands are open at once, and tracing them would stop the traffic for 0.1 s
    session_id: str
    user: int
    user_id: str
    device: str
    steps: list[Step]  # newest last: the next step is popped
    clicked: bool = False  # the clicks topic has an event of this session already


class Simulator:
    """The events of one configuration.

    Args:
        config: everything that they depend on.
        count: how many there are; None for no end.
    """

    def __init__(self, config: SimulatorConfig, count: int | None = None) -> None:
        self._config = config
        self._count = count
        rng = Random(config.seed)  # noqa: S311 - reproducible traffic, not a secret
        self._rng = rng
        self._shop = Catalogue(rng, config.products, config.categories)
        self._visitors = Visitors(rng, config.funnel, len(self._shop.queries))
        self._products = zipf(rng, config.products, 1.0)
        self._tastes = Tastes(config.seed, self._shop)
        self._moves = deque(config.moves)
        self._users = zipf(rng, config.user_count, 1.0)
        self._busy: set[int] = set()
        self._open: list[_Session] = []
        self._open_wanted = self._sessions_at_once()
        self._steps_open = 0
        self._step_share = 1.0 - config.broken_share - config.duplicate_share
        self._sessions_started = 0
        self._run_id = f"{config.seed:x}-{config.start_ms:x}"

    def events(self) -> Iterator[TimedEvent]:
        """Yield the events in the order in which to send them; may be called once.

        Their event time is `start_ms + send_ms`, except for what is late, out of order, a duplicate, or broken.
        """
        config, rng = self._config, self._rng
        shares = (config.broken_share, config.duplicate_share, config.late_share, config.disorder_share)
        until_broken, until_duplicate, until_late, until_disordered = _cumulated(shares)
        recent: deque[TimedEvent] = deque(maxlen=_RECENT)
        defects = _for_ever(tuple(Defect))
        late_due = 0  # a late event needs an earlier one of its session, so it may have to wait for one
        tick = 0
        while self._count is None or tick < self._count:
            send_ms = int(tick * 1_000 / config.rate)
            draw = rng.random()
            if draw < until_broken:
                yield self._broken(next(defects), tick, send_ms)
            elif draw < until_duplicate and recent:
                first = recent[int(rng.random() * len(recent))]
                yield TimedEvent(send_ms, first.topic, first.payload, Mark.DUPLICATE)
            else:
                session = self._turn(tick)
                late_due += until_duplicate <= draw < until_late
                delay_ms, mark = 0, Mark.PLAIN
                if late_due and session.clicked and session.steps[-1].act < Act.ADD:
                    late_due -= 1
                    delay_ms, mark = rng.randrange(11 * 60_000, 60 * 60_000), Mark.LATE
                elif until_late <= draw < until_disordered:
                    delay_ms, mark = rng.randrange(1_000, 9 * 60_000), Mark.DISORDERED
                timed = self._step(session, tick, send_ms, delay_ms, mark)
                recent.append(timed)
                yield timed
            tick += 1

    def _sessions_at_once(self) -> int:
        at_once = self._config.rate * self._config.think_s
        if self._count is not None:
            at_once = min(at_once, self._count / (3 * _STEPS_PER_SESSION))
        # a user has one session at a time; a quarter of them keeps a free one quick to find
        return max(1, int(min(at_once, self._config.user_count / 4)))

    def _start(self, tick: int) -> _Session:
        user = self._free_user()
        self._busy.add(user)
        steps = self._visitors.script(self._products_of(user, tick))
        steps.reverse()
        self._steps_open += len(steps)
        self._sessions_started += 1
        session_id = f"s{self._run_id}-{self._sessions_started:x}"
        return _Session(session_id, user, f"u{user}", _DEVICES[user % len(_DEVICES)], steps)

    def _products_of(self, user: int, tick: int) -> Iterator[int]:
        """Return what a visit that begins now comes upon."""
        taste = self._config.taste
        if not taste:
            return self._products
        now_ms = self._config.start_ms + int(tick * 1_000 / self._config.rate)
        while self._moves and self._moves[0].at_ms <= now_ms:
            self._tastes = self._config.tastes(self._moves.popleft().at_ms)
        return self._tastes.products(user, taste, self._rng, self._products)

    def _free_user(self) -> int:
        user = next(self._users)
        for _ in range(16):
            if user not in self._busy:
                return user
            user = next(self._users)
        while user in self._busy:
            user = (user + 1) % self._config.user_count
        return user

    def _turn(self, tick: int) -> _Session:
        """Return the open session whose turn it is; one that has ended makes room for a new one, or leaves."""
        sessions = self._open
        if len(sessions) < self._open_wanted and self._rng.random() < _OPENING_SHARE and self._may_open(tick):
            return self._first_of_another(tick)
        while len(sessions) > 0:
            at = int(self._rng.random() * len(sessions))
            session = sessions[at]
            if session.steps:
                self._steps_open -= 1
                return session
            self._busy.discard(session.user)
            if self._may_open(tick):
                sessions[at] = self._start(tick)
            else:
                sessions[at] = sessions[-1]
                sessions.pop()
        return self._first_of_another(tick)

    def _first_of_another(self, tick: int) -> _Session:
        session = self._start(tick)
        self._open.append(session)
        self._steps_open -= 1
        return session

    def _may_open(self, tick: int) -> bool:
        """Tell whether the ticks left are more than the open sessions need, so that a new one can end, too."""
        return self._count is None or (self._count - tick) * self._step_share > self._steps_open

    def _step(self, session: _Session, tick: int, send_ms: int, delay_ms: int, mark: Mark) -> TimedEvent:
        step = session.steps.pop()
        topic = CARTS_TOPIC if step.act >= Act.ADD else CLICKS_TOPIC
        event = self._event(session, step, tick, self._config.start_ms + send_ms - delay_ms)
        session.clicked = session.clicked or topic is CLICKS_TOPIC
        return TimedEvent(send_ms, topic, event, mark)

    def _event(self, session: _Session, step: Step, tick: int, event_time_ms: int) -> Event:
        shop = self._shop
        act, product, amount = step.act, step.product, step.amount
        searches, clicks, in_cart = act == Act.SEARCH, act == Act.CLICK, act >= Act.ADD
        return Event(
            event_id=f"{self._run_id}-{tick:x}",
            kind=_KINDS[act],
            user_id=session.user_id,
            event_time_ms=event_time_ms,
            session_id=session.session_id,
            device=session.device,
            product_id=None if act in _WITHOUT_PRODUCT else shop.product_ids[product],
            category_id=None if searches else shop.category_ids[product],
            query=shop.queries[amount] if searches else None,
            result_count=amount * 3 if searches else None,
            position=amount if clicks else None,
            recommendation_id="also-viewed" if clicks and amount <= _RECOMMENDED else None,
            page=None if in_cart else shop.page(act, product),
            quantity=amount if in_cart else None,
            unit_price_minor=shop.prices_minor[product] if in_cart else None,
            currency=self._config.currency if in_cart else None,
            order_id=f"o{session.session_id}" if act == Act.PURCHASE else None,
        )

    def _broken(self, defect: Defect, tick: int, send_ms: int) -> TimedEvent:
        """Break an event of an extra visitor, so that no session lacks a step."""
        act = Act.ADD if defect in _CART_DEFECTS else Act.VIEW_PRODUCT
        user = next(self._users)
        visitor = _Session(f"s{self._run_id}-b{tick:x}", user, f"u{user}", _DEVICES[0], [])
        event = self._event(visitor, Step(act, 0, 1), tick, self._config.start_ms + send_ms)
        topic = CARTS_TOPIC if act is Act.ADD else CLICKS_TOPIC
        return TimedEvent(send_ms, topic, BrokenEvent(defect, event), Mark.BROKEN)


def _cumulated(shares: tuple[float, ...]) -> list[float]:
    total = 0.0
    sums = []
    for share in shares:
        total += share
        sums.append(total)
    return sums


def _for_ever(defects: tuple[Defect, ...]) -> Iterator[Defect]:
    while True:
        yield from defects
