"""What the worker hands to the lake, and what the lake answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.dead_letter import DeadLetter
from schemas.event import Event, Record


class RawRow(NamedTuple):
    """One record that could be read.

    Attributes:
        schema_id: writer schema of the record's value.
        ingest_time_ms: when the worker decoded it, integer milliseconds UTC.
    """

    record: Record
    event: Event
    schema_id: int
    ingest_time_ms: int


class FeatureLogRow(NamedTuple):
    """One state as it was pushed to the online store.

    Attributes:
        version: last applied offset + 1, as in the trailer of `state`.
        servable_ms: when a reader could see it, integer milliseconds UTC.
    """

    user_id: str
    version: int
    state: bytes
    servable_ms: int


@dataclass(frozen=True, slots=True)
class PartitionFlush:
    """What was processed of one partition since its last flush.

    Attributes:
        topic_id: the broker's id of the topic; part of the application ids of the appends.
        log_epoch: what the offsets are relative to.
        first_offset: first offset that was processed.
        last_offset: last offset that was processed; rows above it are a mistake of the caller.
        raw: in log order.
    """

    topic: str
    topic_id: str
    log_epoch: str
    partition: int
    first_offset: int
    last_offset: int
    raw: list[RawRow] = field(default_factory=list)
    features: list[FeatureLogRow] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TableCounts:
    """What became of the rows of one flush in one table.

    Attributes:
        written: rows that this call appended.
        dropped: rows that the table held already.
    """

    written: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What one call of `LakeSink.write` did, by name of the table."""

    tables: Mapping[str, TableCounts]
