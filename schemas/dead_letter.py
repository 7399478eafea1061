"""The dead letter: what is kept of a record that never reaches a state."""

from enum import StrEnum

import msgspec


class Reason(StrEnum):
    """Why a record became a dead letter."""

    UNDECODABLE = "undecodable"
    UNKNOWN_SCHEMA = "unknown_schema"
    TOO_LARGE = "too_large"
    MISSING_FIELD = "missing_field"
    INVALID_VALUE = "invalid_value"
    FUTURE_EVENT = "future_event"
    MISROUTED = "misrouted"


class Stage(StrEnum):
    """Where in the path the record failed."""

    FRAME = "frame"
    DECODE = "decode"
    VALIDATE = "validate"


class DeadLetter(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A record that could not be applied, with its original bytes and the reason.

    Attributes:
        schema_id: writer schema id of the frame, None where the frame could not be read.
        detail: what exactly is wrong, in words, with the field's name where there is one.
        first_seen_ms: when the worker first refused it, integer milliseconds UTC.
        dropped_bytes: size of a value that is not kept (then `value` is None), because it names a user.
    """

    topic: str
    partition: int
    offset: int
    append_time_ms: int
    key: bytes | None
    value: bytes | None
    schema_id: int | None
    stage: Stage
    reason: Reason
    detail: str
    first_seen_ms: int
    dropped_bytes: int | None = None

    @property
    def value_size(self) -> int | None:
        """Bytes of the record's value, kept or not; None where there was none."""
        return self.dropped_bytes if self.value is None else len(self.value)
