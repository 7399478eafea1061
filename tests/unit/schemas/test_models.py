from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from schemas.event import CART_KINDS, CARTS_TOPIC, CLICK_KINDS, CLICKS_TOPIC, Event
from schemas.loading import load, own_schema
from schemas.models import CartEvent, ClickEvent

TIME = datetime(2024, 6, 7, 8, 9, 10, 123_999, tzinfo=UTC)
CLICK: dict[str, Any] = {"kind": "click", "user_id": "u", "event_time": TIME}
CART: dict[str, Any] = {
    "kind": "add", "user_id": "u", "event_time": TIME, "product_id": "p", "quantity": 1, "unit_price_minor": 5,
    "currency": "EUR",
}  # fmt: skip


def test_a_click_becomes_an_event() -> None:
    assert ClickEvent(**CLICK, event_id="e", page="/").to_event() == Event(
        event_id="e", kind="click", user_id="u", event_time_ms=1_717_747_750_123, page="/"
    )


def test_a_cart_event_becomes_an_event() -> None:
    event = CartEvent(**CART, event_id="e", order_id="o").to_event()
    assert event == Event(
        event_id="e", kind="add", user_id="u", event_time_ms=1_717_747_750_123, product_id="p", quantity=1,
        unit_price_minor=5, currency="EUR", order_id="o",
    )  # fmt: skip


def test_any_time_zone_is_the_same_instant() -> None:
    there = TIME.astimezone(timezone(timedelta(hours=-9)))
    assert ClickEvent(**CLICK | {"event_time": there}).to_event().event_time_ms == 1_717_747_750_123


def test_event_ids_are_new_each_time() -> None:
    first, second = ClickEvent(**CLICK), ClickEvent(**CLICK)
    assert first.event_id != second.event_id
    assert len(first.event_id) == 32


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (ClickEvent, {"user_id": ""}, "user_id is empty"),
        (ClickEvent, {"event_id": "x" * 65}, "event_id has 65 bytes"),
        (ClickEvent, {"event_time": datetime(2024, 1, 1)}, "timezone"),  # noqa: DTZ001 - the point of the test
        (ClickEvent, {"event_time": datetime(1999, 12, 31, tzinfo=UTC)}, "before the year 2000"),
        (ClickEvent, {"kind": "add"}, "page_view"),
        (ClickEvent, {"position": "3"}, "valid integer"),
        (ClickEvent, {"pgae": "/"}, "Extra inputs"),
        (CartEvent, {"quantity": 0}, "quantity is 0"),
        (CartEvent, {"unit_price_minor": 9.99}, "valid integer"),
        (CartEvent, {"currency": "eur"}, "three capital letters"),
        (CartEvent, {"product_id": ""}, "product_id is empty"),
    ],
)
def test_the_rules_hold_before_anything_is_sent(
    model: type[ClickEvent] | type[CartEvent], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        model(**(CLICK if model is ClickEvent else CART) | changes)


@pytest.mark.parametrize(
    ("model", "topic", "kinds"), [(ClickEvent, CLICKS_TOPIC, CLICK_KINDS), (CartEvent, CARTS_TOPIC, CART_KINDS)]
)
def test_a_model_has_the_fields_and_kinds_of_its_schema(
    model: type[ClickEvent] | type[CartEvent], topic: str, kinds: tuple[str, ...]
) -> None:
    assert model.topic == topic
    assert set(model.model_fields) == set(load(own_schema(topic)).field_names)
    assert get_args(model.model_fields["kind"].annotation) == kinds
