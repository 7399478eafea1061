"""The traffic of the demo of drift: parts follow one another without a gap, and visitors click what they like."""

from collections.abc import Callable, Iterable, Sequence

from cli.drift_traffic import HOUR_MS, Hours, Traffic, Visitors
from schemas.event import Event
from serving.recommender import Recommendations
from traffic.changes import NullBug
from traffic.pacing import Pacer
from traffic.timed import TimedEvent

START_MS = 1_700_006_400_000
HOURS = Hours(history=2, stable=1, bug=1, healed=1, shift=2)


class Sent:
    """Takes what is sent, as `traffic.sending.Sender` does."""

    def __init__(self) -> None:
        self.events: list[TimedEvent] = []

    def run(self, events: Iterable[TimedEvent], pacer: Pacer, on_batch: Callable[[int], None] = lambda _: None) -> None:
        for batch in pacer.batches(events):
            self.events += batch


class Shown:
    """Recommends the same to everybody."""

    def __init__(self, products: Sequence[str]) -> None:
        self.products = tuple(products)
        self.asked: list[tuple[str, int]] = []

    def recommend(self, user_id: str, k: int, as_of_ms: int) -> Recommendations:
        self.asked.append((user_id, as_of_ms))
        return Recommendations(self.products[:k], f"r{len(self.asked)}", "1", "champion", 0.001)


def traffic() -> tuple[Traffic, Sent]:
    sent = Sent()
    return Traffic(sent, HOURS, 3, START_MS), sent  # type: ignore[arg-type]


def payloads(sent: Sent) -> list[Event]:
    return [timed.payload for timed in sent.events if isinstance(timed.payload, Event)]


def test_parts_are_the_whole_without_a_gap_or_an_overlap() -> None:
    in_parts, parts = traffic()
    for hours in (2, 1, 2):
        in_parts.send(hours)
    at_once, whole = traffic()
    at_once.send(5)
    assert payloads(parts) == payloads(whole)
    assert in_parts.now_ms == at_once.now_ms == START_MS + 5 * HOUR_MS


def test_a_part_begins_to_be_sent_at_once() -> None:
    shop, sent = traffic()
    shop.send(2)
    before = len(sent.events)
    shop.send(1)
    assert 0 <= sent.events[before].send_ms < 60_000


def test_a_bug_is_in_its_part_only() -> None:
    shop, sent = traffic()
    shop.send(1)
    good = len(sent.events)
    shop.send(1, change=NullBug(0.5))
    searches = {"search"}

    def missing(events: Sequence[TimedEvent]) -> int:
        found = [timed.payload for timed in events]
        return sum(isinstance(e, Event) and e.kind not in searches and e.category_id is None for e in found)

    assert missing(sent.events[:good]) == 0
    assert missing(sent.events[good:]) > 100


def test_visitors_click_with_the_id_of_what_they_were_shown() -> None:
    shop, sent = traffic()
    catalogue = shop.config.catalogue()
    shown = Shown(catalogue.product_ids[:10])
    visitors = Visitors(shop, shown, shop.config.tastes(), 5)  # type: ignore[arg-type]
    visitors.come(400, is_over=lambda: False)
    clicks = payloads(sent)
    assert visitors.shown_count == 400
    assert 0 < visitors.clicked_count == len(clicks) < 400
    for click in clicks:
        assert click.recommendation_id is not None
        user_id, as_of_ms = shown.asked[int(click.recommendation_id[1:]) - 1]
        assert (click.user_id, click.product_id in shown.products) == (user_id, True)
        assert as_of_ms < click.event_time_ms < as_of_ms + 1_000
        assert click.category_id == catalogue.category_ids[catalogue.product_ids.index(click.product_id or "")]


def test_visitors_stop_when_it_is_over() -> None:
    shop, _ = traffic()
    visitors = Visitors(shop, Shown(["p1"]), shop.config.tastes(), 5)  # type: ignore[arg-type]
    visitors.come(1_000, is_over=lambda: True)
    assert visitors.shown_count == 50
