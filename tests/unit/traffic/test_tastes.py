from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random

import pytest

from schemas.event import Event
from traffic.simulator import Simulator, SimulatorConfig
from traffic.tastes import LIKED, TasteMove, Tastes

START_MS = 1_700_006_400_000
HOUR_MS = 3_600_000
COUNT = 20_000
MOVED_MS = START_MS + 6 * HOUR_MS
CONFIG = SimulatorConfig(
    seed=5,
    start_ms=START_MS,
    rate=COUNT / (12 * 3_600),
    users=1_000,
    products=600,
    categories=30,
    think_s=60.0,
    taste=0.8,
    moves=(TasteMove(MOVED_MS, 0.4, 3),),
)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return [t.payload for t in Simulator(CONFIG, COUNT).events() if isinstance(t.payload, Event)]


@pytest.fixture(scope="module")
def before(events: list[Event]) -> list[Event]:
    return [event for event in events if event.event_time_ms < MOVED_MS]


@pytest.fixture(scope="module")
def after(events: list[Event]) -> list[Event]:
    return [event for event in events if event.event_time_ms >= MOVED_MS + HOUR_MS]


def hit_rate(events: Iterable[Event], recommended: Callable[[str], Sequence[str]]) -> float:
    """Share of the views whose product is among ten that are recommended."""
    hits = [event.product_id in recommended(event.user_id) for event in events if event.product_id]
    return sum(hits) / len(hits)


def best_for(tastes: Tastes) -> Callable[[str], Sequence[str]]:
    """Ten products for each user, by somebody who knows what they like."""
    shop = CONFIG.catalogue()

    def recommended(user_id: str) -> Sequence[str]:
        shelves = [shop.shelves[category] for category in tastes.liked(user_id)]
        return [shop.product_ids[index] for shelf in shelves for index in shelf[: 10 // len(shelves)]]

    return recommended


def most_popular(events: Iterable[Event]) -> Callable[[str], Sequence[str]]:
    counts = Counter(event.product_id for event in events if event.product_id)
    ten = [product for product, _ in counts.most_common(10)]
    return lambda _: ten


def category_mix(events: Iterable[Event]) -> Counter[str]:
    counts = Counter(event.category_id for event in events if event.category_id)
    return Counter({category: count / counts.total() for category, count in counts.items()})


def test_who_knows_what_users_like_beats_popularity_clearly(before: list[Event]) -> None:
    known, popular = hit_rate(before, best_for(CONFIG.tastes(START_MS))), hit_rate(before, most_popular(before))
    assert known > 1.5 * popular
    assert popular > 0.1, "popularity must stay a fair guess"


def test_after_a_move_the_new_tastes_are_right_and_the_old_ones_are_not(
    before: list[Event], after: list[Event]
) -> None:
    old, new = best_for(CONFIG.tastes(START_MS)), best_for(CONFIG.tastes())
    assert hit_rate(before, old) > 1.3 * hit_rate(before, new)
    assert hit_rate(after, new) > 1.3 * hit_rate(after, old)


def test_a_move_of_four_in_ten_users_changes_three_in_ten_categories(before: list[Event], after: list[Event]) -> None:
    first, second = category_mix(before), category_mix(after)
    assert sum(((first - second) + (second - first)).values()) / 2 == pytest.approx(0.3, abs=0.06)
    rare = CONFIG.catalogue().ranked_categories[15:]
    assert sum(second[name] for name in rare) > 1.5 * sum(first[name] for name in rare)


def test_only_the_share_that_moves_likes_something_else() -> None:
    old, new = CONFIG.tastes(START_MS), CONFIG.tastes()
    others = sum(old.liked(f"u{user}") != new.liked(f"u{user}") for user in range(1_000))
    assert others == pytest.approx(400, abs=15)
    busiest = sum(old.liked(f"u{user}") != new.liked(f"u{user}") for user in range(20))
    assert busiest == pytest.approx(8, abs=1), "busy users must be among them like all others"


def test_equal_seeds_like_the_same_and_others_do_not() -> None:
    shop = CONFIG.catalogue()
    one, same, other = Tastes(1, shop), Tastes(1, shop), Tastes(2, shop)
    users = [f"u{user}" for user in range(200)]
    assert [one.liked(user) for user in users] == [same.liked(user) for user in users]
    assert sum(one.liked(user) != other.liked(user) for user in users) > 150
    assert {len(one.liked(user)) for user in users} == {LIKED}


def test_moves_follow_one_another() -> None:
    first = CONFIG.tastes(START_MS).moved(1.0, 1)
    second = first.moved(1.0, 2)
    users = [f"u{user}" for user in range(100)]
    assert sum(first.liked(user) != second.liked(user) for user in users) > 50
    assert second.moved(0.0).liked("u1") == second.liked("u1")


def test_a_visitor_clicks_more_often_what_they_like() -> None:
    tastes = CONFIG.tastes(START_MS)
    liked, others = best_for(tastes)("u7"), best_for(tastes)("u9")
    assert not set(tastes.liked("u7")) & set(tastes.liked("u9"))
    assert tastes.click_chance("u7", liked) > 3 * tastes.click_chance("u7", others) > 0.0
    assert tastes.click_chance("u7", []) == 0.0
    one = tastes.click_chance("u7", liked[:1])
    assert tastes.click_chance("u7", liked[:2]) == pytest.approx(one + (1 - one) * 0.9 * one)
    assert tastes.click_chance("u7", liked[:5]) < tastes.click_chance("u7", liked)
    assert tastes.click_chance("u7", [*others[:5], *liked[:5]]) < tastes.click_chance("u7", [*liked[:5], *others[:5]])


def test_clicks_are_as_frequent_as_their_chance_says() -> None:
    tastes, rng = CONFIG.tastes(START_MS), Random(1)
    shown = best_for(tastes)("u7")
    clicked = [tastes.clicked("u7", shown, rng.random()) for _ in range(20_000)]
    share = sum(product is not None for product in clicked) / len(clicked)
    assert share == pytest.approx(tastes.click_chance("u7", shown), abs=0.02)
    counts = Counter(product for product in clicked if product)
    assert [product for product, _ in counts.most_common(3)] == list(shown[:3]), "the first positions are seen most"


@pytest.mark.parametrize("user_id", ["", "7", "ux", "p7"])
def test_somebody_who_is_no_user_of_the_shop_likes_nothing(user_id: str) -> None:
    with pytest.raises(ValueError, match="no user"):
        CONFIG.tastes().liked(user_id)


def test_a_shop_of_one_category_leaves_nothing_to_choose() -> None:
    config = SimulatorConfig(seed=1, start_ms=START_MS, products=3, categories=1, taste=1.0)
    assert config.tastes().moved(1.0).liked("u1") == ("c0",)
    assert len(list(Simulator(config, 100).events())) == 100


def test_moves_without_taste_change_nothing() -> None:
    plain = SimulatorConfig(seed=3, start_ms=START_MS)
    moved = SimulatorConfig(seed=3, start_ms=START_MS, moves=(TasteMove(START_MS, 1.0),))
    assert list(Simulator(plain, 2_000).events()) == list(Simulator(moved, 2_000).events())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="taste"):
        SimulatorConfig(seed=1, start_ms=0, taste=1.1)
    with pytest.raises(ValueError, match="must be 0"):
        TasteMove(0, 1.5)
    with pytest.raises(ValueError, match="order"):
        SimulatorConfig(seed=1, start_ms=0, moves=(TasteMove(2, 0.1), TasteMove(1, 0.1)))
