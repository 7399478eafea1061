"""What every source of traffic yields: an event, or something broken, and when to send it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from schemas.event import Event


class Mark(StrEnum):
    """What is special about an event, for the account of a run; the worker judges for itself."""

    PLAIN = "plain"
    DISORDERED = "disordered"
    LATE = "late"
    DUPLICATE = "duplicate"
    BROKEN = "broken"


class Defect(StrEnum):
    """What is wrong with a broken record, one for each kind of bad input that the worker must survive."""

    CORRUPT_AVRO = "corrupt_avro"
    WRONG_MAGIC = "wrong_magic"
    UNKNOWN_SCHEMA_ID = "unknown_schema_id"
    EMPTY_VALUE = "empty_value"
    NULL_VALUE = "null_value"
    OVERSIZED = "oversized"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY_USER_ID = "empty_user_id"
    NEGATIVE_QUANTITY = "negative_quantity"
    FUTURE_TIME = "future_time"
    YEAR_1970 = "year_1970"
    WRONG_KEY = "wrong_key"
    WRONG_PARTITION = "wrong_partition"
    INVALID_UTF8 = "invalid_utf8"


@dataclass(frozen=True, slots=True)
class BrokenEvent:
    """A record to be sent broken.

    Attributes:
        defect: how it is broken.
        event: the good event that it is made from.
    """

    defect: Defect
    event: Event


class TimedEvent(NamedTuple):
    """One thing to send.

    Attributes:
        send_ms: when to send it, milliseconds since the start of the run; never smaller than the one before.
        topic: one of `schemas.event.EVENT_TOPICS`.
        payload: the event, or the broken record.
        mark: what is special about it.
    """

    send_ms: int
    topic: str
    payload: Event | BrokenEvent
    mark: Mark
