"""Reading the lake back: how many rows, of which offsets, and the raw rows of a stretch of one partition's log.

A table that was never written reads as empty.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from schemas.event import Event, Record
from sinks.lake_root import Lake
from sinks.rows import RawRow
from sinks.tables import EVENT_COLUMNS, LAKE_TABLES, RAW_EVENTS, LakeTable, application_id

if TYPE_CHECKING:
    from deltalake import DeltaTable

ROWS_AT_ONCE: Final = 65_536

_LOG_COLUMNS: Final = ("log_epoch", "topic", "partition")
_RECORD_COLUMNS: Final = ("offset", "append_time_ms", "key", "value")


class Stretch(NamedTuple):
    """A stretch of one partition's log: `first_offset` is in it, `end_offset` is not.

    Attributes:
        log_epoch: what the offsets are relative to.
    """

    log_epoch: str
    topic: str
    partition: int
    first_offset: int = 0
    end_offset: int = 2**63 - 1


class PartitionLog(NamedTuple):
    """The log of one partition.

    Attributes:
        log_epoch: topic id and partition count; only rows of this epoch are meant.
    """

    log_epoch: str
    topic: str
    partition: int

    @property
    def topic_id(self) -> str:
        """The broker's id of the topic."""
        return self.log_epoch.rpartition(":")[0]


class PartitionRows(NamedTuple):
    """What a table holds of one partition.

    Attributes:
        first_offset: smallest offset; the record's, also where the table keeps a version.
        last_offset: greatest offset.
    """

    log_epoch: str
    topic: str
    partition: int
    row_count: int
    first_offset: int
    last_offset: int


def table_counts(lake: Lake) -> dict[str, int]:
    """Count the rows of each table, from its log alone.

    Args:
        lake: folder of the lake.

    Raises:
        LakeUnavailableError: a table cannot be read.
    """
    counts = {}
    for name, table in LAKE_TABLES.items():
        handle = _opened(lake, table)
        counts[name] = 0 if handle is None else handle.count()
    return counts


def partition_rows(lake: Lake, table: LakeTable) -> list[PartitionRows]:
    """Count the rows of each partition, in the order of epoch, topic and partition; reads four columns in a stream.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    from pyarrow import acero

    handle = _opened(lake, table)
    if handle is None:
        return []
    position = table.position
    scan = acero.ScanNodeOptions(handle.to_pyarrow_dataset(), columns=[*_LOG_COLUMNS, position])
    sums = [(position, f"hash_{name}", None, name) for name in ("count", "min", "max")]
    found = acero.Declaration.from_sequence(
        [
            acero.Declaration("scan", scan),
            acero.Declaration("aggregate", acero.AggregateNodeOptions(sums, keys=list(_LOG_COLUMNS))),
        ]
    )
    with _explained(lake, table):
        rows = found.to_table().to_pylist()
    base = table.position_base
    return sorted(
        PartitionRows(
            row["log_epoch"], row["topic"], row["partition"], row["count"], row["min"] - base, row["max"] - base
        )
        for row in rows
    )


def offsets(lake: Lake, table: LakeTable) -> dict[tuple[str, int], list[int]]:
    """Return every offset that a table holds, per topic and partition, ascending; one that is there twice comes twice.

    For a check after the fact: 40 bytes of memory per row.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    handle = _opened(lake, table)
    found: dict[tuple[str, int], list[int]] = {}
    if handle is None:
        return found
    with _explained(lake, table):
        for batch in handle.to_pyarrow_dataset().to_batches(columns=["topic", "partition", table.position]):
            topics, partitions, positions = (column.to_pylist() for column in batch.columns)
            for topic, partition, position in zip(topics, partitions, positions, strict=True):
                found.setdefault((topic, partition), []).append(position - table.position_base)
    return {key: sorted(values) for key, values in sorted(found.items())}


def held_offset(lake: Lake, table: LakeTable, topic_id: str, partition: int) -> int | None:
    """Return the last offset of a partition up to which a table is complete; None when it holds nothing of it.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    handle = _opened(lake, table)
    return None if handle is None else handle.transaction_version(application_id(topic_id, partition, table))


def read_raw_tables(lake: Lake, stretch: Stretch, *, rows_at_once: int = ROWS_AT_ONCE) -> Iterator[Any]:
    """Read the raw rows of a stretch as Arrow tables of the table's columns, in log order.

    Holds `rows_at_once` rows and every offset of the stretch in memory. What is appended meanwhile is not read.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    from pyarrow import compute as pc

    handle = _opened(lake, RAW_EVENTS)
    if handle is None:
        return
    dataset = handle.to_pyarrow_dataset(
        file_pruning_predicate=[
            ("topic", "=", stretch.topic),
            ("partition", "=", stretch.partition),
            ("offset", ">=", stretch.first_offset),
            ("offset", "<", stretch.end_offset),
        ]
    )
    offset = pc.field("offset")
    inside = (pc.field("log_epoch") == stretch.log_epoch) & (pc.field("topic") == stretch.topic)
    inside &= pc.field("partition") == stretch.partition
    wanted = inside & (offset >= stretch.first_offset) & (offset < stretch.end_offset)
    with _explained(lake, RAW_EVENTS):
        held = dataset.to_table(columns=["offset"], filter=wanted).column("offset")
        cuts = held.take(pc.sort_indices(held))[::rows_at_once].to_pylist()
        for first, end in pairwise([*cuts, stretch.end_offset]):
            yield dataset.to_table(filter=inside & (offset >= first) & (offset < end)).sort_by("offset")


def read_raw(lake: Lake, stretch: Stretch, *, rows_at_once: int = ROWS_AT_ONCE) -> Iterator[RawRow]:
    """Read the raw rows of a stretch as they were written, in log order.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    event_fields = [column.name for column in EVENT_COLUMNS]
    for table in read_raw_tables(lake, stretch, rows_at_once=rows_at_once):
        records = zip(*(table.column(name).to_pylist() for name in _RECORD_COLUMNS), strict=True)
        events = zip(*(table.column(name).to_pylist() for name in event_fields), strict=True)
        schema_ids, ingested = (table.column(name).to_pylist() for name in ("schema_id", "ingest_time_ms"))
        for record, event, schema_id, ingest_time_ms in zip(records, events, schema_ids, ingested, strict=True):
            yield RawRow(
                Record(stretch.topic, stretch.partition, *record),
                Event(**dict(zip(event_fields, event, strict=True))),
                schema_id,
                ingest_time_ms,
            )


def _opened(lake: Lake, table: LakeTable) -> "DeltaTable | None":
    from sinks.delta import opened  # it imports the Delta library, which a command may never need

    return opened(lake / table.name)


def _explained(lake: Lake, table: LakeTable) -> AbstractContextManager[None]:
    from sinks.delta import explained

    return explained(lake / table.name)
