"""A codec on schemas held in memory, and builders of good events and their records."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from config.settings import EventSettings
from schemas.codec import Codec
from schemas.encoder import Encoder
from schemas.errors import RegistryUnavailableError, UnknownSchemaIdError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, Event, Record
from schemas.loading import own_schema
from schemas.partitioner import partition_of

PARTITIONS = 4
NOW_MS = 1_790_000_000_000
IDS = {CLICKS_TOPIC: 1, CARTS_TOPIC: 2, DEAD_LETTERS_TOPIC: 3}


@dataclass
class HeldSchemas:
    """Schemas in memory, with a record of who asked for what."""

    texts: dict[int, str] = field(default_factory=lambda: {id_: own_schema(topic) for topic, id_ in IDS.items()})
    asked: list[int] = field(default_factory=list)
    answers: bool = True

    def fetch(self, schema_id: int) -> str:
        self.asked.append(schema_id)
        if not self.answers:
            raise RegistryUnavailableError("The schema registry does not answer.")
        if schema_id not in self.texts:
            raise UnknownSchemaIdError(schema_id)
        return self.texts[schema_id]


@dataclass
class HandClock:
    """A clock that a test moves."""

    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def source() -> HeldSchemas:
    return HeldSchemas()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def codec(source: HeldSchemas, clock: HandClock) -> Codec:
    made = Codec(source, limits=EventSettings(), unknown_id_ttl_s=30, clock_ms=clock)
    made.resolve(IDS.values())
    source.asked.clear()
    return made


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(IDS)


@pytest.fixture
def click() -> Event:
    return Event(
        event_id="e-1",
        kind="search",
        user_id="u-1",
        event_time_ms=NOW_MS - 1_000,
        session_id="s-1",
        device="mobile",
        product_id="p-1",
        category_id="c-1",
        query="schöne Schuhe",
        result_count=12,
        position=3,
        recommendation_id="r-1",
        page="/suche",
    )


@pytest.fixture
def cart() -> Event:
    return Event(
        event_id="e-2",
        kind="purchase",
        user_id="u-1",
        event_time_ms=NOW_MS - 1_000,
        session_id="s-1",
        device="mobile",
        product_id="p-1",
        category_id="c-1",
        quantity=2,
        unit_price_minor=1_999,
        currency="EUR",
        order_id="o-1",
    )


RecordOf = Callable[..., Record]


@pytest.fixture
def record_of(encoder: Encoder) -> RecordOf:
    """Build the record that a right producer makes of an event, with some parts replaced."""

    def build(event: Event, **replaced: object) -> Record:
        topic = CARTS_TOPIC if event.quantity is not None else CLICKS_TOPIC
        key = event.user_id.encode()
        parts: dict[str, object] = {
            "topic": topic,
            "partition": partition_of(key, PARTITIONS),
            "offset": 7,
            "append_time_ms": NOW_MS,
            "key": key,
        }
        if "value" not in replaced:
            parts["value"] = encoder.event(str(replaced.get("topic", topic)), event)
        return Record(**(parts | replaced))  # type: ignore[arg-type]

    return build
