"""Letters of a real codec for tests of redrive: a schema source in memory, records, and a lake that holds them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from config.settings import EventSettings
from replay.letter_decoding import LetterDecoder
from schemas.codec import Codec
from schemas.dead_letter import DeadLetter
from schemas.encoder import Encoder
from schemas.errors import UnknownSchemaIdError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event, Record
from schemas.loading import own_schema
from schemas.topics import TopicInfo
from sinks.lake import LakeSink
from sinks.rows import PartitionFlush, RawRow

NOW_MS = 1_800_000_000_000
CLICKS_ID, CARTS_ID, LATE_ID = 1, 2, 7
TOPICS = {topic: TopicInfo(topic, f"id-{topic}", 4, "LogAppendTime") for topic in (CLICKS_TOPIC, CARTS_TOPIC)}
EPOCH = TOPICS[CLICKS_TOPIC].log_epoch
ENCODER = Encoder({CLICKS_TOPIC: CLICKS_ID, CARTS_TOPIC: CARTS_ID})


class Registry:
    """A schema source in memory; `LATE_ID` is registered when `late` is set."""

    def __init__(self) -> None:
        self.late = False

    def fetch(self, schema_id: int) -> str:
        if schema_id == CLICKS_ID or (schema_id == LATE_ID and self.late):
            return own_schema(CLICKS_TOPIC)
        if schema_id == CARTS_ID:
            return own_schema(CARTS_TOPIC)
        raise UnknownSchemaIdError(schema_id)


def decoder(registry: Registry, now_ms: int = NOW_MS, **limits: int) -> LetterDecoder:
    return LetterDecoder(registry, EventSettings(**limits), lambda: now_ms)


def event(user_id: str = "u1", event_id: str = "e1", event_time_ms: int = NOW_MS - 60_000) -> Event:
    return Event(event_id=event_id, kind="click", user_id=user_id, event_time_ms=event_time_ms, product_id="p1")


def value(of: Event, schema_id: int = CLICKS_ID) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + ENCODER.event(CLICKS_TOPIC, of)[5:]


def refused(offset: int, key: bytes | None, body: bytes | None, *, partition: int = 0, **limits: int) -> DeadLetter:
    """Return the letter that the worker makes of a record."""
    record = Record(CLICKS_TOPIC, partition, offset, NOW_MS - 30_000 + offset, key, body)
    codec = Codec(Registry(), limits=EventSettings(**limits), unknown_id_ttl_s=30, clock_ms=lambda: NOW_MS - 20_000)
    codec.resolve(codec.unresolved([record]))
    letter = codec.decode(record, TOPICS[CLICKS_TOPIC].partition_count)
    assert isinstance(letter, DeadLetter), "the record is readable"
    return letter


def write(lake: Path, letters: Iterable[DeadLetter] = (), events: Mapping[int, Event] | None = None) -> None:
    """Write letters, and events by offset, as the worker flushes them: all of one partition of clicks."""
    letters = list(letters)
    raw = [
        RawRow(Record(CLICKS_TOPIC, partition_of(letters), offset, NOW_MS, b"k", b"v"), each, CLICKS_ID, NOW_MS)
        for offset, each in (events or {}).items()
    ]
    offsets = [*(letter.offset for letter in letters), *(events or {})]
    info = TOPICS[CLICKS_TOPIC]
    LakeSink(lake).write(
        [
            PartitionFlush(
                CLICKS_TOPIC,
                info.topic_id,
                info.log_epoch,
                partition_of(letters),
                min(offsets),
                max(offsets),
                raw=raw,
                letters=letters,
            )
        ]
    )


def partition_of(letters: list[DeadLetter]) -> int:
    return letters[0].partition if letters else 0
