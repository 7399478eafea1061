"""How Feast lays a row out in Redis: one hash per entity, in it one field per feature and one timestamp per view.

Feast builds these bytes from protobuf messages per row; here they are joined from templates, which is most of the
difference in speed. `tests/contract/test_online_store.py` holds them to what the stock store reads and writes.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import mmh3

STATE: Final = "state"
JOIN_KEY: Final = "user_id"
TRAILER_BYTES: Final = 18

_STRING_TYPE: Final = 2  # feast.protos.feast.types.Value_pb2.ValueType.STRING
_BYTES_TAG: Final = 0x0A  # field 1, length-delimited: Value.bytes_val
_SECONDS_TAG: Final = 0x08
_NANOS_TAG: Final = 0x10


@dataclass(frozen=True, slots=True)
class ViewFields:
    """The two fields of a view inside the hash of an entity."""

    state: bytes
    timestamp: bytes


def feature_field(view: str, feature: str) -> bytes:
    """Name the field of a feature: 4 bytes of murmur3 of `view:feature`."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


@lru_cache(maxsize=64)
def view_fields(view: str) -> ViewFields:
    """Name the fields of a view that holds a state."""
    return ViewFields(state=feature_field(view, STATE), timestamp=f"_ts:{view}".encode())


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """Builds the key of a user's hash and reads it back (entity key serialization, version 3)."""

    prefix: bytes
    suffix: bytes

    @classmethod
    def of(cls, project: str) -> "KeyTemplate":
        """Make the template of a project."""
        name = JOIN_KEY.encode()
        prefix = struct.pack("<III", 1, _STRING_TYPE, len(name)) + name + struct.pack("<I", _STRING_TYPE)
        return cls(prefix, project.encode())

    def key(self, user_id: str) -> bytes:
        """Return the key of a user's hash."""
        encoded = user_id.encode()
        return b"%b%b%b%b" % (self.prefix, len(encoded).to_bytes(4, "little"), encoded, self.suffix)

    @property
    def pattern(self) -> bytes:
        """A glob that matches the project's keys, and may match more: check with `owns`."""
        return self.prefix + b"*" + self.suffix

    def owns(self, key: bytes) -> bool:
        """Tell whether a key is a user's of this project, and not of one whose name only ends the same."""
        start = len(self.prefix) + 4
        length = int.from_bytes(key[len(self.prefix) : start], "little")
        return key.startswith(self.prefix) and key[start + length :] == self.suffix

    def user_of(self, key: bytes) -> str:
        """Return whose hash a key names; the key must be one that the project `owns`."""
        return key[len(self.prefix) + 4 : len(key) - len(self.suffix)].decode()


def frame_state(state: bytes) -> bytes:
    """Wrap a state as the protobuf value that Feast stores: tag, length, bytes."""
    return b"%c%b%b" % (_BYTES_TAG, _varint(len(state)), state)


def unframe_state(value: bytes) -> bytes | None:
    """Return the state inside a stored value; None if the value is not framed bytes, or too short for a trailer."""
    if not value or value[0] != _BYTES_TAG:
        return None
    length, start = _read_varint(value, 1)
    if length < TRAILER_BYTES or start + length != len(value):
        return None
    return value[start:]


def frame_timestamp(timestamp_ms: int) -> bytes:
    """Encode milliseconds since 1970 as the protobuf timestamp that Feast stores; zero fields are left out."""
    seconds, ms = divmod(timestamp_ms, 1_000)
    parts = []
    if seconds:
        parts.append(bytes((_SECONDS_TAG,)) + _varint(seconds & 0xFFFF_FFFF_FFFF_FFFF))
    if ms:
        parts.append(bytes((_NANOS_TAG,)) + _varint(ms * 1_000_000))
    return b"".join(parts)


def unframe_timestamp(value: bytes | None) -> int:
    """Return the milliseconds of a stored timestamp; 0 if there is none."""
    fields = {_SECONDS_TAG: 0, _NANOS_TAG: 0}
    at = 0
    while value and at < len(value):
        tag = value[at]
        fields[tag], at = _read_varint(value, at + 1)
    seconds = fields[_SECONDS_TAG]
    if seconds >= 1 << 63:
        seconds -= 1 << 64
    return seconds * 1_000 + fields[_NANOS_TAG] // 1_000_000


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(value: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and where it ends; a cut number reads as longer than any value."""
    number = shift = 0
    while at < len(value):
        byte = value[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
    return 1 << 63, at
