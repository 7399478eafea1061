"""20,000 broken messages: each becomes an event or a dead letter, whatever the bytes."""

import json
import random
from io import BytesIO
from typing import Any

from fastavro import schemaless_writer

from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event, Record
from schemas.loading import load, own_schema
from tests.unit.schemas.conftest import NOW_MS, PARTITIONS, HeldSchemas, RecordOf

MESSAGES = 20_000
SEED = 20_240_607
SPECIAL = (
    b"\x01",
    b"\x03",
    b"\x80",
    b"\xff",
    b"\0",
    b"\xff" * 9 + b"\x01",
    b"\x80" * 20 + b"\0",
    b"\xfe" * 9 + b"\x01",
)
MORE_FIELDS: list[dict[str, Any]] = [
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "counts", "type": {"type": "map", "values": ["null", "double", "long"]}},
    {
        "name": "context",
        "type": [
            "null",
            {
                "type": "record",
                "name": "Context",
                "fields": [
                    {"name": "mood", "type": {"type": "enum", "name": "Mood", "symbols": ["A", "B", "C"]}},
                    {"name": "mark", "type": {"type": "fixed", "name": "Mark", "size": 3}},
                    {"name": "flag", "type": "boolean"},
                    {"name": "score", "type": "float"},
                    {"name": "raw", "type": "bytes"},
                ],
            },
        ],
    },
]


def messages_of_other_releases(source: HeldSchemas) -> list[bytes]:
    newer, older, other = (json.loads(own_schema(CLICKS_TOPIC)) for _ in range(3))
    newer["fields"] += MORE_FIELDS
    other["fields"] += MORE_FIELDS
    other["fields"][4]["type"].reverse()  # needs fastavro's resolution
    del other["fields"][4]["default"]
    older["fields"] = older["fields"][:6]
    fields = {
        "event_id": "e", "kind": "click", "user_id": "u-1", "event_time": NOW_MS, "tags": ["a", "b"],
        "counts": {"x": 1.5, "y": None, "z": 3},
        "context": {"mood": "B", "mark": b"abc", "flag": True, "score": 1.0, "raw": b"xx"},
    }  # fmt: skip
    framed = []
    for schema_id, schema in ((10, newer), (11, older), (12, other)):
        source.texts[schema_id] = json.dumps(schema)
        out = BytesIO()
        schemaless_writer(out, load(source.texts[schema_id]).wire, fields)
        framed.append(b"\0" + schema_id.to_bytes(4, "big") + out.getvalue())
    return framed


def mutated(good: bytes, other: bytes, rng: random.Random) -> bytes:
    value = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        first = 0 if rng.random() < 0.1 else 5
        at = rng.randrange(first, len(value) + 1) if len(value) >= first else 0
        match rng.randrange(7):
            case 0:
                value[at : at + 1] = rng.randbytes(1)
            case 1 if at < len(value):
                value[at] ^= 1 << rng.randrange(8)
            case 2:
                del value[at:]
            case 3:
                value[at:at] = rng.randbytes(rng.randrange(1, 6))
            case 4:
                del value[at : at + rng.randrange(1, 5)]
            case 5:
                value[at : at + 1] = rng.choice(SPECIAL)
            case _:
                value[at:] = other[rng.randrange(len(other)) :]
    return bytes(value)


def test_no_message_escapes(codec: Codec, source: HeldSchemas, click: Event, cart: Event, record_of: RecordOf) -> None:
    good = [(CLICKS_TOPIC, message) for message in messages_of_other_releases(source)]
    good += [(topic, record_of(event).value or b"") for topic, event in ((CLICKS_TOPIC, click), (CARTS_TOPIC, cart))]
    template = record_of(click)
    rng = random.Random(SEED)
    seen = {Decoded: 0, DeadLetter: 0}
    for offset in range(MESSAGES):
        topic, message = rng.choice(good)
        value = mutated(message, rng.choice(good)[1], rng)
        record = Record(topic, template.partition, offset, NOW_MS, template.key, value)
        codec.resolve(codec.unresolved([record]))
        result = codec.decode(record, PARTITIONS)
        seen[type(result)] += 1
        if isinstance(result, DeadLetter):
            assert result.value == value
            assert result.detail
    assert sum(seen.values()) == MESSAGES
    assert seen[Decoded] > 0, "some changes leave a good event"
    assert seen[DeadLetter] > MESSAGES // 2
