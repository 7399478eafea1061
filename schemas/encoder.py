"""From an event, a dead letter or a request for a retraining to the framed bytes that our own writers publish."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from schemas.dead_letter import DeadLetter
from schemas.errors import EncodeError
from schemas.event import DEAD_LETTERS_TOPIC, RETRAIN_TOPIC, Event
from schemas.loading import load, own_schema
from schemas.retraining import RetrainingEvent

_RENAMED: Final = {"event_time_ms": "event_time"}
_REQUEST_TIMES: Final = {
    "window_start_ms": "window_start",
    "window_end_ms": "window_end",
    "requested_ms": "requested_at",
}
_UNWRITABLE: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)


class SchemaIdSource(Protocol):
    """Where the id of a schema that is registered already is asked for."""

    def lookup(self, subject: str, schema: str) -> int:
        """Return the id of this very schema.

        Raises:
            UnknownSubjectError: it is not registered under the subject.
            RegistryUnavailableError: no answer.
        """
        ...


class PublishedLetter(NamedTuple):
    """A dead letter as the dead letter topic holds it: key and value cut to a limit, with their whole sizes."""

    letter: DeadLetter
    key_size_bytes: int | None
    value_size_bytes: int | None
    value_sha256: str | None


def subject_of(topic: str) -> str:
    """Return the registry's subject of a topic's values."""
    return f"{topic}-value"


class Encoder:
    """Writes events, dead letters and requests for retrainings with the schemas of this release.

    Args:
        schema_ids: registered id of our schema, per topic.
    """

    def __init__(self, schema_ids: Mapping[str, int]) -> None:
        self._headers = {topic: b"\0" + schema_id.to_bytes(4, "big") for topic, schema_id in schema_ids.items()}

    @classmethod
    def registered(cls, source: SchemaIdSource, topics: tuple[str, ...]) -> "Encoder":
        """Look up the ids of our schemas, which must be registered: nothing is registered on the way.

        Raises:
            UnknownSubjectError: register it first.
            RegistryUnavailableError: no answer.
        """
        return cls({topic: source.lookup(subject_of(topic), own_schema(topic)) for topic in topics})

    def event(self, topic: str, event: Event) -> bytes:
        """Frame an event; rules are not checked here, so that tests and tools can publish broken ones.

        Raises:
            EncodeError: a value does not fit the topic's schema.
        """
        return self._framed(topic, msgspec.structs.asdict(event))

    def letter(self, letter: DeadLetter, *, bytes_max: int) -> bytes:
        """Frame a dead letter, its key and value cut to `bytes_max` bytes each.

        Raises:
            EncodeError: a value does not fit the schema.
        """
        key, value = letter.key, letter.value
        fields = {
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "append_time": letter.append_time_ms,
            "key": None if key is None else key[:bytes_max],
            "key_size_bytes": None if key is None else len(key),
            "value": None if value is None else value[:bytes_max],
            "value_size_bytes": letter.value_size,
            "value_sha256": None if value is None else hashlib.sha256(value).hexdigest(),
            "schema_id": letter.schema_id,
            "stage": letter.stage.value,
            "reason": letter.reason.value,
            "detail": letter.detail,
            "first_seen": letter.first_seen_ms,
        }
        return self._framed(DEAD_LETTERS_TOPIC, fields)

    def retraining(self, request: RetrainingEvent) -> bytes:
        """Frame a request for a retraining.

        Raises:
            EncodeError: a value does not fit the schema.
        """
        fields = msgspec.structs.asdict(request)
        for name, avro in _REQUEST_TIMES.items():
            fields[avro] = fields.pop(name)
        try:
            fields["evidence"] = json.dumps(request.evidence, sort_keys=True, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise EncodeError(f"The evidence of {request.request_id} is no JSON: {error}.") from error
        return self._framed(RETRAIN_TOPIC, fields)

    def _framed(self, topic: str, fields: dict[str, Any]) -> bytes:
        out = BytesIO()
        out.write(self._headers[topic])
        writing = _writing(topic)
        try:
            for name in writing.integers:
                if not isinstance(fields[name], int):
                    raise TypeError(f"{name} is {fields[name]!r}, not an integer")
            schemaless_writer(out, writing.schema, fields)
        except _UNWRITABLE as error:
            raise EncodeError(f"A value does not fit the schema of {topic}: {error}.") from error
        return out.getvalue()


def read_letter(framed: bytes) -> PublishedLetter:
    """Read back what `Encoder.letter` wrote.

    Raises:
        EncodeError: these are not the bytes of a dead letter of this release.
    """
    try:
        if framed[0] != 0:
            raise ValueError(f"the first byte is {framed[0]}")
        fields = schemaless_reader(BytesIO(framed[5:]), _writing(DEAD_LETTERS_TOPIC).schema)
    except (EOFError, *_UNWRITABLE) as error:
        raise EncodeError(f"These bytes are not a dead letter ({error}).") from error
    key_size, value_size, digest = (fields.pop(name) for name in ("key_size_bytes", "value_size_bytes", "value_sha256"))
    fields["append_time_ms"], fields["first_seen_ms"] = fields.pop("append_time"), fields.pop("first_seen")
    return PublishedLetter(msgspec.convert(fields, DeadLetter), key_size, value_size, digest)


def read_retraining(framed: bytes) -> RetrainingEvent:
    """Read back what `Encoder.retraining` wrote.

    Raises:
        EncodeError: these are not the bytes of a request of this release.
    """
    try:
        if framed[0] != 0:
            raise ValueError(f"the first byte is {framed[0]}")
        fields = schemaless_reader(BytesIO(framed[5:]), _writing(RETRAIN_TOPIC).schema)
        fields["evidence"] = json.loads(fields["evidence"])
    except (EOFError, *_UNWRITABLE) as error:
        raise EncodeError(f"These bytes are not a request for a retraining ({error}).") from error
    for name, avro in _REQUEST_TIMES.items():
        fields[name] = fields.pop(avro)
    return msgspec.convert(fields, RetrainingEvent)


@dataclass(frozen=True, slots=True)
class _Writing:
    """How records of one topic are written.

    Attributes:
        schema: ours, with its fields named as the event's attributes; names are not on the wire.
        integers: its required integers. fastavro cuts a float there without a word (2.5 becomes 2).
    """

    schema: dict[str, Any]
    integers: tuple[str, ...]


@cache
def _writing(topic: str) -> _Writing:
    wire = load(own_schema(topic)).wire
    names = {avro: attribute for attribute, avro in _RENAMED.items()}
    fields = [{**part, "name": names.get(part["name"], part["name"])} for part in wire["fields"]]
    return _Writing(
        schema=parse_schema({"type": "record", "name": wire["name"], "fields": fields}),
        integers=tuple(part["name"] for part in fields if part["type"] in ("int", "long")),
    )
