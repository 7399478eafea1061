from collections import Counter, defaultdict
from itertools import pairwise

import msgspec
import pytest

from schemas import rules
from schemas.event import Event
from traffic.changes import DAY_MS, CategoryShift, DailyRhythm, NullBug, Span
from traffic.pacing import Pacer
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import Mark, TimedEvent

MIDNIGHT_MS = 1_700_006_400_000
CONFIG = SimulatorConfig(seed=9, start_ms=MIDNIGHT_MS, rate=0.25, users=500, think_s=60.0, broken_share=0.01)
COUNT = 21_600  # a day
NOON = Span(from_ms=MIDNIGHT_MS + DAY_MS // 2)


@pytest.fixture(scope="module")
def traffic() -> list[TimedEvent]:
    return list(Simulator(CONFIG, COUNT).events())


def changed_pairs(before: list[TimedEvent], after: list[TimedEvent]) -> list[tuple[Event, Event]]:
    both = zip(before, after, strict=True)
    return [
        (b.payload, a.payload)
        for b, a in both
        if b != a and isinstance(b.payload, Event) and isinstance(a.payload, Event)
    ]


# -- null bug ----------------------------------------------------------------------------------------------------------


def test_a_null_bug_empties_one_field_of_a_share_of_the_events(traffic: list[TimedEvent]) -> None:
    broken = list(NullBug(0.05, kinds={"page_view"}, during=NOON).over(traffic))
    changed = changed_pairs(traffic, broken)
    assert changed
    for before, after in changed:
        assert after == msgspec.structs.replace(before, category_id=None)
        assert before.kind == "page_view"
        assert before.event_time_ms >= (NOON.from_ms or 0)
    views = [t.payload for t in traffic if isinstance(t.payload, Event) and t.payload.kind == "page_view"]
    afternoon = [event for event in views if NOON.holds(event.event_time_ms)]
    assert len(changed) / len(afternoon) == pytest.approx(0.05, abs=0.015)
    assert [t.payload for t in traffic if t.mark is Mark.BROKEN] == [t.payload for t in broken if t.mark is Mark.BROKEN]


def test_an_event_that_is_sent_twice_is_changed_equally(traffic: list[TimedEvent]) -> None:
    shop = CONFIG.catalogue()
    for change in (NullBug(0.5), CategoryShift(0.5, shop), DailyRhythm(0.5)):
        found: dict[str, set[str]] = defaultdict(set)
        for timed in change.over(traffic):
            if isinstance(timed.payload, Event):
                found[timed.payload.event_id].add(repr(timed.payload))
        assert {len(versions) for versions in found.values()} == {1}


def test_another_seed_of_a_bug_hits_other_events(traffic: list[TimedEvent]) -> None:
    assert list(NullBug(0.1, seed=1).over(traffic)) == list(NullBug(0.1, seed=1).over(traffic))
    assert list(NullBug(0.1, seed=1).over(traffic)) != list(NullBug(0.1, seed=2).over(traffic))


@pytest.mark.parametrize("field", ["user_id", "event_id", "no_such_field"])
def test_a_field_that_no_event_can_lack_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        NullBug(0.1, field)


# -- categories --------------------------------------------------------------------------------------------------------


def test_a_shift_moves_its_share_of_the_category_mix(traffic: list[TimedEvent]) -> None:
    shift = CategoryShift(0.3, CONFIG.catalogue(), seed=2)
    shifted = list(shift.over(traffic))
    named = [t.payload for t in traffic if isinstance(t.payload, Event) and t.payload.category_id]
    assert len(changed_pairs(traffic, shifted)) / len(named) == pytest.approx(0.3, abs=0.02)
    before = Counter(str(event.category_id) for event in named)
    moved = [t.payload for t in shifted if isinstance(t.payload, Event) and t.payload.category_id]
    after = Counter(str(event.category_id) for event in moved)
    assert (after - before).total() / len(named) == pytest.approx(0.28, abs=0.03)
    assert {category for category, count in (after - before).items() if count > 50} <= set(shift.categories)
    assert sum(before[category] for category in shift.categories) / len(named) < 0.1


def test_a_shifted_event_is_one_that_the_shop_could_have_sent(traffic: list[TimedEvent]) -> None:
    shop = CONFIG.catalogue()
    place = {product: index for index, product in enumerate(shop.product_ids)}
    for timed in CategoryShift(1.0, shop).over(traffic):
        event = timed.payload
        if not isinstance(event, Event):
            continue
        assert rules.value_problem(timed.topic, event) is None
        if event.product_id is None:
            assert event.page is None or event.page in {"/search", f"/c/{str(event.category_id)[1:]}"}
            continue
        at = place[event.product_id]
        assert event.category_id == shop.category_ids[at]
        assert event.unit_price_minor in {None, shop.prices_minor[at]}
        assert event.page in {None, f"/p/{at}"}


def test_a_cart_still_holds_what_was_put_into_it(traffic: list[TimedEvent]) -> None:
    held: Counter[tuple[str, str]] = Counter()
    for timed in CategoryShift(0.5, CONFIG.catalogue()).over(traffic):
        event = timed.payload
        if timed.mark in {Mark.DUPLICATE, Mark.BROKEN} or not isinstance(event, Event):
            continue
        cart = str(event.session_id), str(event.product_id)
        held[cart] += {"add": 1, "remove": -1}.get(event.kind, 0) * (event.quantity or 0)
        assert held[cart] >= 0
        assert event.kind != "purchase" or held[cart] >= (event.quantity or 0)


# -- the rhythm of a day -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amplitude", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("start_ms", [0, MIDNIGHT_MS + 5 * 3_600_000 + 1])
def test_bending_can_be_undone_and_never_goes_back(amplitude: float, start_ms: int) -> None:
    rhythm = DailyRhythm(amplitude, start_ms)
    times = range(MIDNIGHT_MS - DAY_MS, MIDNIGHT_MS + DAY_MS, 61_001)
    bent = [rhythm.bent_ms(at_ms) for at_ms in times]
    assert all(abs(rhythm.even_ms(after) - before) <= 3 for before, after in zip(times, bent, strict=True))
    assert all(earlier <= later for earlier, later in pairwise(bent))
    assert rhythm.bent_ms(start_ms) == start_ms
    assert rhythm.bent_ms(start_ms + DAY_MS) == start_ms + DAY_MS


def test_a_day_has_busy_and_quiet_hours(traffic: list[TimedEvent]) -> None:
    rhythm = DailyRhythm(0.5, MIDNIGHT_MS)
    hours: Counter[int] = Counter()
    sent = []
    for timed in rhythm.over(traffic):
        sent.append(timed.send_ms)
        if timed.mark is Mark.PLAIN and isinstance(timed.payload, Event):
            assert timed.payload.event_time_ms == pytest.approx(MIDNIGHT_MS + timed.send_ms, abs=2)
            hours[timed.send_ms // 3_600_000] += 1
    assert sent == sorted(sent)
    average = hours.total() / 24
    assert hours[5] / average == pytest.approx(1.5, abs=0.1)
    assert hours[17] / average == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("amplitude", [-0.1, 0.9])
def test_an_amplitude_that_no_day_has_is_refused(amplitude: float) -> None:
    with pytest.raises(ValueError, match="amplitude"):
        DailyRhythm(amplitude)


def test_a_past_day_is_sent_as_fast_as_it_goes(traffic: list[TimedEvent]) -> None:
    """So a demo need not wait for its event time: a day of changed events passes without a single pause."""
    pauses: list[float] = []
    pacer = Pacer(clock=lambda: 0.0, sleep=pauses.append, speed=None)
    changed = DailyRhythm(0.5, MIDNIGHT_MS).over(NullBug(0.05).over(traffic))
    assert sum(len(batch) for batch in pacer.batches(changed)) == COUNT
    assert pauses == []
    assert traffic[-1].send_ms > DAY_MS - 10_000
