"""How one writer's schema is read into the schema of this release; made once per schema id."""

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final

from fastavro import schemaless_reader
from fastavro.read import SchemaResolutionError

from schemas.dead_letter import Reason
from schemas.errors import UnsafeSchemaError
from schemas.event import EVENT_TOPICS
from schemas.loading import LoadedSchema, load, own_schema
from schemas.rules import Problem

TIME_FIELD: Final = "event_time"
TIME_LOGICAL_TYPE: Final = "timestamp-millis"

# What fastavro raises in practice for a broken body (found by fuzzing): the end of the data, an index outside a union
# or enum, text that is not UTF-8, numbers out of range; the last two are for a body that asks for too much.
_CORRUPT_BODY_ERRORS: Final = (
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A schema whose every record is refused, and why."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """How the records of one writer's schema are read.

    Attributes:
        topic: the event topic that its record belongs to.
        reader: our schema; None if the writer's bytes are the same, which is read without resolution.
        reads_strictly_first: the writer has fields that we skip. fastavro does not check the length of what it skips,
            so the body is read whole once before it is resolved.
    """

    schema_id: int
    topic: str
    record_name: str
    writer: dict[str, Any]
    reader: dict[str, Any] | None
    reads_strictly_first: bool

    def read(self, value: bytes, start: int) -> dict[str, Any] | Problem:
        """Read the body that starts at `start` and takes the rest of the value; its fields are those of our schema."""
        body = BytesIO(value)
        body.seek(start)
        try:
            if self.reads_strictly_first:
                schemaless_reader(body, self.writer)
                body.seek(start)
            fields: dict[str, Any] = schemaless_reader(body, self.writer, self.reader)
        except SchemaResolutionError:
            return self._unresolvable(value[start:])
        except _CORRUPT_BODY_ERRORS as error:
            return self._corrupt(error)
        if body.tell() != len(value):
            return Problem(Reason.UNDECODABLE, f"{len(value) - body.tell()} bytes follow the Avro body.")
        return fields

    def _corrupt(self, error: BaseException) -> Problem:
        if isinstance(error, UnicodeDecodeError):
            words = "a text in it is not UTF-8"
        elif isinstance(error, EOFError | IndexError):
            words = "it ends too early, or a length or a union's branch in it is wrong"
        else:
            words = f"{type(error).__name__}: {error}"[:200]
        return Problem(Reason.UNDECODABLE, f"The body is not Avro of schema {self.schema_id}: {words}.")

    def _unresolvable(self, body: bytes) -> Problem:
        """Say which field of a body that does not resolve is missing or of another type."""
        try:
            written = schemaless_reader(BytesIO(body), self.writer)
        except _CORRUPT_BODY_ERRORS as error:
            return self._corrupt(error)
        for part in (self.reader or self.writer)["fields"]:
            name, expected = part["name"], part["type"]
            value = written.get(name)
            if value is None and not isinstance(expected, list):
                return Problem(Reason.MISSING_FIELD, f"{name} is null; it is required.")
            if value is not None and not _is_of(value, expected):
                found = type(value).__name__
                wanted = " or ".join(expected) if isinstance(expected, list) else expected
                return Problem(Reason.INVALID_VALUE, f"{name} was written as {found}; it must be {wanted}.")
        return Problem(Reason.UNDECODABLE, f"Schema {self.schema_id} cannot be read as {self.record_name}.")


def plan_for(schema_id: int, text: str) -> DecodingPlan | Refusal:
    """Decide how to read what was written with a schema."""
    try:
        writer = load(text)
    except UnsafeSchemaError as error:
        return Refusal(Reason.UNDECODABLE, f"Schema {schema_id} is refused: {error.message}")
    topic, reader = _readers().get(writer.name, (None, None))
    if topic is None or reader is None:
        known = " and ".join(_readers())
        return Refusal(Reason.UNDECODABLE, f"Schema {schema_id} is {writer.name}; only {known} are read.")
    time_type = writer.logical_types.get(TIME_FIELD, TIME_LOGICAL_TYPE)
    if time_type != TIME_LOGICAL_TYPE:
        detail = f"{TIME_FIELD} is {time_type} in schema {schema_id}; it must be {TIME_LOGICAL_TYPE}."
        return Refusal(Reason.INVALID_VALUE, detail)
    missing = [name for name in reader.field_names if name not in writer.field_names and name not in reader.defaults]
    if missing:
        return Refusal(
            Reason.MISSING_FIELD, f"Schema {schema_id} has no {' and no '.join(missing)}, which is required."
        )
    return DecodingPlan(
        schema_id=schema_id,
        topic=topic,
        record_name=writer.name,
        writer=writer.wire,
        reader=None if writer.wire == reader.wire else reader.reading(),
        reads_strictly_first=not set(writer.field_names) <= set(reader.field_names),
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
