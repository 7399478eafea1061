"""What a state keeps: the ladder of panes, session intervals, and each cap with its flag."""

from typing import Any

from features.apply import Outcome, apply, fold
from features.finalize import finalize
from features.retention import DISTINCT_IDS_MAX, LATENESS_MS, SEEN_IDS_MAX
from features.state import decode, encode
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from tests.logs import DAY, HOUR, MINUTE, NOON, SECOND, Log, event, folded, logs_of, numbered, values_of
from tests.oracle import expected

GAP = 30 * MINUTE


def pane_starts(*times_ms: int) -> list[int]:
    """Return the starts of the panes, newest first."""
    return [start_ms - NOON for start_ms in reversed(folded(numbered(event(at_ms) for at_ms in times_ms)).panes)]


class TestLadder:
    def test_fresh_events_lie_in_panes_of_ten_seconds(self) -> None:
        assert pane_starts(-10 * SECOND - 1, -10 * SECOND, -1, 0) == [0, -10 * SECOND, -20 * SECOND]

    def test_ten_second_panes_reach_back_to_the_minute_five_minutes_ago(self) -> None:
        assert pane_starts(-5 * MINUTE - 1, -5 * MINUTE + 10 * SECOND, 0) == [0, -290 * SECOND, -6 * MINUTE]
        assert pane_starts(-5 * MINUTE + 10 * SECOND, 59 * SECOND) == [50 * SECOND, -290 * SECOND]
        assert pane_starts(-5 * MINUTE + 10 * SECOND, 60 * SECOND) == [60 * SECOND, -5 * MINUTE]

    def test_minute_panes_reach_back_to_the_quarter_an_hour_ago(self) -> None:
        assert pane_starts(-HOUR - 1, -HOUR + MINUTE, 0) == [0, -59 * MINUTE, -75 * MINUTE]
        assert pane_starts(-HOUR + MINUTE, 15 * MINUTE - 1)[-1] == -59 * MINUTE
        assert pane_starts(-HOUR + MINUTE, 15 * MINUTE)[-1] == -HOUR

    def test_quarter_panes_reach_back_to_the_start_of_the_day_window(self) -> None:
        assert pane_starts(-DAY + 15 * MINUTE, 0) == [0, -DAY + 15 * MINUTE]
        assert pane_starts(-DAY + 15 * MINUTE - 1, 0) == [0]

    def test_panes_that_roll_up_are_added(self) -> None:
        minute = numbered(event(at_ms) for at_ms in (0, 10 * SECOND, 59 * SECOND, 70 * SECOND))
        assert list(folded(minute).panes.values()) == [[1, 0, 0]] * 4

        rolled = folded([*minute, *numbered([event(10 * MINUTE, "click")], 4)])

        assert rolled.panes == {NOON + 10 * MINUTE: [0, 1, 0], NOON + MINUTE: [1, 0, 0], NOON: [3, 0, 0]}

    def test_an_event_of_the_greatest_lateness_lands_in_the_minute_pane_it_belongs_to(self) -> None:
        log = numbered([event(-LATENESS_MS + 5 * SECOND), event(0), event(-LATENESS_MS)])

        assert folded(log).panes == {NOON: [1, 0, 0], NOON - LATENESS_MS: [2, 0, 0]}

    def test_a_day_of_events_every_second_fills_fewer_than_two_hundred_panes(self) -> None:
        state = folded(numbered(event(at_ms) for at_ms in range(-25 * HOUR, 0, 5 * SECOND)))

        assert len(state.panes) < 200
        assert sum(totals[0] for totals in state.panes.values()) == (24 * HOUR) // (5 * SECOND)


class TestIntervals:
    def test_at_most_49_are_kept(self) -> None:
        state = folded(numbered(event(n * (GAP + 1)) for n in range(-60, 1)))

        assert len(state.intervals) == 49

    def test_a_gap_of_30_min_lies_within_one(self) -> None:
        assert len(folded(numbered([event(0), event(GAP)])).intervals) == 1
        assert len(folded(numbered([event(0), event(GAP + 1)])).intervals) == 2

    def test_one_is_kept_while_its_end_is_at_most_24_h_30_min_ago(self) -> None:
        kept = folded(numbered([event(-DAY - GAP), event(0)]))
        dropped = folded(numbered([event(-DAY - GAP - 1), event(0)]))

        assert len(kept.intervals) == 2
        assert len(dropped.intervals) == 1

    def test_an_out_of_order_event_joins_two(self) -> None:
        first, last = event(0, product_id="p1"), event(GAP + 5 * MINUTE)
        bridge = event(GAP, "click")

        assert len(folded(numbered([first, last])).intervals) == 2
        joined = folded(numbered([first, last, bridge])).intervals

        assert [(i.first_ms, i.last_ms, i.totals) for i in joined] == [(NOON, NOON + GAP + 5 * MINUTE, [2, 1, 0])]

    def test_an_out_of_order_event_extends_the_last_backwards_without_joining(self) -> None:
        log = numbered([event(0), event(GAP + 5 * MINUTE), event(GAP + 1)])

        assert [i.first_ms - NOON for i in folded(log).intervals] == [0, GAP + 1]

    def test_a_bots_interval_keeps_its_true_beginning(self) -> None:
        state = folded(numbered(event(at_ms) for at_ms in range(0, 3 * DAY + 1, 20 * MINUTE)))

        assert [(i.first_ms - NOON, i.last_ms - NOON) for i in state.intervals] == [(0, 3 * DAY)]


def flags(events: list[Event], as_of_ms: int | None = None) -> tuple[Any, Any]:
    values = values_of(events, as_of_ms)
    return values["product_distinct_saturated"], values["category_distinct_saturated"]


class TestDistinctCaps:
    def test_all_are_counted_up_to_the_cap(self) -> None:
        events = [event(n, product_id=f"p{n}", category_id=f"c{n}") for n in range(DISTINCT_IDS_MAX)]
        values = values_of(events)

        assert (values["product_distinct_24h"], values["category_distinct_24h"]) == (256, 256)
        assert flags(events) == (False, False)

    def test_beyond_the_cap_the_count_stays_and_the_flag_says_so(self) -> None:
        events = [event(n, product_id=f"p{n}", category_id=f"c{n}") for n in range(DISTINCT_IDS_MAX + 1)]
        values = values_of(events)

        assert (values["product_distinct_24h"], values["category_distinct_24h"]) == (256, 256)
        assert flags(events) == (True, True)

    def test_the_oldest_goes_and_of_equal_times_the_smallest_id(self) -> None:
        tied = [event(0, product_id=f"p{n:03d}") for n in range(DISTINCT_IDS_MAX)]

        dropped = folded(numbered([event(0, product_id="p"), *tied]))
        older = folded(numbered([event(0, product_id="p"), *tied[1:], event(-1, product_id="q")]))

        assert "p" not in dropped.products.ids
        assert "q" not in older.products.ids

    def test_the_flag_goes_when_what_was_dropped_has_left_the_window(self) -> None:
        events = [event(0, product_id="first")]
        events += [event(HOUR + n, product_id=f"p{n}") for n in range(DISTINCT_IDS_MAX)]

        assert flags(events, DAY - 1) == (True, False)
        assert flags(events, DAY) == (False, False)

    def test_the_flag_stays_while_the_open_session_reaches_further_back_than_the_window(self) -> None:
        step_ms = DAY // DISTINCT_IDS_MAX
        events = [event(n * step_ms, product_id=f"p{n}") for n in range(DISTINCT_IDS_MAX + 1)]
        values = values_of(events)

        assert (values["session_event_count"], values["session_product_distinct"]) == (257, 256)
        assert flags(events) == (True, False)
        assert flags(events, DAY + GAP + 1) == (False, False)

    def test_an_id_that_comes_back_is_counted_again(self) -> None:
        ids = [f"p{n}" for n in range(300)]
        events = [event(n * SECOND, product_id=ids[n % 300]) for n in range(900)]
        logs = logs_of(events)
        one_by_one = None
        for offset, each in logs[CLICKS_TOPIC]:
            one_by_one = apply(one_by_one, each, offset)

        assert one_by_one is not None
        assert encode(one_by_one) == fold(None, logs[CLICKS_TOPIC]).state
        for as_of_ms in (0, 20 * MINUTE, DAY - 45 * MINUTE, DAY):
            assert values_of(events, as_of_ms).items() >= expected(logs, NOON + as_of_ms).items()

    def test_each_topic_has_its_own_cap_and_the_union_is_counted(self) -> None:
        events = [event(n, product_id=f"p{n}") for n in range(200)]
        events += [event(n, "add", product_id=f"p{n + 100}") for n in range(200)]

        assert values_of(events)["product_distinct_24h"] == 300
        assert flags(events) == (False, False)


def many(count: int, first_ms: int = 0) -> Log:
    return numbered(event(first_ms + n, event_id=f"e{n:05d}") for n in range(count))


class TestDuplicateMemory:
    def test_as_many_ids_as_the_cap_are_remembered(self) -> None:
        log = many(SEEN_IDS_MAX)
        result = fold(None, log)

        again = fold(result.state, [(offset + SEEN_IDS_MAX, each) for offset, each in log])

        assert set(again.outcomes) == {Outcome.DUPLICATE}
        assert result.forgotten_count == 0
        assert finalize({CLICKS_TOPIC: decode(result.state)}, None)["dedupe_saturated"] is False

    def test_beyond_it_the_oldest_is_forgotten_flagged_and_counted(self) -> None:
        log = many(SEEN_IDS_MAX + 2)
        result = fold(None, log)

        copies = [log[0][1], log[1][1], log[2][1]]
        again = fold(result.state, numbered(copies[::-1], len(log)))

        assert result.forgotten_count == 2
        assert finalize({CLICKS_TOPIC: decode(result.state)}, None)["dedupe_saturated"] is True
        assert again.outcomes == [Outcome.DUPLICATE, Outcome.APPLIED, Outcome.APPLIED]

    def test_what_is_forgotten_does_not_depend_on_batches_or_order(self) -> None:
        log = many(SEEN_IDS_MAX + 100)
        backwards = numbered(each for _, each in reversed(log))
        whole = fold(None, log).state
        parts = None
        for first in range(0, len(log), 7):
            parts = fold(parts, log[first : first + 7]).state

        assert parts is not None
        assert parts[:-18] == whole[:-18]
        assert decode(fold(None, backwards).state).seen == decode(whole).seen

    def test_ids_that_left_the_horizon_make_room_without_a_flag(self) -> None:
        log = [*many(SEEN_IDS_MAX), *numbered([event(LATENESS_MS + SEEN_IDS_MAX)], SEEN_IDS_MAX)]
        result = fold(None, log)

        assert result.forgotten_count == 0
        assert len(decode(result.state).seen_times) == 1

    def test_an_id_that_is_used_again_after_the_horizon_is_remembered_at_its_new_time(self) -> None:
        later_ms = LATENESS_MS + 1
        log = numbered(
            [
                *(event(n % 2, event_id=f"e{n}") for n in range(SEEN_IDS_MAX)),
                event(later_ms, event_id="x"),
                event(later_ms, event_id="e0"),
                *(event(later_ms + 2, event_id=f"f{n}") for n in range(SEEN_IDS_MAX - 2)),
                event(later_ms, event_id="e0"),
            ]
        )
        result = fold(None, log)

        assert result.outcomes[-1] is Outcome.DUPLICATE
        assert result.forgotten_count == 0

    def test_the_flag_goes_a_day_later(self) -> None:
        state = folded(many(SEEN_IDS_MAX + 1))
        values = [finalize({CLICKS_TOPIC: state}, NOON + at_ms)["dedupe_saturated"] for at_ms in (DAY - 1, DAY)]

        assert values == [True, False]
        later = decode(fold(encode(state), numbered([event(DAY + 1)], 2_000)).state)
        assert later.ids_forgotten_ms == 0


def test_a_cart_log_is_capped_like_a_click_log() -> None:
    events = [event(n, "add", product_id=f"p{n}") for n in range(SEEN_IDS_MAX + 1)]
    values = values_of(events)

    assert (values["dedupe_saturated"], values["product_distinct_saturated"]) == (True, True)
    assert len(folded(logs_of(events)[CARTS_TOPIC]).products.ids) == DISTINCT_IDS_MAX
