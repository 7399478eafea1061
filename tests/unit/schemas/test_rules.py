import msgspec
import pytest

from schemas.dead_letter import Reason
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.rules import time_problem, value_problem


def test_good_events_keep_the_rules(click: Event, cart: Event) -> None:
    assert value_problem(CLICKS_TOPIC, click) is None
    assert value_problem(CARTS_TOPIC, cart) is None


@pytest.mark.parametrize("name", ["event_id", "kind", "user_id"])
@pytest.mark.parametrize("topic", [CLICKS_TOPIC, CARTS_TOPIC])
def test_an_empty_required_field_is_missing(name: str, topic: str, click: Event, cart: Event) -> None:
    event = msgspec.structs.replace(click if topic == CLICKS_TOPIC else cart, **{name: ""})
    assert value_problem(topic, event) == (Reason.MISSING_FIELD, f"{name} is empty; it is required.")


@pytest.mark.parametrize("name", ["product_id", "currency", "quantity", "unit_price_minor"])
def test_what_a_cart_event_needs_besides(name: str, cart: Event) -> None:
    problem = value_problem(CARTS_TOPIC, msgspec.structs.replace(cart, **{name: None}))
    assert problem == (Reason.MISSING_FIELD, f"{name} is empty; it is required.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"event_id": "x" * 65}, "event_id has 65 bytes; at most 64 are allowed."),
        ({"event_id": "é" * 33}, "event_id has 66 bytes; at most 64 are allowed."),
        ({"kind": "add"}, "kind is 'add'; on shop.clicks.v1 it is one of page_view, click, search."),
        ({"kind": "k" * 1000}, "kind is 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk…'; on shop.clicks.v1 it is one of"),
        ({"user_id": "ü" * 129}, "user_id has 258 bytes; at most 256 are allowed."),
        ({"event_time_ms": 946_684_799_999}, "event_time is 946684799999 ms, before the year 2000."),
        ({"event_time_ms": -(2**63)}, "before the year 2000."),
        ({"product_id": "p" * 41}, "product_id has 41 bytes; at most 40 are allowed."),
        ({"category_id": "c" * 65}, "category_id has 65 bytes; at most 64 are allowed."),
        ({"result_count": -1}, "result_count is -1; it must be from 0 to 2147483647."),
        ({"position": 2**31}, "position is 2147483648; it must be from 0 to 2147483647."),
    ],
)
def test_click_values(changes: dict[str, object], words: str, click: Event) -> None:
    problem = value_problem(CLICKS_TOPIC, msgspec.structs.replace(click, **changes))
    assert problem is not None
    assert problem.reason == Reason.INVALID_VALUE
    assert words in problem.detail


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "click"}, "kind is 'click'; on shop.carts.v1 it is one of add, remove, purchase."),
        ({"quantity": 0}, "quantity is 0; it must be from 1 to 1000000."),
        ({"quantity": -3}, "quantity is -3; it must be from 1 to 1000000."),
        ({"quantity": 1_000_001}, "quantity is 1000001; it must be from 1 to 1000000."),
        ({"unit_price_minor": -1}, "unit_price_minor is -1; it must be from 0 to 1000000000000."),
        ({"unit_price_minor": 10**12 + 1}, "unit_price_minor is 1000000000001; it must be from 0 to"),
        ({"quantity": 2, "unit_price_minor": 10**12}, "quantity times unit_price_minor is 2000000000000; at most"),
        ({"currency": "eur"}, "currency is 'eur'; it must be three capital letters, such as EUR."),
        ({"currency": "EURO"}, "currency is 'EURO'"),
        ({"currency": "ÄÖÜ"}, "currency is 'ÄÖÜ'"),
        ({"currency": "E1R"}, "currency is 'E1R'"),
    ],
)
def test_cart_values(changes: dict[str, object], words: str, cart: Event) -> None:
    problem = value_problem(CARTS_TOPIC, msgspec.structs.replace(cart, **changes))
    assert problem is not None
    assert problem.reason == Reason.INVALID_VALUE
    assert words in problem.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": "x" * 64},
        {"event_id": "é" * 32},
        {"user_id": "u" * 256},
        {"event_time_ms": 946_684_800_000},
        {"result_count": 0, "position": 0},
        {"query": ""},
        {"product_id": "p" * 40, "category_id": "c" * 64},
        {"product_id": None, "category_id": None},
    ],
)
def test_the_edges_are_allowed(changes: dict[str, object], click: Event) -> None:
    assert value_problem(CLICKS_TOPIC, msgspec.structs.replace(click, **changes)) is None


def test_the_largest_cart_line_is_allowed(cart: Event) -> None:
    largest = msgspec.structs.replace(cart, quantity=1_000_000, unit_price_minor=1_000_000)
    assert value_problem(CARTS_TOPIC, largest) is None
    assert value_problem(CARTS_TOPIC, msgspec.structs.replace(cart, quantity=1, unit_price_minor=0)) is None


def test_missing_comes_before_invalid(cart: Event) -> None:
    problem = value_problem(CARTS_TOPIC, msgspec.structs.replace(cart, event_id="x" * 99, currency=""))
    assert problem is not None
    assert problem.reason == Reason.MISSING_FIELD


def test_time_may_pass_the_append_time_by_the_tolerance_only(click: Event) -> None:
    append_time_ms = click.event_time_ms - 300_000
    assert time_problem(click, append_time_ms, 300_000) is None
    problem = time_problem(click, append_time_ms - 1, 300_000)
    assert problem is not None
    assert problem.reason == Reason.FUTURE_EVENT
    assert "300001 ms after the record's append time; 300000 ms are allowed" in problem.detail
