"""Safe loading of Avro schemas that somebody else registered.

fastavro trusts a schema: a recursive one crashes the interpreter on a few bytes, an array of zero-byte items costs
gigabytes for six. Such schemas are refused here, once per schema id. What is left is how much a message can hold of
items that take a byte or two each, and yet an object or more in memory: `LoadedSchema.bytes_for` tells.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastavro import parse_schema
from fastavro.schema import SchemaParseException, UnknownType

from schemas.definitions import INNER, Definitions
from schemas.errors import UnsafeSchemaError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, RETRAIN_TOPIC

AVRO_FOLDER: Final = Path(__file__).parent / "avro"
RECORD_FILES: Final[Mapping[str, str]] = {
    CLICKS_TOPIC: "ClickEvent.avsc",
    CARTS_TOPIC: "CartEvent.avsc",
    DEAD_LETTERS_TOPIC: "DeadLetter.avsc",
    RETRAIN_TOPIC: "RetrainingRequest.avsc",
}

SCHEMA_CHARS_MAX: Final = 262_144
NESTING_MAX: Final = 48
NODES_MAX: Final = 4_096

_PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_LEAST_BYTES: Final = {"null": 0, "float": 4, "double": 8}  # of the others: 1
# what fastavro raises for a schema that is not one
_PARSE_FAILURES: Final = (
    SchemaParseException,
    UnknownType,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
)


def own_schema(topic: str) -> str:
    """Return the text of the schema that this release writes to a topic and reads from it."""
    return (AVRO_FOLDER / RECORD_FILES[topic]).read_text(encoding="utf-8")


def topic_of(record_name: str) -> str | None:
    """Return the topic that a record belongs to by its full name, None if to none."""
    return next((topic for topic, file in RECORD_FILES.items() if f"shop.{Path(file).stem}" == record_name), None)


@dataclass(frozen=True, slots=True)
class LoadedSchema:
    """An Avro record schema that is safe to decode with.

    Attributes:
        name: full name of the record.
        wire: what the bytes look like, parsed for fastavro: no logical types, documentation, aliases or defaults, so
            that values come as they were written and two schemas of equal bytes are equal.
        logical_types: logical type of each top-level field that has one.
        defaults: default of each top-level field that has one.
        aliases: former names of each top-level field that has any.
        values_outside: most values that a message holds outside of arrays and maps.
        values_per_byte: most values that a byte of arrays and maps can hold.
    """

    name: str
    wire: dict[str, Any]
    logical_types: Mapping[str, str]
    defaults: Mapping[str, Any]
    values_outside: int
    values_per_byte: float
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def bytes_for(self, values: int) -> int:
        """Return the size of body up to which a message holds at most so many values."""
        if not self.values_per_byte:
            return sys.maxsize
        return int((values - self.values_outside) / self.values_per_byte)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the top-level fields, in wire order."""
        return tuple(part["name"] for part in self.wire["fields"])

    @property
    def field_types(self) -> dict[str, Any]:
        """Wire type of each top-level field."""
        return {part["name"]: part["type"] for part in self.wire["fields"]}

    def text(self) -> str:
        """Return the wire form as JSON."""
        return json.dumps(_bare(self.wire))

    def named_as(self, reader: "LoadedSchema") -> "LoadedSchema":
        """Return it with the reader's names for fields that were renamed, as the aliases of either say.

        A field that both have by one name keeps it, and no two become one. Names are not on the wire, so it reads the
        same bytes.
        """
        names = self.names_in(reader)
        if not names:
            return self
        fields = [{**part, "name": names.get(part["name"], part["name"])} for part in self.wire["fields"]]
        return replace(
            self,
            wire=parse_schema({"type": "record", "name": self.name, "fields": fields}),
            logical_types={names.get(name, name): found for name, found in self.logical_types.items()},
            defaults={names.get(name, name): found for name, found in self.defaults.items()},
            aliases={names.get(name, name): found for name, found in self.aliases.items()},
        )

    def names_in(self, reader: "LoadedSchema") -> dict[str, str]:
        """Return the fields that the reader has under another name, and that name."""
        free = [name for name in reader.field_names if name not in self.field_names]
        names: dict[str, str] = {}
        for name in self.field_names:
            if name not in reader.field_names:
                former = self.aliases.get(name, ())
                found = [other for other in free if other in former or name in reader.aliases.get(other, ())]
                if found:
                    names[name] = found[0]
                    free.remove(found[0])
        return names

    def reading(self, writer: "LoadedSchema") -> dict[str, Any]:
        """Return it as a reader's schema for fastavro: the wire form with the defaults, then what only the writer has.

        So nothing is skipped: fastavro checks no lengths in what it skips, and 127 bytes can make it skip for ever.

        Raises:
            UnsafeSchemaError: the two do not go together.
        """
        fields = [
            {**part, "default": self.defaults[part["name"]]} if part["name"] in self.defaults else part
            for part in self.wire["fields"]
        ]
        definitions = Definitions(writer.wire)
        more = [
            {"name": part["name"], "type": definitions.complete(part["type"])}
            for part in writer.wire["fields"]
            if part["name"] not in self.field_names
        ]
        try:
            parsed: dict[str, Any] = parse_schema({"type": "record", "name": self.name, "fields": [*fields, *more]})
        except _PARSE_FAILURES as error:
            raise UnsafeSchemaError(f"The schema cannot be read as ours ({type(error).__name__}: {error}).") from error
        return parsed


def load(text: str) -> LoadedSchema:
    """Parse a record schema and check that decoding with it is bounded by the size of the message.

    Raises:
        UnsafeSchemaError: not Avro, not a record, too large or nested too deeply, recursive, or with arrays or maps
            whose items hold parts that take no byte.
    """
    if len(text) > SCHEMA_CHARS_MAX:
        raise UnsafeSchemaError(f"The schema has {len(text)} characters; at most {SCHEMA_CHARS_MAX} are read.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeSchemaError(f"The schema is not JSON ({error}).") from error
    if not isinstance(document, dict) or document.get("type") != "record":
        raise UnsafeSchemaError("The schema is not an Avro record.")
    _check_nesting(document)
    try:
        parsed = parse_schema(document)
        wire_fields = [{"name": part["name"], "type": _bare(part["type"])} for part in parsed["fields"]]
        wire = parse_schema({"type": "record", "name": parsed["name"], "fields": wire_fields})
    except _PARSE_FAILURES as error:
        raise UnsafeSchemaError(f"The schema is not Avro ({type(error).__name__}: {error}).") from error
    measure = _Measure()
    size = measure.of(wire)
    return LoadedSchema(
        name=parsed["name"],
        wire=wire,
        logical_types={part["name"]: found for part in parsed["fields"] if (found := _logical_type(part["type"]))},
        defaults={part["name"]: part["default"] for part in parsed["fields"] if "default" in part},
        aliases={part["name"]: tuple(part["aliases"]) for part in parsed["fields"] if part.get("aliases")},
        values_outside=size.nodes,
        values_per_byte=measure.values_per_byte,
    )


def most_choices(schema: Any) -> int:
    """Return the branches of the widest union, or symbols of the widest enum, anywhere in a schema's wire form."""
    if isinstance(schema, list):
        return max(len(schema), *(most_choices(branch) for branch in schema), 0)
    if isinstance(schema, str):
        return 0
    kind = schema["type"]
    if kind == "enum":
        return len(schema["symbols"])
    inner = INNER.get(kind)
    if inner is not None:
        return most_choices(schema[inner])
    return max((most_choices(part["type"]) for part in schema.get("fields", ())), default=0)


def _check_nesting(document: Any) -> None:
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > NESTING_MAX:
            raise UnsafeSchemaError(f"The schema is nested deeper than {NESTING_MAX} levels.")
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inner += node.values()
            elif isinstance(node, list):
                inner += node
        level = [node for node in inner if isinstance(node, dict | list)]


def _logical_type(schema: Any) -> str | None:
    if isinstance(schema, list):
        return next((found for branch in schema if (found := _logical_type(branch))), None)
    found = schema.get("logicalType") if isinstance(schema, dict) else None
    return found if isinstance(found, str) else None


def _bare(schema: Any) -> Any:
    """Keep only what decides the bytes."""
    if isinstance(schema, str):
        return schema
    if isinstance(schema, list):
        return [_bare(branch) for branch in schema]
    kind = schema["type"]
    if kind == "record":
        fields = [{"name": part["name"], "type": _bare(part["type"])} for part in schema["fields"]]
        return {"type": "record", "name": schema["name"], "fields": fields}
    if kind == "enum":
        return {"type": "enum", "name": schema["name"], "symbols": schema["symbols"]}
    if kind == "fixed":
        return {"type": "fixed", "name": schema["name"], "size": schema["size"]}
    if kind == "array":
        return {"type": "array", "items": _bare(schema["items"])}
    if kind == "map":
        return {"type": "map", "values": _bare(schema["values"])}
    return _bare(kind)


class _Size(NamedTuple):
    """What values of a type cost.

    Attributes:
        nodes: types in it, written out in full.
        free_parts: parts that take no byte (null, an empty record, fixed of 0); a null in a union does not count, since
            its branch takes one.
        least_bytes: fewest bytes of a value.
    """

    nodes: int
    free_parts: int
    least_bytes: int


@dataclass(slots=True)
class _Measure:
    """One walk over a schema that sums what a value of it can cost.

    A type is measured where it is defined and reused by name, so that a chain of types that each hold two of the one
    before is summed, not walked.
    """

    named: dict[str, _Size] = field(default_factory=dict)
    values_per_byte: float = 0.0
    open_names: set[str] = field(default_factory=set)

    def of(self, schema: Any) -> _Size:
        """Return the size of a type.

        Raises:
            UnsafeSchemaError: a few bytes could cost unbounded time or memory.
        """
        size = self._of(schema)
        if size.nodes > NODES_MAX:
            raise UnsafeSchemaError(f"The schema has more than {NODES_MAX} types when written out in full.")
        return size

    def _of(self, schema: Any) -> _Size:
        if isinstance(schema, list):
            branches = [self.of(branch) for branch in schema if branch != "null"]
            return _Size(
                1 + sum(size.nodes for size in branches),
                sum(size.free_parts for size in branches),
                1 if "null" in schema else 1 + min((size.least_bytes for size in branches), default=0),
            )
        if isinstance(schema, str):
            return self._of_name(schema)
        kind = schema["type"]
        if kind in ("array", "map"):
            size = self.of(schema["items"] if kind == "array" else schema["values"])
            if size.free_parts:
                what = "an array" if kind == "array" else "a map"
                raise UnsafeSchemaError(f"The schema has {what} whose items hold a part that takes no byte.")
            item_bytes = size.least_bytes + (kind == "map")  # each item's bytes are its own, whatever it nests
            self.values_per_byte = max(self.values_per_byte, (size.nodes + (kind == "map")) / max(1, item_bytes))
            return _Size(1 + size.nodes, 0, 1)
        return self._of_named(kind, schema)

    def _of_name(self, name: str) -> _Size:
        if name in _PRIMITIVES:
            return _Size(1, int(name == "null"), _LEAST_BYTES.get(name, 1))
        if name in self.open_names:
            raise UnsafeSchemaError(f"The schema is recursive: {name} holds itself.")
        return self.named[name]

    def _of_named(self, kind: str, schema: Mapping[str, Any]) -> _Size:
        name = schema["name"]
        size = _Size(1, 0, 1)
        if kind == "fixed":
            if not isinstance(schema["size"], int) or schema["size"] < 0:
                raise UnsafeSchemaError(f"The schema has a fixed type {name} without a size.")
            size = _Size(1, int(schema["size"] == 0), schema["size"])
        elif kind == "record":
            self.open_names.add(name)
            parts = [self.of(part["type"]) for part in schema["fields"]]
            self.open_names.discard(name)
            free_parts = sum(part.free_parts for part in parts) if parts else 1
            size = _Size(1 + sum(part.nodes for part in parts), free_parts, sum(part.least_bytes for part in parts))
        self.named[name] = size
        return size
