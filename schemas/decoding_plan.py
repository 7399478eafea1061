"""How one writer's schema is read into the schema of this release; made once per schema id."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final

from fastavro import schemaless_reader
from fastavro.read import SchemaResolutionError

from schemas.dead_letter import Reason
from schemas.errors import UnsafeSchemaError
from schemas.event import EVENT_TOPICS
from schemas.loading import LoadedSchema, load, most_choices, own_schema
from schemas.rules import Problem
from schemas.wire_check import VALUES_MAX, TooManyValuesError, check, first_break

TIME_FIELD: Final = "event_time"
TIME_LOGICAL_TYPE: Final = "timestamp-millis"

OUT_OF_MEMORY: Final = Problem(Reason.TOO_LARGE, "Decoding the body takes more memory than there is.")

# What fastavro raises in practice for a broken body (found by fuzzing): the end of the data, an index outside a union
# or enum, text that is not UTF-8, numbers out of range; the last is for a body that asks for too much.
_CORRUPT_BODY_ERRORS: Final = (
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """How the records of one writer's schema are read.

    Attributes:
        topic: the event topic that its record belongs to.
        reader: our schema, for fastavro to resolve; None if every field that both have is of the same type, so that
            what was written need only be taken by name.
        absent: defaults of our fields that the writer does not have.
        negative_indices: the bytes that a negative branch or symbol would be written as, which fastavro takes for one
            from the end; a body that holds one is looked at strictly. Text and numbers of good events hardly ever do.
        values_max: most values of a record, items of arrays and maps included.
        safe_bytes: a body up to this size cannot hold more.
    """

    schema_id: int
    topic: str
    record_name: str
    writer: dict[str, Any]
    reader: dict[str, Any] | None
    absent: Mapping[str, Any]
    negative_indices: tuple[bytes, ...]
    values_max: int
    safe_bytes: int

    def read(self, body: bytes) -> dict[str, Any] | Problem:
        """Read an Avro body without its frame; what is returned has every field of our schema, and may have more."""
        if len(body) > self.safe_bytes and (problem := self._size_problem(body)):
            return problem
        stream = BytesIO(body)
        try:
            fields: dict[str, Any] = schemaless_reader(stream, self.writer, self.reader)
        except SchemaResolutionError:
            return self._unresolvable(body)
        except _CORRUPT_BODY_ERRORS as error:
            return self._corrupt(body, f"{type(error).__name__}: {error}"[:200])
        except MemoryError:
            return OUT_OF_MEMORY
        if stream.tell() != len(body):
            return Problem(Reason.UNDECODABLE, f"{len(body) - stream.tell()} bytes follow the Avro body.")
        for byte in self.negative_indices:
            if byte in body and (broken := first_break(self.writer, body)):
                return self._corrupt(body, broken)
        if self.absent:
            fields.update(self.absent)
        return fields

    def _size_problem(self, body: bytes) -> Problem | None:
        """Look before fastavro does, which has no limits: a byte can cost it some hundred bytes of memory."""
        try:
            broken = check(self.writer, body, self.values_max)
        except TooManyValuesError:
            return Problem(Reason.TOO_LARGE, f"The body holds more than {self.values_max} values.")
        return self._corrupt(body, broken) if broken else None

    def _corrupt(self, body: bytes, otherwise: str) -> Problem:
        words = first_break(self.writer, body) or otherwise
        return Problem(Reason.UNDECODABLE, f"The body is not Avro of schema {self.schema_id}; {words}.")

    def _unresolvable(self, body: bytes) -> Problem:
        """Say which field of a body that does not resolve is missing or of another type."""
        try:
            written = schemaless_reader(BytesIO(body), self.writer)
        except (*_CORRUPT_BODY_ERRORS, MemoryError) as error:
            return self._corrupt(body, f"{type(error).__name__}: {error}"[:200])
        for part in _readers()[self.record_name][1].wire["fields"]:
            name, expected = part["name"], part["type"]
            value = written.get(name)
            if value is None and not isinstance(expected, list):
                return Problem(Reason.MISSING_FIELD, f"{name} is null; it is required.")
            if value is not None and not _is_of(value, expected):
                found = type(value).__name__
                wanted = " or ".join(expected) if isinstance(expected, list) else expected
                return Problem(Reason.INVALID_VALUE, f"{name} was written as {found}; it must be {wanted}.")
        return Problem(Reason.UNDECODABLE, f"Schema {self.schema_id} cannot be read as {self.record_name}.")


def plan_for(schema_id: int, text: str, values_max: int = VALUES_MAX) -> DecodingPlan | Problem:
    """Decide how to read what was written with a schema, or why every record of it is refused."""
    try:
        writer = load(text)
    except UnsafeSchemaError as error:
        return Problem(Reason.UNDECODABLE, f"Schema {schema_id} is refused: {error.message}")
    topic, reader = _readers().get(writer.name, (None, None))
    if topic is None or reader is None:
        known = " and ".join(_readers())
        return Problem(Reason.UNDECODABLE, f"Schema {schema_id} is {writer.name}; only {known} are read.")
    writer = writer.named_as(reader)
    time_type = writer.logical_types.get(TIME_FIELD, TIME_LOGICAL_TYPE)
    if time_type != TIME_LOGICAL_TYPE:
        detail = f"{TIME_FIELD} is {time_type} in schema {schema_id}; it must be {TIME_LOGICAL_TYPE}."
        return Problem(Reason.INVALID_VALUE, detail)
    missing = [name for name in reader.field_names if name not in writer.field_names and name not in reader.defaults]
    if missing:
        return Problem(
            Reason.MISSING_FIELD, f"Schema {schema_id} has no {' and no '.join(missing)}, which is required."
        )
    needs_resolution = any(
        written != reader.field_types[name]
        for name, written in writer.field_types.items()
        if name in reader.field_types
    )
    try:
        resolving = reader.reading(writer) if needs_resolution else None
    except UnsafeSchemaError as error:
        return Problem(Reason.UNDECODABLE, f"Schema {schema_id} is refused: {error.message}")
    return DecodingPlan(
        schema_id=schema_id,
        topic=topic,
        record_name=writer.name,
        writer=writer.wire,
        reader=resolving,
        absent={name: reader.defaults[name] for name in reader.field_names if name not in writer.field_names},
        negative_indices=tuple(bytes([2 * back - 1]) for back in range(1, min(most_choices(writer.wire), 64) + 1)),
        values_max=values_max,
        safe_bytes=writer.bytes_for(values_max),
    )


@cache
def _readers() -> dict[str, tuple[str, LoadedSchema]]:
    loaded = {topic: load(own_schema(topic)) for topic in EVENT_TOPICS}
    return {schema.name: (topic, schema) for topic, schema in loaded.items()}


def _is_of(value: Any, expected: Any) -> bool:
    names = expected if isinstance(expected, list) else [expected]
    if isinstance(value, bool):
        return False
    return (isinstance(value, str) and "string" in names) or (
        isinstance(value, int) and not {"int", "long"}.isdisjoint(names)
    )
