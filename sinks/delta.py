"""Exact append to a Delta table: a row that is there already is not written again, whoever tries, however often.

delta-rs keeps the transaction versions of a commit but does not compare them, so the comparison is made here:

1. read, from the snapshot of the handle, the last offset that the table holds for each application id;
2. drop the rows at or below it;
3. commit the rest with the new last offsets *on that same handle*.

A commit by somebody else for one of these ids since the snapshot makes delta-rs refuse ours; then a new handle is
opened and everything is dropped and tried again. A worker that lost its partitions and does not know it is refused in
the same way, and then finds nothing left to write.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import ColumnProperties, CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sinks.errors import LakeMismatchError, LakeUnavailableError
from sinks.rows import TableCounts
from sinks.tables import ColumnType, LakeTable, arrow_schema

ATTEMPTS_MAX: Final = 8
CHECKPOINT_COMMITS: Final = 50
# A handle keeps the whole list of commits since its checkpoint and goes through it at every commit: 8 ms after 100
# commits, 200 ms after 3,000. A new one starts from the newest checkpoint.
HANDLE_COMMITS_MAX: Final = 50
LOG_RETENTION: Final = "interval 6 hours"

_HINT = "Check that the disk has room and that this user may write there; nothing was half-written, so just try again."


@dataclass(frozen=True, slots=True)
class TablePart:
    """Rows of one partition of a topic for one table.

    Attributes:
        app_id: as `sinks.tables.application_id` names it.
        last_offset: what the table will hold of the partition once these rows are in; none of them lies above it.
        rows: an Arrow table of the table's schema, in any order.
    """

    app_id: str
    last_offset: int
    rows: Any


class DeltaAppender:
    """Appends to one table of the lake, which is created when it is not there. Threads may share it.

    Args:
        root: folder of the lake.
    """

    def __init__(self, root: Path, table: LakeTable) -> None:
        self._path = root / table.name
        self._table = table
        self._lock = threading.Lock()
        self._handle: DeltaTable | None = None
        self._handle_commits = 0
        self._writer_properties = _writer_properties(table)

    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        """Append the rows that the table does not hold yet, all in one commit; no commit when there are none.

        Parts of one application id are taken in their order. Blocking; repeating it is harmless.

        Returns:
            What was written, and what was there already. Rows of a commit that succeeded though it was reported as
            failed count as there already.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        """
        parts = [part for part in parts if part.rows.num_rows]
        if not parts:
            return TableCounts()
        retrying = Retrying(
            retry=retry_if_exception_type(DeltaError),
            wait=wait_random_exponential(multiplier=0.02, max=1.0),
            stop=stop_after_attempt(ATTEMPTS_MAX),
            reraise=True,
        )
        with self._lock, explained(self._path):
            return retrying(self._try_append, parts)

    def _try_append(self, parts: Sequence[TablePart]) -> TableCounts:
        handle = self._current_handle()
        row_count = sum(part.rows.num_rows for part in parts)
        batches, transactions = self._missing(parts, handle)
        if not batches:
            return TableCounts(dropped=row_count)
        rows = pa.concat_tables(batches)
        try:
            write_deltalake(
                handle,
                rows,
                mode="append",
                writer_properties=self._writer_properties,
                commit_properties=CommitProperties(app_transactions=transactions),
            )
        except (DeltaError, OSError):
            self._handle = None  # its snapshot is old, or no longer certain
            raise
        self._handle_commits += 1
        return TableCounts(written=rows.num_rows, dropped=row_count - rows.num_rows)

    def _missing(self, parts: Sequence[TablePart], handle: DeltaTable) -> tuple[list[Any], list[Transaction]]:
        held: dict[str, int | None] = {}
        changed: dict[str, int] = {}
        batches = []
        for part in parts:
            if part.app_id not in held:
                held[part.app_id] = handle.transaction_version(part.app_id)
            rows = self._above(part.rows, held[part.app_id])
            if rows.num_rows:
                batches.append(rows)
                held[part.app_id] = changed[part.app_id] = part.last_offset
        return batches, [Transaction(app_id, version) for app_id, version in changed.items()]

    def _above(self, rows: Any, last_offset: int | None) -> Any:
        if last_offset is None:
            return rows
        first_missing = last_offset + 1 + self._table.position_base
        positions = rows.column(self._table.position)
        if pc.min(positions).as_py() >= first_missing:
            return rows
        return rows.filter(pc.greater_equal(positions, first_missing))

    def _current_handle(self) -> DeltaTable:
        if self._handle is None or self._handle_commits >= HANDLE_COMMITS_MAX:
            self._handle = open_or_create(self._path, self._table)
            self._handle_commits = 0
        return self._handle


def open_or_create(path: Path, table: LakeTable) -> DeltaTable:
    """Open a table, or create it; two processes may do so at once.

    Raises:
        LakeMismatchError: its columns are not those of this release.
        DeltaError, OSError: it cannot be read or created; a DeltaError may be somebody else's creation.
    """
    try:
        handle = DeltaTable(path)
    except TableNotFoundError:
        handle = DeltaTable.create(
            path,
            schema=arrow_schema(table),
            mode="ignore",
            partition_by=[table.partitioned_by],
            description=table.description,
            configuration={
                "delta.checkpointInterval": str(CHECKPOINT_COMMITS),
                "delta.enableExpiredLogCleanup": "true",
                "delta.logRetentionDuration": LOG_RETENTION,
                "delta.dataSkippingStatsColumns": ",".join(table.skipping_columns),
            },
        )
    found = {column.name: str(getattr(column.type, "type", column.type)) for column in handle.schema().fields}
    expected = {column.name: column.type.value for column in table.columns}
    if found != expected:
        differing = sorted(name for name, _ in found.items() ^ expected.items())
        raise LakeMismatchError(
            path,
            f"its columns differ from those of this release in {', '.join(dict.fromkeys(differing))}",
            hint="Another release wrote it: use that release, or set lake.path to a new folder and replay.",
        )
    return handle


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system or the Delta library raises about the table at `path` into LakeUnavailableError."""
    try:
        yield
    except (DeltaError, OSError) as error:
        raise LakeUnavailableError(path, " ".join(str(error).split()), hint=_HINT) from error


def _writer_properties(table: LakeTable) -> WriterProperties:
    """Compress with zstd: 40 % smaller than snappy and as fast. Keep statistics of the columns that can skip files.

    Statistics of the others would put whole values, megabytes of a dead letter, into the footer.
    """
    columns = {}
    for column in table.columns:
        is_number = column.type in {ColumnType.LONG, ColumnType.INTEGER}
        columns[column.name] = ColumnProperties(
            dictionary_enabled=not column.spread,
            statistics_enabled="CHUNK" if column.skipping else "NONE",
            encoding="DELTA_BINARY_PACKED" if column.spread and is_number else None,
        )
    return WriterProperties(compression="ZSTD", compression_level=1, column_properties=columns)
