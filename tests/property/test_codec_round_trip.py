"""Any good event survives the wire; any change of one byte gives an event or a dead letter."""

import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from config.settings import EventSettings
from schemas import rules
from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter
from schemas.encoder import Encoder
from schemas.event import CART_KINDS, CARTS_TOPIC, CLICK_KINDS, CLICKS_TOPIC, EVENT_TOPICS, Event, Record
from schemas.loading import own_schema
from schemas.partitioner import partition_of

IDS = {topic: number for number, topic in enumerate(EVENT_TOPICS, start=1)}
NOW_MS = 1_790_000_000_000


class OwnSchemas:
    """The schemas of this release."""

    def fetch(self, schema_id: int) -> str:
        return own_schema(next(topic for topic, own_id in IDS.items() if own_id == schema_id))


def text(bytes_max: int, *, empty: bool = False) -> st.SearchStrategy[str]:
    characters = st.characters(codec="utf-8")
    sized = st.text(characters, min_size=0 if empty else 1, max_size=bytes_max)
    return sized.filter(lambda value: len(value.encode()) <= bytes_max)


COMMON: dict[str, st.SearchStrategy[Any]] = {
    "event_id": text(rules.EVENT_ID_BYTES_MAX),
    "user_id": text(40),
    "event_time_ms": st.integers(rules.EVENT_TIME_MS_MIN, NOW_MS + 300_000),
    "session_id": st.none() | text(40, empty=True),
    "device": st.none() | text(40, empty=True),
    "category_id": st.none() | text(rules.CATEGORY_ID_BYTES_MAX),
}
CLICKS = st.builds(
    Event,
    kind=st.sampled_from(CLICK_KINDS),
    product_id=st.none() | text(rules.PRODUCT_ID_BYTES_MAX),
    query=st.none() | text(200, empty=True),
    result_count=st.none() | st.integers(0, rules.INT_MAX),
    position=st.none() | st.integers(0, rules.INT_MAX),
    recommendation_id=st.none() | text(40, empty=True),
    page=st.none() | text(200, empty=True),
    **COMMON,
)
CARTS = st.builds(
    Event,
    kind=st.sampled_from(CART_KINDS),
    product_id=text(rules.PRODUCT_ID_BYTES_MAX),
    quantity=st.integers(1, rules.QUANTITY_MAX),
    unit_price_minor=st.integers(0, rules.LINE_VALUE_MINOR_MAX // rules.QUANTITY_MAX),
    currency=st.text(string.ascii_uppercase, min_size=3, max_size=3),
    order_id=st.none() | text(40, empty=True),
    **COMMON,
)
EVENTS = CLICKS.map(lambda event: (CLICKS_TOPIC, event)) | CARTS.map(lambda event: (CARTS_TOPIC, event))


def codec() -> Codec:
    made = Codec(OwnSchemas(), limits=EventSettings(), unknown_id_ttl_s=30, clock_ms=lambda: NOW_MS)
    made.resolve(IDS.values())
    return made


CODEC = codec()
ENCODER = Encoder(IDS)


def record_of(topic: str, event: Event, value: bytes) -> Record:
    key = event.user_id.encode()
    return Record(topic, partition_of(key, 12), 0, NOW_MS, key, value)


@given(EVENTS)
def test_round_trip(topic_and_event: tuple[str, Event]) -> None:
    topic, event = topic_and_event
    record = record_of(topic, event, ENCODER.event(topic, event))
    assert CODEC.decode(record, 12) == Decoded(event, IDS[topic])


@given(EVENTS, st.data())
def test_one_changed_byte(topic_and_event: tuple[str, Event], data: st.DataObject) -> None:
    topic, event = topic_and_event
    value = bytearray(ENCODER.event(topic, event))
    value[data.draw(st.integers(5, len(value) - 1))] = data.draw(st.integers(0, 255))
    result = CODEC.decode(record_of(topic, event, bytes(value)), 12)
    if isinstance(result, Decoded):
        assert rules.value_problem(topic, result.event) is None
    else:
        assert isinstance(result, DeadLetter)
