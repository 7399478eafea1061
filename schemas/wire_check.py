"""A strict walk over an Avro body, to say where and how it is broken.

It is slow and complete where fastavro is fast and lenient (fastavro takes branch -1 of a union for its last one), so it
runs only for bodies that fastavro refused, or that hold a byte which such a branch would need, or that are so long that
they could hold more values than one record may have.
"""

from collections.abc import Mapping
from typing import Any, Final

VALUES_MAX: Final = 10_000  # after so many the walk gives up without a finding: time is bounded, whatever the schema

_FIXED_SIZES: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


def first_break(schema: Mapping[str, Any], body: bytes) -> str | None:
    """Return in words what is broken first in a body, with the name of its field; None if nothing was found.

    Args:
        schema: wire form of a record (`schemas.loading.LoadedSchema.wire`).
        body: the Avro body without its frame; what follows it is not looked at.
    """
    try:
        return check(schema, body, VALUES_MAX)
    except TooManyValuesError:
        return None


def check(schema: Mapping[str, Any], body: bytes, values_max: int) -> str | None:
    """Do what `first_break` does, up to the end of the record.

    Raises:
        TooManyValuesError: the body holds more values, items of arrays and maps included, before anything is broken.
    """
    walk = _Walk(body, values_max)
    try:
        walk.value(schema)
    except _BrokenBodyError as broken:
        return f"{'.'.join(walk.path) or 'the record'}: {broken}"
    return None


class _BrokenBodyError(Exception):
    """The body breaks Avro's rules here."""


class TooManyValuesError(Exception):
    """The walk has gone on for long enough."""


class _Walk:
    def __init__(self, body: bytes, values_max: int) -> None:
        self.path: list[str] = []
        self._body = body
        self._at = 0
        self._left = values_max
        self._named: dict[str, Mapping[str, Any]] = {}

    def value(self, schema: Any) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooManyValuesError
        if isinstance(schema, list):
            self.value(schema[self._index(len(schema), "branch")])
        elif isinstance(schema, str):
            self._simple(schema)
        else:
            self._complex(schema)

    def _complex(self, schema: Mapping[str, Any]) -> None:
        kind = schema["type"]
        if "name" in schema:
            self._named[schema["name"]] = schema
        if kind == "record":
            for part in schema["fields"]:
                self.path.append(part["name"])
                self.value(part["type"])
                self.path.pop()
        elif kind == "array":
            self._blocks(schema["items"], keyed=False)
        elif kind == "map":
            self._blocks(schema["values"], keyed=True)
        elif kind == "enum":
            self._index(len(schema["symbols"]), "symbol")
        elif kind == "fixed":
            self._take(schema["size"])
        else:
            self.value(kind)

    def _simple(self, name: str) -> None:
        if name in ("int", "long"):
            self._number()  # an int beyond 32 bits is for the rules, which know what its field may hold
        elif name == "string":
            try:
                self._take(self._length()).decode()
            except UnicodeDecodeError as error:
                raise _BrokenBodyError("its text is not UTF-8") from error
        elif name == "bytes":
            self._take(self._length())
        elif name in _FIXED_SIZES:
            self._take(_FIXED_SIZES[name])
        else:
            self.value(self._named[name])

    def _blocks(self, items: Any, *, keyed: bool) -> None:
        while count := self._number():
            if count < 0:
                self._number()  # the block's size in bytes
            for _ in range(abs(count)):
                if keyed:
                    self._simple("string")
                self.value(items)

    def _index(self, count: int, what: str) -> int:
        index = self._number()
        if not 0 <= index < count:
            raise _BrokenBodyError(f"{what} {index} of {count}")
        return index

    def _length(self) -> int:
        length = self._number()
        if length < 0:
            raise _BrokenBodyError(f"a length of {length}")
        return length

    def _number(self) -> int:
        raw = shift = 0
        while True:
            byte = self._take(1)[0]
            raw |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= 70:
                raise _BrokenBodyError("a number of more than 10 bytes")
        return (raw >> 1) ^ -(raw & 1)

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._body):
            raise _BrokenBodyError(f"{count} bytes are announced and {len(self._body) - self._at} are left")
        taken = self._body[self._at : end]
        self._at = end
        return taken
