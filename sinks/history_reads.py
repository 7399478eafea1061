"""Reading `feature_history` back: which definition versions it holds, and the rows of two of them side by side."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from sinks.delta import explained, opened
from sinks.derived_tables import FEATURE_HISTORY
from sinks.feature_history import held_rows
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake

OFFSETS_AT_ONCE: Final = 50_000

_LOG: Final = ("log_epoch", "topic", "partition")


class LogRows(NamedTuple):
    """What the table holds of a version in one partition."""

    log: PartitionLog
    first_offset: int
    last_offset: int


class SideBySide(NamedTuple):
    """Rows of two versions for the same events: the nth of one is for the event of the nth of the other.

    Attributes:
        here, there: Arrow tables; a column that the table does not have is null.
        here_count, there_count: rows of each version in this stretch, those without a counterpart included.
    """

    log: PartitionLog
    here: Any
    there: Any
    here_count: int
    there_count: int


def held_versions(lake: Lake) -> dict[int, int]:
    """Return the definition versions that `feature_history` holds, ascending, and how many rows of each.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    counts: dict[int, int] = {}
    for batch in _batches(lake, ["definition_version"], None):
        for found in pc.value_counts(batch.column("definition_version")).to_pylist():
            counts[found["values"]] = counts.get(found["values"], 0) + found["counts"]
    return dict(sorted(counts.items()))


def held_users(lake: Lake, version: int) -> set[str]:
    """Return the users of whom the table holds rows of a version.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    users: set[str] = set()
    for batch in _batches(lake, ["user_id"], version):
        users.update(batch.column("user_id").unique().to_pylist())
    return users


def held_logs(lake: Lake, versions: Collection[int]) -> list[LogRows]:
    """Return the partitions that the table holds rows of, and from where to where, over these versions.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    found: dict[PartitionLog, LogRows] = {}
    for version in versions:
        for batch in _batches(lake, [*_LOG, "offset"], version):
            sums = pa.Table.from_batches([batch]).group_by(list(_LOG)).aggregate([("offset", "min"), ("offset", "max")])
            for row in sums.to_pylist():
                log = PartitionLog(row["log_epoch"], row["topic"], row["partition"])
                known = found.get(log, LogRows(log, row["offset_min"], row["offset_max"]))
                first, last = min(known.first_offset, row["offset_min"]), max(known.last_offset, row["offset_max"])
                found[log] = LogRows(log, first, last)
    return [found[log] for log in sorted(found)]


def side_by_side(
    lake: Lake, here: int, there: int, columns: Sequence[str], *, users: Collection[str] | None = None
) -> Iterator[SideBySide]:
    """Yield the rows of two versions for the same events, a stretch of a partition's log at a time.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    path = lake / FEATURE_HISTORY.name
    handle = opened(path)
    if handle is None:
        return
    for log, first_offset, last_offset in held_logs(lake, (here, there)):
        for first in range(first_offset, last_offset + 1, OFFSETS_AT_ONCE):
            with explained(path):
                mine, other = (
                    _stretch(handle, version, log, first, columns, users, last_offset) for version in (here, there)
                )
            both = pc.is_in(mine.column("offset"), other.column("offset"))
            mirrored = pc.is_in(other.column("offset"), mine.column("offset"))
            yield SideBySide(log, mine.filter(both), other.filter(mirrored), mine.num_rows, other.num_rows)


def _stretch(
    handle: DeltaTable,
    version: int,
    log: PartitionLog,
    first: int,
    columns: Sequence[str],
    users: Collection[str] | None,
    last_offset: int,
) -> Any:
    held = {field.name for field in handle.schema().fields}
    wanted = [name for name in dict.fromkeys(("offset", "user_id", *columns)) if name in held]
    also = None if users is None else pc.field("user_id").isin(pa.array(sorted(users), pa.string()))
    end = min(last_offset + 1, first + OFFSETS_AT_ONCE)
    rows = held_rows(handle, version, log, first, end, columns=wanted, also=also).sort_by("offset")
    for name in columns:
        if name not in held:
            rows = rows.append_column(name, pa.nulls(rows.num_rows))
    return rows


def _batches(lake: Lake, columns: list[str], version: int | None) -> Iterator[Any]:
    path = lake / FEATURE_HISTORY.name
    handle = opened(path)
    if handle is None:
        return
    pruning = None if version is None else [("definition_version", "=", version)]
    wanted = None if version is None else pc.field("definition_version") == version
    with explained(path):
        dataset = handle.to_pyarrow_dataset(file_pruning_predicate=pruning)
        for batch in dataset.to_batches(columns=columns, filter=wanted):
            if batch.num_rows:
                yield batch
