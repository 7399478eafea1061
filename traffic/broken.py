"""Bad input on purpose: the bytes of each `Defect`, and the reason with which the worker must refuse it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from schemas.codec import HEADER_BYTES
from schemas.dead_letter import Reason
from schemas.encoder import Encoder
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.loading import load, own_schema
from schemas.partitioner import partition_of
from traffic.timed import BrokenEvent, Defect

EXPECTED_REASONS: Final[Mapping[Defect, Reason]] = MappingProxyType(
    {
        Defect.CORRUPT_AVRO: Reason.UNDECODABLE,
        Defect.WRONG_MAGIC: Reason.UNDECODABLE,
        Defect.UNKNOWN_SCHEMA_ID: Reason.UNKNOWN_SCHEMA,
        Defect.EMPTY_VALUE: Reason.UNDECODABLE,
        Defect.NULL_VALUE: Reason.UNDECODABLE,
        Defect.OVERSIZED: Reason.TOO_LARGE,
        Defect.MISSING_FIELD: Reason.MISSING_FIELD,
        Defect.WRONG_TYPE: Reason.INVALID_VALUE,
        Defect.EMPTY_USER_ID: Reason.MISSING_FIELD,
        Defect.NEGATIVE_QUANTITY: Reason.INVALID_VALUE,
        Defect.FUTURE_TIME: Reason.FUTURE_EVENT,
        Defect.YEAR_1970: Reason.INVALID_VALUE,
        Defect.WRONG_KEY: Reason.MISROUTED,
        Defect.WRONG_PARTITION: Reason.MISROUTED,
        Defect.INVALID_UTF8: Reason.UNDECODABLE,
    }
)

OVERSIZED_BYTES: Final = 2_000_000
_UNKNOWN_SCHEMA_ID: Final = 2**31 - 1
_YEAR_2100_MS: Final = 4_102_444_800_000  # future at any time of sending
_MARKER: Final = "\x01\x02\x03\x04"
_NOT_UTF8: Final = b"\xff\xfe\xff\xfe"


class RawMessage(NamedTuple):
    """What to give to the broker as it is; partition None leaves it to the partitioner."""

    key: bytes | None
    value: bytes | None
    partition: int | None


@dataclass(frozen=True)
class ForeignSchema:
    """A schema such as a careless producer would register.

    Attributes:
        defect: what its records are.
        topic: where they are sent.
        subject: the subject of its own under which it is registered, since the topic's may refuse it.
        text: the schema.
    """

    defect: Defect
    topic: str
    subject: str
    text: str


def foreign_schemas() -> tuple[ForeignSchema, ...]:
    """Return the schemas that the broken records of two defects are written with; register them first."""
    without_user = _changed(CLICKS_TOPIC, lambda fields: [part for part in fields if part["name"] != "user_id"])
    text_quantity = _changed(
        CARTS_TOPIC,
        lambda fields: [{**part, "type": "string"} if part["name"] == "quantity" else part for part in fields],
    )
    return (
        ForeignSchema(Defect.MISSING_FIELD, CLICKS_TOPIC, "shopstream.broken.missing_field", without_user),
        ForeignSchema(Defect.WRONG_TYPE, CARTS_TOPIC, "shopstream.broken.wrong_type", text_quantity),
    )


def _changed(topic: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> str:
    schema = json.loads(own_schema(topic))
    schema["fields"] = change(schema["fields"])
    return json.dumps(schema)


class BrokenWriter:
    """Writes broken records.

    Args:
        encoder: writes the good event that a broken one is made from.
        foreign_ids: registered id of each of `foreign_schemas`, by defect.
        partition_counts: partitions of each event topic; with one, `WRONG_PARTITION` has no key instead.
    """

    def __init__(
        self,
        encoder: Encoder,
        foreign_ids: Mapping[Defect, int],
        partition_counts: Mapping[str, int],
    ) -> None:
        self._frame = encoder.event
        self._partition_counts = partition_counts
        self._foreign = {
            schema.defect: (foreign_ids[schema.defect].to_bytes(4, "big"), load(schema.text).wire)
            for schema in foreign_schemas()
        }

    def write(self, topic: str, broken: BrokenEvent) -> RawMessage:
        """Return the record to send; `EXPECTED_REASONS` tells its fate."""
        defect, event = broken.defect, broken.event
        key = event.user_id.encode()
        if defect == Defect.WRONG_KEY:
            return RawMessage(b"not-" + key, self._frame(topic, event), None)
        if defect == Defect.WRONG_PARTITION:
            count = self._partition_counts[topic]
            if count == 1:
                return RawMessage(None, self._frame(topic, event), None)
            return RawMessage(key, self._frame(topic, event), (partition_of(key, count) + 1) % count)
        if defect == Defect.EMPTY_USER_ID:
            return RawMessage(b"", self._framed_with(topic, event, user_id=""), None)
        return RawMessage(key, self._value(topic, defect, event), None)

    def _value(self, topic: str, defect: Defect, event: Event) -> bytes | None:
        if defect in self._foreign:
            return self._foreign_value(defect, event)
        match defect:
            case Defect.NULL_VALUE:
                return None
            case Defect.EMPTY_VALUE:
                return b""
            case Defect.CORRUPT_AVRO:
                framed = self._frame(topic, event)
                return framed[: HEADER_BYTES + (len(framed) - HEADER_BYTES) // 2]
            case Defect.WRONG_MAGIC:
                return b"\x01" + self._frame(topic, event)[1:]
            case Defect.UNKNOWN_SCHEMA_ID:
                return b"\x00" + _UNKNOWN_SCHEMA_ID.to_bytes(4, "big") + self._frame(topic, event)[HEADER_BYTES:]
            case Defect.OVERSIZED:
                return self._frame(topic, event).ljust(OVERSIZED_BYTES, b"\x00")
            case Defect.NEGATIVE_QUANTITY:
                return self._framed_with(topic, event, quantity=-1)
            case Defect.FUTURE_TIME:
                return self._framed_with(topic, event, event_time_ms=_YEAR_2100_MS)
            case Defect.YEAR_1970:
                return self._framed_with(topic, event, event_time_ms=0)
            case Defect.INVALID_UTF8:
                return self._framed_with(topic, event, device=_MARKER).replace(_MARKER.encode(), _NOT_UTF8)
            case _:
                raise ValueError(f"{defect} is not a matter of the value")

    def _framed_with(self, topic: str, event: Event, **changes: Any) -> bytes:
        return self._frame(topic, msgspec.structs.replace(event, **changes))

    def _foreign_value(self, defect: Defect, event: Event) -> bytes:
        from fastavro import schemaless_writer

        schema_id, wire = self._foreign[defect]
        fields: dict[str, Any] = msgspec.structs.asdict(event)
        fields["event_time"] = fields.pop("event_time_ms")
        fields["quantity"] = str(event.quantity)
        body = BytesIO()
        schemaless_writer(body, wire, fields)
        return b"\x00" + schema_id + body.getvalue()
