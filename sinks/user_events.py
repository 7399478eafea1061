"""Reading the events of a partition's users back from the lake: few columns, some users or all."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from schemas.event import Event
from sinks.lake_reads import PartitionLog, held_offset
from sinks.lake_root import Lake
from sinks.tables import DEAD_LETTERS, EVENT_COLUMNS, RAW_EVENTS

OFFSETS_AT_ONCE: Final = 131_072
ROWS_AT_ONCE: Final = 65_536

_FIRST_LOOK_MS: Final = 60_000
_NO_END_MS: Final = 2**62

_EVENT_FIELDS: Final = [column.name for column in EVENT_COLUMNS]
_COLUMNS: Final = ["offset", *_EVENT_FIELDS]


class LakeReach(NamedTuple):
    """From where to where the lake holds a partition.

    Attributes:
        first_offset: smallest offset among raw events and dead letters.
        first_append_ms: when that record was appended, integer milliseconds UTC.
    """

    first_offset: int
    first_append_ms: int


def lake_position(lake: Lake, log: PartitionLog) -> int:
    """Return the offset below which the lake holds every record of the partition; 0 when it holds none.

    Raises:
        LakeUnavailableError: a table cannot be read.
    """
    # a flush of letters alone leaves no mark in raw_events, and raw events are written before the letters
    held = [held_offset(lake, table, log.topic_id, log.partition) for table in (DEAD_LETTERS, RAW_EVENTS)]
    return 1 + max(-1 if offset is None else offset for offset in held)


def lake_reach(lake: Lake, log: PartitionLog) -> LakeReach | None:
    """Return where the lake's part of the partition begins; None when it holds nothing of it.

    Raises:
        LakeUnavailableError: a table cannot be read.
    """
    return first_record(lake, log)


def first_record(lake: Lake, log: PartitionLog, from_ms: int = 0) -> LakeReach | None:
    """Return the first record of a partition that was appended at an instant or later; None when there is none.

    Reads little more than the minutes in which it was appended: the append times of a log do not go back.

    Raises:
        LakeUnavailableError: a table cannot be read.
    """
    found = [_first_record(lake, table.name, log, from_ms) for table in (RAW_EVENTS, DEAD_LETTERS)]
    return min((reach for reach in found if reach is not None), default=None)


def _first_record(lake: Lake, table: str, log: PartitionLog, from_ms: int) -> LakeReach | None:
    from pyarrow import compute as pc

    from sinks.delta import opened

    handle = opened(lake / table)
    if handle is None:
        return None
    oldest_ms, newest_ms = _append_times(handle)
    begin_ms, length_ms = max(oldest_ms, from_ms), _FIRST_LOOK_MS
    while begin_ms <= newest_ms:
        found: list[LakeReach] = []
        period = (begin_ms, begin_ms + length_ms)
        for batch in _batches(lake, table, log, ["offset", "append_time_ms"], period=period):
            offset = pc.min(batch.column("offset"))
            place = pc.index(batch.column("offset"), offset).as_py()
            found.append(LakeReach(offset.as_py(), batch.column("append_time_ms")[place].as_py()))
        if found:
            return min(found)
        begin_ms, length_ms = period[1], length_ms * 10
    return None


def _append_times(handle: Any) -> tuple[int, int]:
    """Return the oldest and the newest append time of a table, from the statistics of its files."""
    import pyarrow as pa
    from pyarrow import compute as pc

    files = pa.table(handle.get_add_actions(flatten=True))
    names = ("min.append_time_ms", "max.append_time_ms")
    if any(name not in files.column_names or files.column(name).null_count for name in names):
        return 0, _NO_END_MS  # files of another writer: they may hold anything
    oldest_ms, newest_ms = pc.min(files.column(names[0])).as_py(), pc.max(files.column(names[1])).as_py()
    return (1, 0) if oldest_ms is None else (oldest_ms, newest_ms)


def event_counts(lake: Lake, log: PartitionLog, *, users: Collection[str] | None = None) -> Counter[str]:
    """Count the events of each user.

    Args:
        users: whose; None for all.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    from pyarrow import compute as pc

    counts: Counter[str] = Counter()
    for batch in _batches(lake, RAW_EVENTS.name, log, ["user_id"], users=users):
        for found in pc.value_counts(batch.column("user_id")).to_pylist():
            counts[found["values"]] += found["counts"]
    return counts


def events_in_log_order(
    lake: Lake, log: PartitionLog, first_offset: int, end_offset: int
) -> Iterator[list[tuple[int, Event]]]:
    """Yield the events of all users from `first_offset` to before `end_offset`, a piece of the log at a time.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    for first in range(first_offset, end_offset, OFFSETS_AT_ONCE):
        stretch = (first, min(end_offset, first + OFFSETS_AT_ONCE))
        for rows in _sorted_rows(lake, log, stretch, None, ["offset"]):
            yield from _events(rows)


def events_in_time_order(
    lake: Lake, log: PartitionLog, end_offset: int, *, users: Collection[str]
) -> Iterator[list[tuple[int, Event]]]:
    """Yield the events of some users before `end_offset` by (event time, offset); all are held in memory, as Arrow.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    for rows in _sorted_rows(lake, log, (0, end_offset), users, ["event_time_ms", "offset"]):
        yield from _events(rows)


def _sorted_rows(
    lake: Lake, log: PartitionLog, stretch: tuple[int, int], users: Collection[str] | None, by: list[str]
) -> Iterator[Any]:
    import pyarrow as pa

    batches = [batch for batch in _batches(lake, RAW_EVENTS.name, log, _COLUMNS, stretch, users) if batch.num_rows]
    if batches:
        yield pa.Table.from_batches(batches).sort_by([(name, "ascending") for name in by])


def _events(rows: Any) -> Iterator[list[tuple[int, Event]]]:
    for first in range(0, rows.num_rows, ROWS_AT_ONCE):
        columns = [rows.column(name).slice(first, ROWS_AT_ONCE).to_pylist() for name in _COLUMNS]
        yield [
            (offset, Event(**dict(zip(_EVENT_FIELDS, event, strict=True))))
            for offset, *event in zip(*columns, strict=True)
        ]


def _batches(
    lake: Lake,
    table: str,
    log: PartitionLog,
    columns: list[str],
    stretch: tuple[int, int] | None = None,
    users: Collection[str] | None = None,
    period: tuple[int, int] | None = None,
) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import compute as pc

    from sinks.delta import explained, opened  # it imports the Delta library, which a command may never need

    handle = opened(lake / table)
    if handle is None:
        return
    wanted = pc.field("log_epoch") == log.log_epoch
    wanted &= (pc.field("topic") == log.topic) & (pc.field("partition") == log.partition)
    pruning: list[tuple[str, str, Any]] = [("topic", "=", log.topic), ("partition", "=", log.partition)]
    if stretch is not None:
        first, end = stretch
        wanted &= (pc.field("offset") >= first) & (pc.field("offset") < end)
        pruning += [("offset", ">=", first), ("offset", "<", end)]
    if period is not None:
        begin_ms, end_ms = period
        wanted &= (pc.field("append_time_ms") >= begin_ms) & (pc.field("append_time_ms") < end_ms)
        pruning += [("append_time_ms", ">=", begin_ms), ("append_time_ms", "<", end_ms)]
    if users is not None:
        wanted &= pc.field("user_id").isin(pa.array(sorted(users), pa.string()))
    with explained(lake / table):
        dataset = handle.to_pyarrow_dataset(file_pruning_predicate=pruning)
        for batch in dataset.to_batches(columns=columns, filter=wanted):
            if batch.num_rows:
                yield batch
