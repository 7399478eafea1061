"""What becomes of an event: applied, late, duplicate or redelivered, decided in log order."""

from copy import deepcopy

import pytest

from features.apply import Outcome, apply, fold
from features.errors import StateError
from features.retention import LATENESS_MS
from features.state import decode, encode, read_trailer
from tests.logs import HOUR, MINUTE, NOON, SECOND, event, folded, numbered

APPLIED, DUPLICATE, LATE, REDELIVERED = Outcome.APPLIED, Outcome.DUPLICATE, Outcome.LATE, Outcome.REDELIVERED


def test_an_event_at_the_allowed_lateness_counts_and_one_beyond_is_late() -> None:
    log = numbered([event(0), event(-LATENESS_MS), event(-LATENESS_MS - 1)])

    assert fold(None, log).outcomes == [APPLIED, APPLIED, LATE]


def test_late_is_judged_by_the_newest_earlier_event_not_by_the_last_one() -> None:
    log = numbered([event(LATENESS_MS), event(0), event(-1)])

    assert fold(None, log).outcomes == [APPLIED, APPLIED, LATE]


def test_neither_a_late_event_nor_a_duplicate_moves_the_newest_time() -> None:
    log = numbered([event(0, event_id="a"), event(HOUR, event_id="a"), event(-HOUR)])

    state = folded(log)

    assert state.newest_ms == NOON
    assert state.version == 3


def test_an_id_is_a_duplicate_within_the_lateness_and_forgotten_beyond() -> None:
    log = numbered(
        [
            event(0, event_id="a"),
            event(LATENESS_MS, event_id="b"),
            event(LATENESS_MS, event_id="a"),
            event(LATENESS_MS + 1, event_id="c"),
            event(LATENESS_MS + 1, event_id="a"),
            event(LATENESS_MS + 1, event_id="a"),
        ]
    )

    assert fold(None, log).outcomes == [APPLIED, APPLIED, DUPLICATE, APPLIED, APPLIED, DUPLICATE]


def test_an_event_beyond_the_lateness_does_not_count_so_its_duplicate_cannot_count_twice() -> None:
    """Counter-example: its id is out of the horizon, hence not remembered; were it counted, each copy would be."""
    early = event(0, event_id="early")
    log = numbered([event(LATENESS_MS + 1), early, early])

    result = fold(None, log)

    assert result.outcomes == [APPLIED, LATE, LATE]
    assert sum(totals[0] for totals in decode(result.state).panes.values()) == 1


def test_what_is_late_in_one_topic_does_not_depend_on_the_other() -> None:
    """Counter-example: one state over both topics would call the click late or not, by how the topics interleave."""
    click, add = event(0), event(HOUR, "add")

    assert fold(None, numbered([click])).outcomes == [APPLIED]
    assert fold(None, numbered([add])).outcomes == [APPLIED]


def test_an_offset_below_the_version_changes_nothing() -> None:
    log = numbered([event(0), event(1), event(2)])
    blob = fold(None, log).state

    again = fold(blob, log[1:])

    assert again.outcomes == [REDELIVERED, REDELIVERED]
    assert again.state is blob


def test_a_late_event_changes_the_version_and_nothing_else() -> None:
    before = fold(None, numbered([event(0)])).state

    after = fold(before, numbered([event(-HOUR)], first_offset=1)).state

    assert after[:-18] == before[:-18]
    assert read_trailer(after).version == 2


def test_apply_leaves_its_argument_as_it_was() -> None:
    state = folded(numbered([event(-31 * MINUTE), event(-40 * SECOND, product_id="p1", category_id="c1")]))
    before = deepcopy(state)

    after = apply(state, event(-5 * MINUTE, "click", product_id="p2", category_id="c1"), 2)

    assert state == before
    assert after != before


def test_apply_one_by_one_equals_a_fold() -> None:
    log = numbered([event(n * 7 * SECOND, "add", product_id=f"p{n % 3}", category_id="c") for n in range(200)])
    state = None
    for offset, each in log:
        state = apply(state, each, offset)

    assert state is not None
    assert encode(state) == fold(None, log).state


def test_only_a_state_that_is_born_is_marked_partial() -> None:
    whole = fold(None, numbered([event(0)])).state
    part = fold(None, numbered([event(0)]), partial=True).state
    more = numbered([event(1)], first_offset=1)

    assert decode(part).partial
    assert decode(fold(part, more).state).partial
    assert not decode(fold(whole, more, partial=True).state).partial


def test_money_of_adds_removals_and_purchases_is_summed_apart() -> None:
    log = numbered(
        [
            event(0, "add", quantity=3, unit_price_minor=250),
            event(1, "remove", quantity=1, unit_price_minor=250),
            event(2, "purchase", quantity=2, unit_price_minor=249),
        ]
    )

    assert folded(log).panes == {NOON: [1, 1, 1, 500, 498]}


def test_an_event_of_another_topic_is_refused() -> None:
    clicks = fold(None, numbered([event(0)])).state

    with pytest.raises(StateError, match="does not belong"):
        fold(clicks, numbered([event(1, "add")], first_offset=1))


def test_a_cart_event_without_a_price_is_refused() -> None:
    with pytest.raises(StateError, match="no price"):
        fold(None, numbered([event(0, "add", unit_price_minor=None)]))


def test_nothing_cannot_be_folded() -> None:
    with pytest.raises(StateError, match="neither"):
        fold(None, [])


def test_a_state_without_events_to_add_stays() -> None:
    blob = fold(None, numbered([event(0)])).state

    assert fold(blob, []).state is blob
