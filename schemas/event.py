"""The decoded event that every part of the system passes on, and the topics it travels on."""

from typing import Final

import msgspec

CLICKS_TOPIC: Final = "shop.clicks.v1"
CARTS_TOPIC: Final = "shop.carts.v1"
DEAD_LETTERS_TOPIC: Final = "shop.dead_letters.v1"
RETRAIN_TOPIC: Final = "shop.retrain.v1"
EVENT_TOPICS: Final = (CLICKS_TOPIC, CARTS_TOPIC)

CLICK_KINDS: Final = ("page_view", "click", "search")
CART_KINDS: Final = ("add", "remove", "purchase")
KINDS_BY_TOPIC: Final = {CLICKS_TOPIC: CLICK_KINDS, CARTS_TOPIC: CART_KINDS}


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One valid event of either topic; fields that its record does not have are None.

    Attributes:
        event_id: the producer's id, at most 64 bytes; equal ids within the allowed lateness are duplicates.
        kind: one of `KINDS_BY_TOPIC` of its topic.
        user_id: the entity, and the record's key.
        event_time_ms: when it happened, integer milliseconds UTC.
        unit_price_minor: price of one piece in minor units of `currency` (cents); integers, so that sums are exact.
    """

    event_id: str
    kind: str
    user_id: str
    event_time_ms: int
    session_id: str | None = None
    device: str | None = None
    product_id: str | None = None
    category_id: str | None = None
    query: str | None = None
    result_count: int | None = None
    position: int | None = None
    recommendation_id: str | None = None
    page: str | None = None
    quantity: int | None = None
    unit_price_minor: int | None = None
    currency: str | None = None
    order_id: str | None = None


class Record(msgspec.Struct, frozen=True, gc=False):
    """One Kafka record as it was read, before anything is known about it.

    Attributes:
        append_time_ms: the broker's LogAppendTime, integer milliseconds UTC.
    """

    topic: str
    partition: int
    offset: int
    append_time_ms: int
    key: bytes | None
    value: bytes | None
