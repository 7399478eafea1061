"""Can a schema replace the registered ones: the `avro` package's own check, in words, before anything is deployed."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from avro import schema as avro_schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException

from schemas.errors import UnsafeSchemaError
from schemas.loading import LoadedSchema, load


class Fingerprints(NamedTuple):
    """Fingerprints of a schema's parsing canonical form, as the Avro specification defines them.

    Attributes:
        crc64: CRC-64-AVRO, 16 hexadecimal digits in the byte order that single-object encoding uses (little-endian).
        sha256: SHA-256, 64 hexadecimal digits.
    """

    crc64: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One registered version that a new schema cannot read.

    Attributes:
        version: its version in the registry.
        problems: what stands in the way, in words.
    """

    version: int
    problems: tuple[str, ...]


def fingerprints(text: str) -> Fingerprints:
    """Return the fingerprints of a schema; two schemas with the same bytes on the wire and the same names share them.

    Raises:
        UnsafeSchemaError: it is not an Avro record that may be loaded.
    """
    parsed = _parsed(load(text).text())  # the avro package leaves {"type": "long"} where a logical type was
    return Fingerprints(parsed.fingerprint("CRC-64-AVRO").hex(), parsed.fingerprint("sha256").hex())


def problems_of_reading(new: str, old: str) -> list[str]:
    """Return in words why a reader with the new schema cannot read what the old one wrote; empty if it can.

    Raises:
        UnsafeSchemaError: one of them is not an Avro record that may be loaded.
    """
    reader, writer = load(new), load(old)
    if reader.name != writer.name:
        return [f"the record is named {reader.name}, and was {writer.name}"]
    same_names = _renamed(old, writer.names_in(reader))
    problems = _field_problems(new, same_names)
    found = ReaderWriterCompatibilityChecker().get_compatibility(_parsed(new), _parsed(same_names))
    if found.compatibility is not SchemaCompatibilityType.compatible and not problems:
        problems.append(", ".join(sorted(found.messages)))
    return problems + _logical_problems(reader, writer.named_as(reader))


def incompatibilities(new: str, registered: Sequence[tuple[int, str]]) -> list[Incompatibility]:
    """Check BACKWARD_TRANSITIVE: the new schema must read what every registered version wrote.

    Args:
        registered: (version, schema) of all versions of the subject.

    Raises:
        UnsafeSchemaError: one of the schemas is not an Avro record that may be loaded.
    """
    found = []
    for version, old in registered:
        problems = problems_of_reading(new, old)
        if problems:
            found.append(Incompatibility(version, tuple(problems)))
    return found


def order_problems(new: str, released: str) -> list[str]:
    """Return in words why the schema of this release cannot read what a new one writes, so that consumers go first.

    Raises:
        UnsafeSchemaError: one of them is not an Avro record that may be loaded.
    """
    return problems_of_reading(released, new)


def differences(old: str, new: str) -> list[str]:
    """Return in words what changes from one schema to the other, field by field; empty if readers see no change.

    Raises:
        UnsafeSchemaError: one of them is not an Avro record that may be loaded.
    """
    before, after = load(old), load(new)
    changes = [] if before.name == after.name else [f"the record is renamed from {before.name} to {after.name}"]
    renamed = before.names_in(after)
    changes += [f"{name} is renamed to {new_name}, which has an alias" for name, new_name in renamed.items()]
    old_fields, new_fields = _fields(_renamed(old, renamed)), _fields(new)
    changes += [
        f"{name} is removed ({_shown(old_fields[name]['type'])})" for name in old_fields if name not in new_fields
    ]
    for name, part in new_fields.items():
        if name not in old_fields:
            changes.append(f"{name} is added ({_shown(part['type'])}, {_default_words(part)})")
            continue
        was = old_fields[name]
        if was["type"] != part["type"]:
            changes.append(f"{name} changes from {_shown(was['type'])} to {_shown(part['type'])}")
        if _default_words(was) != _default_words(part):
            changes.append(f"{name} had {_default_words(was)} and has {_default_words(part)}")
        if was.get("doc") != part.get("doc"):
            changes.append(f"the documentation of {name} changes")
    kept_before = [name for name in old_fields if name in new_fields]
    kept_after = [name for name in after.field_names if name in old_fields]
    if kept_before != kept_after:
        changes.append(f"the order of the fields changes to {', '.join(after.field_names)}")
    return changes


def _field_problems(new: str, old: str) -> list[str]:
    """Ask the avro package about each field by itself, so that an answer can name it."""
    reader, writer = _parsed(new), _parsed(old)
    written = writer.fields_dict
    problems = []
    for part in reader.fields:
        source = written.get(part.name)
        if source is None:
            if not part.has_default:
                problems.append(f"{part.name} is required (it has no default), and is not in what was written")
            continue
        found = ReaderWriterCompatibilityChecker().get_compatibility(part.type, source.type)
        if found.compatibility is not SchemaCompatibilityType.compatible:
            was, now = _shown(source.type.to_json()), _shown(part.type.to_json())
            problems.append(f"{part.name} is {now}, and was {was}: {', '.join(sorted(found.messages))}")
    return problems


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a schema with other names of its fields."""
    document = json.loads(text)
    for part in document["fields"]:
        part["name"] = names.get(part["name"], part["name"])
    return json.dumps(document)


def _logical_problems(reader: LoadedSchema, writer: LoadedSchema) -> list[str]:
    """Find changed meanings: Avro's rules do not look at logical types, yet micros read as millis are another time."""
    return [
        f"{name} is {reader.logical_types.get(name, 'a plain number')}, and was {was}"
        for name, was in writer.logical_types.items()
        if name in reader.field_names and reader.logical_types.get(name) != was
    ]


def _parsed(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # avro warns of logical types that it does not know; they do not matter here
            return avro_schema.parse(text)
    except (AvroException, ValueError, RecursionError) as error:
        raise UnsafeSchemaError(f"The schema is not Avro ({error}).") from error


def _fields(text: str) -> dict[str, dict[str, Any]]:
    return {part["name"]: part for part in json.loads(text)["fields"]}


def _default_words(part: dict[str, Any]) -> str:
    return f"default {json.dumps(part['default'])}" if "default" in part else "no default"


def _shown(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    if isinstance(schema, list):
        return " or ".join(_shown(branch) for branch in schema)
    return str(schema.get("logicalType") or schema.get("name") or _shown(schema["type"]))
