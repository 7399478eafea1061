"""Values at an instant: windows and sessions that decay at read, over both topics."""

from typing import Any

import pytest

from features.catalog import FEATURES, WINDOWS
from features.errors import StateError
from features.finalize import finalize
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from tests.logs import DAY, HOUR, MINUTE, NOON, SECOND, event, folded, logs_of, numbered, values_of
from tests.oracle import expected

GAP = 30 * MINUTE


def session_of(values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("session_"): value for name, value in values.items() if name.startswith("session_")}


class TestInstant:
    def test_none_means_the_newest_event(self) -> None:
        values = values_of([event(0), event(5, "add")])

        assert (values["as_of_ms"], values["newest_event_ms"], values["clamped"]) == (NOON + 5, NOON + 5, False)

    def test_one_before_the_newest_event_is_raised_and_said(self) -> None:
        values = values_of([event(0), event(5, "add")], as_of_ms=4)

        assert (values["as_of_ms"], values["clamped"]) == (NOON + 5, True)
        assert values["cart_add_count_5m"] == 1

    def test_one_at_or_after_it_is_kept(self) -> None:
        assert values_of([event(0)], as_of_ms=0)["clamped"] is False
        assert values_of([event(0)], as_of_ms=77)["as_of_ms"] == NOON + 77

    @pytest.mark.parametrize("as_of_ms", [None, 0, -1, NOON])
    def test_without_a_state_counts_are_zero_and_the_rest_is_null(self, as_of_ms: int | None) -> None:
        values = finalize({CLICKS_TOPIC: None}, as_of_ms)

        for feature in FEATURES:
            empty = {"int": 0, "float": 0.0, "bool": False, "strings": []}[feature.dtype]
            assert values[feature.name] in ([empty, None] if feature.nullable else [empty])
        assert values["as_of_ms"] == as_of_ms
        assert values["newest_event_ms"] is None
        assert values["session_start_ms"] is None
        assert values["click_through_rate_24h"] is None
        assert not any(values[name] for name in values if name.endswith("_saturated") or name in {"clamped", "partial"})

    def test_a_user_of_one_topic_has_values_for_both(self) -> None:
        values = values_of([event(0, "add")])

        assert (values["cart_add_count_5m"], values["page_view_count_5m"], values["cart_rate_30m"]) == (1, 0, None)

    def test_a_state_of_another_topic_is_refused(self) -> None:
        state = folded(numbered([event(0)]))

        with pytest.raises(StateError, match=CARTS_TOPIC):
            finalize({CARTS_TOPIC: state}, None)

    def test_partial_when_either_state_is(self) -> None:
        clicks, carts = folded(numbered([event(0)])), folded(numbered([event(0, "add")]))
        carts.partial = True

        assert finalize({CLICKS_TOPIC: clicks}, None)["partial"] is False
        assert finalize({CLICKS_TOPIC: clicks, CARTS_TOPIC: carts}, None)["partial"] is True


class TestWindows:
    @pytest.mark.parametrize("name", WINDOWS)
    def test_an_event_on_a_pane_edge_leaves_with_its_pane(self, name: str) -> None:
        """On an edge, it is in for exactly the window's length; 1 ms before an edge, for one hop less 1 ms less."""
        length_ms, hop_ms = WINDOWS[name].length_ms, WINDOWS[name].hop_ms

        def counted(event_ms: int, as_of_ms: int) -> Any:
            return values_of([event(event_ms)], as_of_ms)[f"page_view_count_{name}"]

        assert counted(0, length_ms - 1) == 1
        assert counted(0, length_ms) == 0
        assert counted(-1, length_ms - hop_ms - 1) == 1
        assert counted(-1, length_ms - hop_ms) == 0

    def test_idle_for_31_minutes_everything_short_is_zero_and_the_session_closed(self) -> None:
        values = values_of([event(0, product_id="p1"), event(1, "add")], as_of_ms=31 * MINUTE)

        short = [name for name in values if name.endswith(("_5m", "_30m")) and "rate" not in name]
        assert [values[name] for name in short] == [0] * len(short)
        assert (values["session_open"], values["page_view_count_1h"], values["cart_value_minor_1h"]) == (False, 1, 100)

    def test_rates_are_null_without_page_views(self) -> None:
        values = values_of([event(0, "click"), event(0, "add")])

        assert (values["click_through_rate_30m"], values["cart_rate_24h"]) == (None, None)
        values = values_of([event(0), event(1), event(2, "click"), event(0, "add")])
        assert (values["click_through_rate_30m"], values["cart_rate_24h"]) == (0.5, 0.5)

    def test_removals_of_what_was_added_earlier_make_the_value_negative(self) -> None:
        added, removed = event(0, "add", unit_price_minor=500), event(2 * HOUR, "remove", unit_price_minor=500)

        values = values_of([added, removed])

        assert (values["cart_value_minor_1h"], values["cart_value_minor_24h"]) == (-500, 0)

    def test_seconds_since_the_last_event_are_null_beyond_24_h(self) -> None:
        at = {ms: values_of([event(0)], ms)["seconds_since_last_event_24h"] for ms in (0, 1_500, DAY, DAY + 1)}

        assert at == {0: 0.0, 1_500: 1.5, DAY: 86_400.0, DAY + 1: None}

    def test_an_id_counts_by_its_newest_event_in_either_topic(self) -> None:
        events = [event(0, product_id="p1", category_id="c1"), event(HOUR, "add", product_id="p1", category_id="c2")]

        values = values_of(events)

        assert (values["product_distinct_30m"], values["product_distinct_24h"]) == (1, 1)
        assert (values["category_distinct_30m"], values["category_distinct_24h"]) == (1, 2)


class TestLastProducts:
    def test_each_once_newest_first_over_both_topics(self) -> None:
        events = [event(0, product_id="a"), event(1, "add", product_id="b"), event(2, product_id="c")]
        events.append(event(3, "purchase", product_id="a"))

        assert values_of(events)["last_products_24h"] == ["a", "c", "b"]

    def test_of_equal_times_the_greater_id_first(self) -> None:
        events = [event(0, product_id="b"), event(0, "add", product_id="c"), event(0, product_id="a")]

        assert values_of(events)["last_products_24h"] == ["c", "b", "a"]

    def test_ten_at_most_and_none_older_than_the_window(self) -> None:
        events = [event(n, product_id=f"p{n:02d}") for n in range(12)]

        assert values_of(events)["last_products_24h"] == [f"p{n:02d}" for n in range(11, 1, -1)]
        assert values_of(events, DAY - 1)["last_products_24h"][0] == "p11"
        assert values_of(events, DAY)["last_products_24h"] == []

    def test_ties_beyond_the_cap_lose_none_of_the_ten(self) -> None:
        events = [event(0, product_id=f"p{n:03d}") for n in range(300)]

        assert values_of(events)["last_products_24h"] == [f"p{n:03d}" for n in range(299, 289, -1)]


class TestSession:
    def test_open_until_30_min_after_its_last_event_inclusive(self) -> None:
        assert values_of([event(0)], GAP)["session_open"] is True
        assert values_of([event(0)], GAP + 1)["session_open"] is False

    def test_a_gap_of_30_min_continues_and_a_longer_one_begins_anew(self) -> None:
        assert values_of([event(0), event(GAP)])["session_start_ms"] == NOON
        assert values_of([event(0), event(GAP + 1)])["session_start_ms"] == NOON + GAP + 1

    def test_a_closed_one_has_zeros_and_no_start(self) -> None:
        session = session_of(values_of([event(0, product_id="p1"), event(0, "add")], HOUR))

        assert session.pop("start_ms") is None
        assert session == dict.fromkeys(session, 0)

    def test_joins_the_topics_in_turn(self) -> None:
        """No topic's own events are near enough; together they are one session."""
        events = [event(0), event(25 * MINUTE, "add", product_id="p2"), event(50 * MINUTE, product_id="p1")]
        events.append(event(75 * MINUTE, "remove", product_id="p2", unit_price_minor=40))

        session = session_of(values_of(events))

        assert session == {
            "open": True,
            "capped": False,
            "start_ms": NOON,
            "duration_s": 75 * 60.0,
            "event_count": 4,
            "page_view_count": 2,
            "click_count": 0,
            "search_count": 0,
            "cart_add_count": 1,
            "cart_value_minor": 60,
            "product_distinct": 2,
        }

    def test_a_short_visit_inside_a_long_one_of_the_other_topic_is_part_of_it(self) -> None:
        events = [event(n * 20 * MINUTE) for n in range(10)] + [event(HOUR, "add")]

        session = session_of(values_of(events))

        assert (session["start_ms"], session["event_count"], session["cart_add_count"]) == (NOON, 11, 1)

    def test_the_other_topics_event_after_the_gap_does_not_join(self) -> None:
        values = values_of([event(0), event(GAP + 1, "add")])

        assert (values["session_start_ms"], values["session_event_count"]) == (NOON + GAP + 1, 1)

    def test_its_products_are_those_since_its_start(self) -> None:
        events = [event(0, product_id="before"), event(HOUR, product_id="p1"), event(HOUR + 1, "add", product_id="p2")]

        assert values_of(events)["session_product_distinct"] == 2

    def test_24_h_are_not_too_long_and_1_ms_more_is(self) -> None:
        whole_day = [event(at_ms, product_id=f"p{at_ms}") for at_ms in range(0, DAY + 1, 30 * MINUTE)]
        longer = [*whole_day, event(DAY + 1)]

        exact, capped = session_of(values_of(whole_day)), session_of(values_of(longer))

        assert (exact["capped"], exact["duration_s"], exact["event_count"]) == (False, 86_400.0, 49)
        assert exact["product_distinct"] == 49
        assert (capped.pop("open"), capped.pop("capped")) == (True, True)
        assert capped == dict.fromkeys(capped)

    def test_a_capped_one_closes_like_any_other(self) -> None:
        events = [event(at_ms) for at_ms in range(0, 2 * DAY, 20 * MINUTE)]
        last_ms = 2 * DAY - 20 * MINUTE

        assert values_of(events, last_ms + GAP)["session_capped"] is True
        closed = values_of(events, last_ms + GAP + 1)
        assert (closed["session_open"], closed["session_capped"], closed["session_event_count"]) == (False, False, 0)

    def test_intervals_far_apart_in_one_topic_are_joined_by_the_other_for_up_to_a_day(self) -> None:
        clicks = [event(at_ms) for at_ms in range(0, DAY + 1, HOUR)]
        adds = [event(at_ms + 30 * MINUTE, "add") for at_ms in range(0, DAY, HOUR)]

        session = session_of(values_of(clicks + adds))

        assert (session["capped"], session["duration_s"], session["event_count"]) == (False, 86_400.0, 49)
        earlier = event(-GAP, "add")
        assert session_of(values_of([*clicks, earlier, *adds]))["capped"] is True

    def test_a_bots_interval_that_straddles_the_pruning_is_still_too_long(self) -> None:
        """One topic ends 20 min ago, pruned by its own newest; the other goes on alone."""
        clicks = [event(at_ms) for at_ms in range(0, DAY, 20 * MINUTE)]
        adds = [event(DAY + at_ms, "add") for at_ms in range(0, 2 * HOUR, 10 * MINUTE)]

        assert values_of(clicks + adds)["session_capped"] is True


def test_a_window_at_every_step_equals_the_oracle() -> None:
    """Roll-over: the same states are read at instants across the edges of all panes."""
    events = [event(n * 97 * SECOND, ("page_view", "click")[n % 2], product_id=f"p{n % 9}") for n in range(400)]
    events += [event(n * 613 * SECOND, ("add", "remove", "purchase")[n % 3], product_id=f"p{n % 7}") for n in range(60)]
    logs = logs_of(events)
    newest_ms = max(each.event_time_ms for each in events) - NOON
    for step in range(0, 26 * HOUR, 7 * MINUTE + 13 * SECOND):
        as_of_ms = newest_ms + step
        assert values_of(events, as_of_ms).items() >= expected(logs, NOON + as_of_ms).items()
