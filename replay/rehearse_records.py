"""One recorded event under a new schema: read by it, and written as a producer that uses it would.

Reading follows the aliases of the new schema as Avro does: a field takes what was written under one of its former
names, also where a field of its own name was written. Writing fills each field from the one of its name, or else of a
former name; what was never recorded has its default.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from typing import Any, Final

from fastavro import parse_schema, schemaless_writer

from replay.rehearse_units import UnitChange, stem, unit_change
from schemas.dead_letter import Reason
from schemas.event import Event
from schemas.loading import LoadedSchema, load, own_schema
from schemas.rules import Problem, value_problem

# microseconds
_TIME_SCALES: Final[Mapping[str, float]] = {"timestamp-millis": 1_000, "timestamp-micros": 1, "timestamp-nanos": 0.001}
_NUMBERS: Final = {"int", "long", "float", "double"}
_ZEROS: Final[Mapping[str, Any]] = {
    "null": None,
    "boolean": False,
    "int": 0,
    "long": 0,
    "float": 0.0,
    "double": 0.0,
    "bytes": b"",
    "string": "",
}
_ATTRIBUTES: Final = {"event_time": "event_time_ms"}
_UNWRITABLE: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)


@dataclass(frozen=True)
class NewSchema:
    """A schema that is to be rehearsed, beside the one of this release.

    Args:
        topic: whose records it is for.
        text: of the new schema, which may be loaded.
    """

    topic: str
    text: str
    own: LoadedSchema = field(init=False)
    new: LoadedSchema = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "own", load(own_schema(self.topic)))
        object.__setattr__(self, "new", load(self.text))

    @cached_property
    def old_parts(self) -> dict[str, dict[str, Any]]:
        """The fields of this release, as they are declared."""
        return {part["name"]: part for part in json.loads(own_schema(self.topic))["fields"]}

    @cached_property
    def new_parts(self) -> dict[str, dict[str, Any]]:
        """The fields of the new schema, as they are declared."""
        return {part["name"]: part for part in json.loads(self.text)["fields"]}

    @cached_property
    def stands_for(self) -> dict[str, str]:
        """Which of our fields a field of the new schema is, by the new name: of one name, or by an alias."""
        found = {name: name for name in self.new.field_names if name in self.own.field_names}
        return found | self.new.names_in(self.own)

    @cached_property
    def unit_changes(self) -> dict[str, UnitChange]:
        """Fields that count in another unit than ours, by the new name."""
        found = {}
        for name, ours in self.stands_for.items():
            change = unit_change(self.old_parts[ours], self.new_parts[name])
            if change is not None:
                found[name] = change
        return found

    @cached_property
    def optional_now(self) -> list[str]:
        """Fields that a producer had to fill and may leave to a default now, by the new name."""
        return [
            name
            for name, ours in self.stands_for.items()
            if name in self.new.defaults and ours not in self.own.defaults
        ]

    @cached_property
    def replaced(self) -> list[str]:
        """Those of `optional_now` that a new field is to take the place of, as its name tells."""
        fresh = {stem(name) for name in self.new.field_names if name not in self.stands_for}
        return [name for name in self.optional_now if stem(name) in fresh]


class Reading:
    """Reads recorded events as a system would whose own schema is the new one."""

    def __init__(self, schema: NewSchema) -> None:
        self._schema = schema
        self._by_new_name = {ours: name for name, ours in schema.stands_for.items()}
        self._claims = {alias: name for name, former in schema.new.aliases.items() for alias in former}

    def event(self, written: Mapping[str, Any]) -> Event | Problem:
        """Return the event that the new schema makes of what was written, or why there is none.

        Args:
            written: every field of the recorded value; those that are ours have our names.
        """
        read = self._resolved(written)
        if isinstance(read, Problem):
            return read
        fields: dict[str, Any] = {}
        for ours, kind in self._schema.own.field_types.items():
            name = self._by_new_name.get(ours)
            if name is None:
                if ours not in self._schema.own.defaults:
                    return Problem(Reason.MISSING_FIELD, f"the new schema has no {ours}, which is required")
                value = self._schema.own.defaults[ours]
            else:
                value = self._as_ours(name, ours, read[name])
            if not _is_of(value, kind):
                return Problem(Reason.INVALID_VALUE, f"{name or ours} is {value!r}, and {ours} is {_shown(kind)}")
            fields[_ATTRIBUTES.get(ours, ours)] = value
        for name in ("product_id", "category_id"):
            fields[name] = fields[name] or None  # as the codec does
        event = Event(**fields)
        return value_problem(self._schema.topic, event) or event

    def _resolved(self, written: Mapping[str, Any]) -> dict[str, Any] | Problem:
        named: dict[str, Any] = {self._claims.get(name, name): value for name, value in written.items()}
        read: dict[str, Any] = {}
        for name, kind in self._schema.new.field_types.items():
            if name not in named:
                if name not in self._schema.new.defaults:
                    return Problem(Reason.MISSING_FIELD, f"{name} was not written, and has no default")
                read[name] = self._schema.new.defaults[name]
            else:
                value = named[name]
                read[name] = _promoted(value, kind)
                if not _is_of(read[name], kind):
                    return Problem(Reason.INVALID_VALUE, f"{name} was written as {value!r}, and is {_shown(kind)} now")
        return read

    def _as_ours(self, name: str, ours: str, value: Any) -> Any:
        change = self._schema.unit_changes.get(name)
        if change is not None and isinstance(value, int | float) and not isinstance(value, bool):
            return _like(change.to_old(value), value)
        scale = _time_scale(self._schema, name, ours)
        return _like(value * scale, value) if scale != 1 and isinstance(value, int) else value


class Writing:
    """Writes recorded events as a producer that uses the new schema would."""

    def __init__(self, schema: NewSchema, *, left_out: Sequence[str] = ()) -> None:
        """Fix how each field is filled.

        Args:
            left_out: fields that the producer leaves to their defaults.
        """
        self._schema = schema
        self._left_out = frozenset(left_out)
        self._wire = parse_schema(schema.new.wire)

    def body(self, written: Mapping[str, Any]) -> bytes | Problem:
        """Return the Avro body, or why no such record can be written."""
        record = {name: self._value(name, kind, written) for name, kind in self._schema.new.field_types.items()}
        out = BytesIO()
        try:
            schemaless_writer(out, self._wire, record)
        except _UNWRITABLE as error:
            return Problem(Reason.INVALID_VALUE, f"a record of the new schema cannot hold what was recorded: {error}")
        return out.getvalue()

    def _value(self, name: str, kind: Any, written: Mapping[str, Any]) -> Any:
        schema = self._schema
        sources = [name, *schema.new.aliases.get(name, ())]
        source = next((each for each in sources if each in written), None)
        if source is None or name in self._left_out:
            return schema.new.defaults[name] if name in schema.new.defaults else _zero(kind)
        value = written[source]
        change = schema.unit_changes.get(name)
        if change is not None and isinstance(value, int | float) and not isinstance(value, bool):
            value = change.to_new(value)
        ours = schema.stands_for.get(name)
        if ours is not None and isinstance(value, int):
            scale = _time_scale(schema, name, ours)
            value = value if scale == 1 else round(value / scale)
        return _fitted(value, kind)


def _time_scale(schema: NewSchema, name: str, ours: str) -> float:
    """Return by what a time of the new schema is multiplied to be one of ours."""
    before = _TIME_SCALES.get(schema.own.logical_types.get(ours, ""))
    after = _TIME_SCALES.get(schema.new.logical_types.get(name, ""))
    return after / before if before and after else 1


def _like(number: float, value: Any) -> Any:
    return round(number) if isinstance(value, int) else number


def _branches(kind: Any) -> list[Any]:
    return kind if isinstance(kind, list) else [kind]


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else str(kind["type"])


def _promoted(value: Any, kind: Any) -> Any:
    """Return a value as Avro's promotions make it: an integer where a float is wanted, text for bytes and back."""
    names = {_name(branch) for branch in _branches(kind)}
    if isinstance(value, int) and not isinstance(value, bool) and not names & {"int", "long"} and names & _NUMBERS:
        return float(value)
    if isinstance(value, str) and "string" not in names and "bytes" in names:
        return value.encode()
    if isinstance(value, bytes) and "bytes" not in names and "string" in names:
        return value.decode(errors="replace")
    return value


def _fitted(value: Any, kind: Any) -> Any:
    """Return a value as a producer would write it that has to: rounded, as text, or empty where null is not allowed."""
    names = [_name(branch) for branch in _branches(kind)]
    if value is None:
        return None if "null" in names else _zero(kind)
    if _is_of(value, kind):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if {"int", "long"}.intersection(names):
            return round(value)
        if {"float", "double"}.intersection(names):
            return float(value)
    if "string" in names:
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    if "bytes" in names:
        return str(value).encode()
    return value


def _zero(kind: Any) -> Any:
    first = _branches(kind)[0]
    name = _name(first)
    if name in _ZEROS:
        return _ZEROS[name]
    if name == "array":
        return []
    if name == "enum":
        return first["symbols"][0]
    if name == "fixed":
        return b"\0" * first["size"]
    if name == "record":
        return {part["name"]: _zero(part["type"]) for part in first["fields"]}
    return {}


def _is_of(value: Any, kind: Any) -> bool:
    names = {_name(branch) for branch in _branches(kind)}
    if value is None:
        return "null" in names
    if isinstance(value, bool):
        return "boolean" in names
    if isinstance(value, int):
        return not {"int", "long"}.isdisjoint(names)
    if isinstance(value, float):
        return not {"float", "double"}.isdisjoint(names)
    if isinstance(value, str):
        return not {"string", "enum"}.isdisjoint(names)
    if isinstance(value, bytes):
        return not {"bytes", "fixed"}.isdisjoint(names)
    return not names <= set(_ZEROS)


def _shown(kind: Any) -> str:
    return " or ".join(_name(branch) for branch in _branches(kind))
