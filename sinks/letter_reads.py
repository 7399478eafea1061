"""Dead letters as the lake holds them, and which positions of the log other tables hold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any, Final, NamedTuple

import msgspec

from schemas.event import Record
from sinks.lake_root import Lake
from sinks.tables import DEAD_LETTERS, RAW_EVENTS, LakeTable

_HEAD_COLUMNS: Final = (
    "log_epoch", "topic", "partition", "offset", "append_time_ms", "value_size", "schema_id", "stage", "reason",
    "first_seen_ms",
)  # fmt: skip


class LogPosition(NamedTuple):
    """One record's place. It stays the same when its topic gets more partitions, and not when that is created again."""

    topic_id: str
    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class LetterHead(msgspec.Struct, frozen=True, gc=False):
    """What is known of a dead letter without its bytes.

    Attributes:
        append_time_ms: the broker's LogAppendTime of the record, integer milliseconds UTC.
        value_size: bytes of the record's value, None where it had none.
    """

    log_epoch: str
    topic: str
    partition: int
    offset: int
    append_time_ms: int
    value_size: int | None
    schema_id: int | None
    stage: str
    reason: str
    first_seen_ms: int

    @property
    def position(self) -> LogPosition:
        """Where its record is."""
        return LogPosition(topic_id_of(self.log_epoch), self.topic, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class Letter:
    """One whole dead letter.

    Attributes:
        value: the original bytes; None where the record had none, or where they were not kept (`head.value_size`
            tells which).
    """

    head: LetterHead
    key: bytes | None
    value: bytes | None
    value_sha256: str | None
    detail: str

    def record(self) -> Record:
        """Return the record as it was read."""
        head = self.head
        return Record(head.topic, head.partition, head.offset, head.append_time_ms, self.key, self.value)


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters; None takes all.

    Attributes:
        from_ms: append time of the oldest, integer milliseconds UTC.
        to_ms: append time before which the newest lies.
    """

    reason: str | None = None
    topic: str | None = None
    partition: int | None = None
    from_ms: int | None = None
    to_ms: int | None = None


def topic_id_of(log_epoch: str) -> str:
    """Return the topic id of a log epoch, which holds the partition count besides."""
    return log_epoch.rpartition(":")[0]


def letter_heads(lake: Lake, wanted: LetterFilter) -> list[LetterHead]:
    """Return the letters of a filter without their bytes, newest append time first; memory grows with their number.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    from pyarrow import compute as pc

    from sinks.delta import explained, opened

    path = lake / DEAD_LETTERS.name
    handle = opened(path)
    if handle is None:
        return []
    equal = {"reason": wanted.reason, "topic": wanted.topic, "partition": wanted.partition}
    conditions = [pc.field(name) == value for name, value in equal.items() if value is not None]
    if wanted.from_ms is not None:
        conditions.append(pc.field("append_time_ms") >= wanted.from_ms)
    if wanted.to_ms is not None:
        conditions.append(pc.field("append_time_ms") < wanted.to_ms)
    chosen = reduce(and_, conditions) if conditions else None
    with explained(path):
        table = handle.to_pyarrow_dataset().to_table(columns=list(_HEAD_COLUMNS), filter=chosen)
    order = [
        ("append_time_ms", "descending"),
        ("topic", "ascending"),
        ("partition", "ascending"),
        ("offset", "descending"),
    ]
    columns = (column.to_pylist() for column in table.sort_by(order).columns)
    return [LetterHead(*row) for row in zip(*columns, strict=True)]


def letters(lake: Lake, heads: Sequence[LetterHead]) -> list[Letter]:
    """Return whole letters, in the order of `heads`; their bytes are all in memory at once.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    columns = ("key", "value", "value_sha256", "detail")
    rows = dict(_rows_at(lake, DEAD_LETTERS, [head.position for head in heads], columns))
    return [Letter(head, **rows[head.position]) for head in heads if head.position in rows]


def held_positions(lake: Lake, table: LakeTable, positions: Iterable[LogPosition]) -> frozenset[LogPosition]:
    """Return those of the positions that a table has a row of.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    return frozenset(position for position, _ in _rows_at(lake, table, positions, ()))


def users_at(lake: Lake, positions: Iterable[LogPosition]) -> dict[LogPosition, str]:
    """Return the user of each position that `raw_events` has a row of.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    return {position: row["user_id"] for position, row in _rows_at(lake, RAW_EVENTS, positions, ("user_id",))}


def _rows_at(
    lake: Lake, table: LakeTable, positions: Iterable[LogPosition], columns: Sequence[str]
) -> Iterator[tuple[LogPosition, dict[str, Any]]]:
    """Yield the rows at some offsets, one partition after the other."""
    from pyarrow import compute as pc

    from sinks.delta import explained, opened

    by_log: dict[tuple[str, str, int], list[int]] = {}
    for position in positions:
        by_log.setdefault(position[:3], []).append(position.offset)
    path = lake / table.name
    handle = opened(path) if by_log else None
    if handle is None:
        return
    for (topic_id, topic, partition), offsets in sorted(by_log.items()):
        files = handle.to_pyarrow_dataset(
            file_pruning_predicate=[
                ("topic", "=", topic),
                ("partition", "=", partition),
                ("offset", ">=", min(offsets)),
                ("offset", "<=", max(offsets)),
            ]
        )
        same_log = pc.starts_with(pc.field("log_epoch"), f"{topic_id}:")
        same_partition = (pc.field("topic") == topic) & (pc.field("partition") == partition)
        between = (pc.field("offset") >= min(offsets)) & (pc.field("offset") <= max(offsets))
        chosen = same_partition & between & same_log & pc.field("offset").isin(offsets)
        with explained(path):
            found = files.to_table(columns=["offset", *columns], filter=chosen).to_pylist()
        for row in found:
            yield LogPosition(topic_id, topic, partition, row.pop("offset")), row
