"""The lake: raw events, pushed states and dead letters of all partitions, one commit per table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final, Protocol

import pyarrow.compute as pc

from sinks.arrow_rows import BUILDERS
from sinks.delta import DeltaAppender, TablePart
from sinks.lake_root import Lake
from sinks.rows import FeatureLogRow, FlushReport, PartitionFlush, TableCounts
from sinks.tables import DEAD_LETTERS, FEATURE_LOG, LAKE_TABLES, RAW_EVENTS, LakeTable, application_id

_ROWS: Final[Mapping[str, Callable[[PartitionFlush], Sequence[Any]]]] = {
    RAW_EVENTS.name: attrgetter("raw"),
    FEATURE_LOG.name: attrgetter("features"),
    DEAD_LETTERS.name: attrgetter("letters"),
}


class Appender(Protocol):
    """Exact append to one table."""

    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        """Append the rows that the table does not hold yet.

        Raises:
            LakeUnavailableError: the table cannot be written; the call may be repeated.
        """
        ...


class LakeSink:
    """Writes flushes to `raw_events`, `feature_log` and `dead_letters`, in this order. Threads may share it.

    Each table is exact by itself, so a crash between two of them is mended when the records are delivered again.

    Args:
        root: the lake; its tables are created when they are first written.
        open_table: what appends to a table.
        feature_log_interval_ms: of the states of a flush, only a user's newest one per so long is logged; 0 for all.
    """

    def __init__(
        self,
        root: Lake,
        open_table: Callable[[Lake, LakeTable], Appender] = DeltaAppender,
        *,
        feature_log_interval_ms: int = 0,
    ) -> None:
        self._interval_ms = feature_log_interval_ms
        self._appenders = {name: open_table(root, table) for name, table in LAKE_TABLES.items()}

    def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        """Append what the tables do not hold yet; one commit per table. Blocking; repeating it is harmless.

        Args:
            flushes: at most one of each partition.

        Raises:
            LakeUnavailableError: a table cannot be written; those before it hold their rows, and the same flushes may
                be written again.
        """
        if self._interval_ms:
            flushes = [replace(flush, features=newest_of(flush.features, self._interval_ms)) for flush in flushes]
        return FlushReport(
            {
                table.name: self._appenders[table.name].append(
                    [_part(flush, table, build(flush)) for flush in flushes if _concerns(flush, table)]
                )
                for table, build in BUILDERS
            }
        )


def newest_of(rows: Sequence[FeatureLogRow], interval_ms: int) -> list[FeatureLogRow]:
    """Return, of each user and interval of `servable_ms`, the row of the greatest version, in the order of the rows."""
    newest: dict[tuple[str, int], int] = {}
    for row in rows:
        key = row.user_id, row.servable_ms // interval_ms
        newest[key] = max(row.version, newest.get(key, 0))
    return [row for row in rows if newest[row.user_id, row.servable_ms // interval_ms] == row.version]


def _concerns(flush: PartitionFlush, table: LakeTable) -> bool:
    if _ROWS[table.name](flush):
        return True
    # all of its records were of erased users: whoever waits for the lake to reach the fence must learn that it does
    return table is RAW_EVENTS and not flush.letters


def _part(flush: PartitionFlush, table: LakeTable, rows: Any) -> TablePart:
    app_id = application_id(flush.topic_id, flush.partition, table)
    if not rows.num_rows:
        return TablePart(app_id, flush.last_offset, rows)
    last_row_offset = pc.max(rows.column(table.position)).as_py() - table.position_base
    if last_row_offset > flush.last_offset:
        raise ValueError(f"a row at offset {last_row_offset} lies outside a flush up to {flush.last_offset}")
    # A halted view pushes nothing while its raw rows keep landing; its states come later, for offsets before these.
    last_offset = last_row_offset if table is FEATURE_LOG else flush.last_offset
    return TablePart(app_id, last_offset, rows)
