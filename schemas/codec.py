"""From the bytes of a Kafka record to an event, or to a dead letter that says what is wrong.

The checks, in this order; the first that fails decides the reason (docs/reference/events.md lists them for people):

    frame     value present, not too large, magic byte 0, schema id known to the registry
    decode    the schema is one we read on this topic, the body is Avro of it, nothing follows the body
    validate  required fields, values, event time against append time, key and partition
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

from config.settings import EventSettings
from schemas import rules
from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.decoding_plan import DecodingPlan, plan_for
from schemas.errors import UnknownSchemaIdError, UnresolvedSchemaError
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.partitioner import murmur2

MAGIC: Final = 0
HEADER_BYTES: Final = 5
HASHED_KEYS: Final = 262_144
UNKNOWN_IDS_KEPT: Final = 10_000


class Decoded(NamedTuple):
    """A valid event, and the id of the schema it was written with."""

    event: Event
    schema_id: int


class SchemaSource(Protocol):
    """Where schemas come from."""

    def fetch(self, schema_id: int) -> str:
        """Return the text of a schema.

        Raises:
            UnknownSchemaIdError: there is none of this id.
            RegistryUnavailableError: nothing is known, for no answer came.
        """
        ...


class Codec:
    """Decodes records of the event topics.

    Call `unresolved`, give what it returns to `resolve` (blocking), then `decode` each record: a pure computation.

    Args:
        source: where an unknown schema id is asked for, once.
        limits: what an event may be.
        unknown_id_ttl_s: how long the answer "no such schema" is believed.
        clock_ms: wall clock, integer milliseconds UTC.
    """

    def __init__(
        self, source: SchemaSource, *, limits: EventSettings, unknown_id_ttl_s: float, clock_ms: Callable[[], int]
    ) -> None:
        self._source = source
        self._message_bytes_max = limits.message_bytes_max
        self._message_values_max = limits.message_values_max
        self._future_tolerance_ms = limits.future_tolerance_ms
        self._unknown_ttl_ms = round(unknown_id_ttl_s * 1000)
        self._clock_ms = clock_ms
        self._plans: dict[bytes, DecodingPlan] = {}  # by the frame's first five bytes: one look-up checks them all
        self._refused: dict[int, rules.Problem] = {}
        self._unknown_since_ms: dict[int, int] = {}
        self._resolving = threading.Lock()
        self._hash = lru_cache(maxsize=HASHED_KEYS)(murmur2)

    def unresolved(self, records: Sequence[Record]) -> set[int]:
        """Return the schema ids in these records that `resolve` must ask for before `decode`."""
        ids = schema_ids(records, self._message_bytes_max)
        return {schema_id for schema_id in ids if not self._is_settled(schema_id)}

    def resolve(self, ids: Iterable[int]) -> None:
        """Ask for each schema once; blocking, safe from several threads. One that we refuse to read is settled too.

        Raises:
            RegistryUnavailableError: no answer; the ids asked for before are settled, so a new call goes on there.
        """
        with self._resolving:
            for schema_id in sorted(ids):
                if self._is_settled(schema_id):
                    continue
                try:
                    text = self._source.fetch(schema_id)
                except UnknownSchemaIdError:
                    self._forget_old()
                    self._unknown_since_ms[schema_id] = self._clock_ms()
                else:
                    plan = plan_for(schema_id, text, self._message_values_max)
                    if isinstance(plan, DecodingPlan):
                        self._plans[_header(schema_id)] = plan
                    else:
                        self._refused[schema_id] = plan
                    self._unknown_since_ms.pop(schema_id, None)

    def decode(self, record: Record, partition_count: int) -> Decoded | DeadLetter:
        """Decode and check one record. Never raises for what a record holds.

        Args:
            partition_count: partitions of the record's topic, for the check that its key belongs where it was found.

        Raises:
            UnresolvedSchemaError: the caller did not `resolve` this record's schema id.
        """
        value = record.value
        if not value or len(value) > self._message_bytes_max:
            return self._unreadable(record)
        plan = self._plans.get(value[:HEADER_BYTES])
        if plan is None or plan.topic != record.topic:
            return self._unreadable(record)
        schema_id = plan.schema_id
        fields = plan.read(value[HEADER_BYTES:])
        if isinstance(fields, rules.Problem):
            return self._letter(record, schema_id, Stage.DECODE, *fields)
        event = _click(fields) if record.topic == CLICKS_TOPIC else _cart(fields)
        problem = (
            rules.value_problem(record.topic, event)
            or rules.time_problem(event, record.append_time_ms, self._future_tolerance_ms)
            or self._routing_problem(record, event.user_id, partition_count)
        )
        if problem is not None:
            return self._letter(record, schema_id, Stage.VALIDATE, *problem)
        return Decoded(event, schema_id)

    def refused(self, record: Record, detail: str) -> DeadLetter:
        """Return the letter of a record that must not be decoded in this process; its bytes are not looked into."""
        value = record.value or b""
        schema_id = _schema_id(value) if len(value) >= HEADER_BYTES and value[0] == MAGIC else None
        return self._letter(record, schema_id, Stage.DECODE, Reason.UNDECODABLE, detail)

    def _routing_problem(self, record: Record, user_id: str, partition_count: int) -> rules.Problem | None:
        key = record.key
        if key != user_id.encode():
            detail = (
                "The record has no key; it must be user_id." if key is None else "The record's key is not its user_id."
            )
            return rules.Problem(Reason.MISROUTED, detail)
        expected = (self._hash(key) & 0x7FFFFFFF) % partition_count
        if expected != record.partition:
            detail = (
                f"The key belongs to partition {expected} of {partition_count} by murmur2, and was found in "
                f"{record.partition}: its producer partitions in another way."
            )
            return rules.Problem(Reason.MISROUTED, detail)
        return None

    def _unreadable(self, record: Record) -> DeadLetter:
        """Say why there is no plan to read this record by."""
        value = record.value
        if not value:
            detail = "The record has no value." if value is None else "The value is empty."
            return self._letter(record, None, Stage.FRAME, Reason.UNDECODABLE, detail)
        if len(value) > self._message_bytes_max:
            detail = f"The value has {len(value)} bytes; at most {self._message_bytes_max} are read."
            return self._letter(record, None, Stage.FRAME, Reason.TOO_LARGE, detail)
        if value[0] != MAGIC:
            detail = f"The first byte is {value[0]}; a framed value starts with 0."
            return self._letter(record, None, Stage.FRAME, Reason.UNDECODABLE, detail)
        if len(value) < HEADER_BYTES:
            detail = f"The value has {len(value)} bytes; the frame alone takes {HEADER_BYTES}."
            return self._letter(record, None, Stage.FRAME, Reason.UNDECODABLE, detail)
        return self._unreadable_schema(record, _schema_id(value))

    def _unreadable_schema(self, record: Record, schema_id: int) -> DeadLetter:
        plan = self._plans.get(_header(schema_id))
        if plan is not None:
            detail = f"Schema {schema_id} is {plan.record_name}, which does not belong on {record.topic}."
            return self._letter(record, schema_id, Stage.DECODE, Reason.UNDECODABLE, detail)
        refusal = self._refused.get(schema_id)
        if refusal is not None:
            return self._letter(record, schema_id, Stage.DECODE, *refusal)
        if schema_id in self._unknown_since_ms:
            detail = f"The schema registry has no schema with id {schema_id}."
            return self._letter(record, schema_id, Stage.FRAME, Reason.UNKNOWN_SCHEMA, detail)
        raise UnresolvedSchemaError(
            f"Schema {schema_id} was not resolved before offset {record.offset} of {record.topic} was decoded.",
            hint="Give the ids that `unresolved` returns to `resolve` first.",
        )

    def _letter(self, record: Record, schema_id: int | None, stage: Stage, reason: Reason, detail: str) -> DeadLetter:
        return DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            append_time_ms=record.append_time_ms,
            key=record.key,
            value=record.value,
            schema_id=schema_id,
            stage=stage,
            reason=reason,
            detail=detail,
            first_seen_ms=self._clock_ms(),
        )

    def _is_settled(self, schema_id: int) -> bool:
        if _header(schema_id) in self._plans or schema_id in self._refused:
            return True
        return self._is_fresh(self._unknown_since_ms.get(schema_id))

    def _is_fresh(self, since_ms: int | None) -> bool:
        return since_ms is not None and 0 <= self._clock_ms() - since_ms < self._unknown_ttl_ms

    def _forget_old(self) -> None:
        if len(self._unknown_since_ms) >= UNKNOWN_IDS_KEPT:
            # far older than any batch between its `resolve` and its `decode`
            oldest_ms = self._clock_ms() - self._unknown_ttl_ms - 3_600_000
            self._unknown_since_ms = {
                schema_id: at for schema_id, at in self._unknown_since_ms.items() if at >= oldest_ms
            }


def schema_ids(records: Iterable[Record], message_bytes_max: int) -> set[int]:
    """Return the schema ids that the frames of these records name; a value that is too large is not looked at."""
    frames = {value[:HEADER_BYTES] for record in records if (value := record.value) and len(value) <= message_bytes_max}
    return {_schema_id(frame) for frame in frames if len(frame) == HEADER_BYTES and frame[0] == MAGIC}


def _schema_id(value: bytes) -> int:
    return int.from_bytes(value[1:HEADER_BYTES], "big")


def _header(schema_id: int) -> bytes:
    return schema_id.to_bytes(HEADER_BYTES, "big")  # the magic byte is 0


def _click(fields: Mapping[str, Any]) -> Event:
    return Event(
        event_id=fields["event_id"],
        kind=fields["kind"],
        user_id=fields["user_id"],
        event_time_ms=fields["event_time"],
        session_id=fields["session_id"],
        device=fields["device"],
        product_id=fields["product_id"] or None,
        category_id=fields["category_id"] or None,
        query=fields["query"],
        result_count=fields["result_count"],
        position=fields["position"],
        recommendation_id=fields["recommendation_id"],
        page=fields["page"],
    )


def _cart(fields: Mapping[str, Any]) -> Event:
    return Event(
        event_id=fields["event_id"],
        kind=fields["kind"],
        user_id=fields["user_id"],
        event_time_ms=fields["event_time"],
        session_id=fields["session_id"],
        device=fields["device"],
        product_id=fields["product_id"],
        category_id=fields["category_id"] or None,
        quantity=fields["quantity"],
        unit_price_minor=fields["unit_price_minor"],
        currency=fields["currency"],
        order_id=fields["order_id"],
    )
