"""Exact append to a Delta table: a row that is there already is not written again, whoever tries, however often.

delta-rs keeps the transaction versions of a commit but does not compare them, so the comparison is made here:

1. read, from the snapshot of the handle, the last offset that the table holds for each application id;
2. drop the rows at or below it; where the table fills gaps, those of them that it really holds;
3. commit the rest with the new last offsets *on that same handle*.

A commit by somebody else for one of these ids since the snapshot makes delta-rs refuse ours; then a new handle is
opened and everything is dropped and tried again. A worker that lost its partitions and does not know it is refused in
the same way, and then finds nothing left to write.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import ColumnProperties, CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from sinks.errors import LakeMismatchError, LakeUnavailableError
from sinks.rows import TableCounts
from sinks.tables import ColumnType, LakeTable, arrow_schema

CONFLICTS_MAX: Final = 8
CHECKPOINT_COMMITS: Final = 50
# A handle keeps the whole list of commits since its checkpoint and goes through it at every commit: 8 ms after 100
# commits, 200 ms after 3,000. A new one starts from the newest checkpoint.
HANDLE_COMMITS_MAX: Final = 50
LOG_RETENTION: Final = "interval 6 hours"

_WRITE_HINT: Final = (
    "Check that the disk has room and that this user may write there. Nothing was half-written: try again."
)
_READ_HINT: Final = "Restore this folder from a copy, or move it away: the worker then begins an empty table."


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
        self._writer_properties = writer_properties(table)

    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        """Append the rows that the table does not hold yet, all in one commit; no commit when there are none.

        Blocking; repeating it is harmless.

        Args:
            parts: at most one of each application id.

        Returns:
            What was written, and what was there already. Rows of a commit that succeeded though it was reported as
            failed count as there already.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        """
        parts = [part for part in parts if part.rows.num_rows]
        if not parts:
            return TableCounts()
        if len({part.app_id for part in parts}) < len(parts):
            raise ValueError("one partition comes twice in one append")
        retrying = Retrying(
            retry=retry_if_exception_type((DeltaError, OSError)),
            wait=wait_random_exponential(multiplier=0.02, max=1.0),
            stop=_is_enough,
            reraise=True,
        )
        with self._lock, explained(self._path, _WRITE_HINT):
            return retrying(self._try_append, parts)

    def _try_append(self, parts: Sequence[TablePart]) -> TableCounts:
        row_count = sum(part.rows.num_rows for part in parts)
        try:
            handle = self._current_handle()
            batches, transactions = self._missing(parts, handle)
            if not batches:
                return TableCounts(dropped=row_count)
            rows = pa.concat_tables(batches)
            write_deltalake(
                handle,
                rows,
                mode="append",
                writer_properties=self._writer_properties,
                commit_properties=CommitProperties(app_transactions=transactions),
            )
        except (DeltaError, OSError):
            self._handle = None  # its snapshot is old, or what it refers to was cleaned up
            raise
        self._handle_commits += 1
        return TableCounts(written=rows.num_rows, dropped=row_count - rows.num_rows)

    def _missing(self, parts: Sequence[TablePart], handle: DeltaTable) -> tuple[list[Any], list[Transaction]]:
        batches, transactions = [], []
        for part in parts:
            rows, last_offset = part.rows, part.last_offset
            held = handle.transaction_version(part.app_id)
            if held is not None:
                rows, last_offset = self._not_held(rows, held, handle), max(held, last_offset)
            if rows.num_rows:
                batches.append(rows)
                transactions.append(Transaction(part.app_id, last_offset))
        return batches, transactions

    def _not_held(self, rows: Any, held: int, handle: DeltaTable) -> Any:
        first_above = held + 1 + self._table.position_base
        positions = rows.column(self._table.position)
        if pc.min(positions).as_py() >= first_above:
            return rows
        is_missing = pc.greater_equal(positions, first_above)
        if self._table.fills_gaps:
            below = rows.filter(pc.invert(is_missing))
            is_missing = pc.or_(is_missing, pc.invert(pc.is_in(positions, self._held_positions(handle, below))))
        return rows.filter(is_missing)

    def _held_positions(self, handle: DeltaTable, rows: Any) -> Any:
        """Return which positions between the first and the last of these rows the table holds in its snapshot."""
        name = self._table.position
        first, last = pc.min_max(rows.column(name)).as_py().values()
        epoch, topic, partition = (rows.column(column)[0].as_py() for column in ("log_epoch", "topic", "partition"))
        # without the pruning every file of the table costs 0.7 ms, though none is opened
        files = handle.to_pyarrow_dataset(
            file_pruning_predicate=[
                ("topic", "=", topic),
                ("partition", "=", partition),
                (name, ">=", first),
                (name, "<=", last),
            ]
        )
        between = (pc.field(name) >= first) & (pc.field(name) <= last)
        same_partition = (pc.field("topic") == topic) & (pc.field("partition") == partition)
        # not the same epoch: the topic may have got more partitions since
        same_log = pc.starts_with(pc.field("log_epoch"), epoch.rpartition(":")[0] + ":")
        return files.to_table(columns=[name], filter=between & same_partition & same_log).column(name)

    def _current_handle(self) -> DeltaTable:
        if self._handle is None or self._handle_commits >= HANDLE_COMMITS_MAX:
            self._handle = open_or_create(self._path, self._table)
            self._handle_commits = 0
        return self._handle


def opened(path: Path) -> DeltaTable | None:
    """Open a table at its newest version; None when there is none.

    Raises:
        LakeUnavailableError: what is there cannot be read.
    """
    try:
        return DeltaTable(path)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise LakeUnavailableError(path, _first_lines(error), hint=_READ_HINT) from error


def open_or_create(path: Path, table: LakeTable) -> DeltaTable:
    """Open a table, or create it.

    Raises:
        LakeUnavailableError: what is there cannot be read, or has other columns.
        CommitFailedError: somebody else created it at this moment.
        DeltaError, OSError: it cannot be created.
    """
    handle = opened(path)
    if handle is None:
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
    found = {(column.name, str(getattr(column.type, "type", column.type))) for column in handle.schema().fields}
    differing = {name for name, _ in found ^ {(column.name, column.type.value) for column in table.columns}}
    if differing:
        raise LakeMismatchError(
            path,
            f"its columns differ from those of this release in {', '.join(sorted(differing))}",
            hint="Another release wrote it: use that one, or set lake.path to a new folder.",
        )
    return handle


def _is_enough(state: RetryCallState) -> bool:
    """Stop late where somebody else was first; try anything else just once more, with a new handle."""
    refused = state.outcome is not None and isinstance(state.outcome.exception(), CommitFailedError)
    return state.attempt_number >= (CONFLICTS_MAX if refused else 2)


@contextmanager
def explained(path: Path, hint: str = _READ_HINT) -> Iterator[None]:
    """Turn what the system or a library raises about the table at `path` into LakeUnavailableError."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise LakeUnavailableError(path, _first_lines(error), hint=hint) from error


def _first_lines(error: Exception) -> str:
    """Return what an error says, without the stack of the library that follows it."""
    lines = itertools.takewhile(lambda line: not line.lstrip().startswith("0: "), str(error).splitlines())
    return " ".join(line.strip() for line in lines).rstrip(".")


def writer_properties(table: LakeTable, *, max_row_group_size: int | None = None) -> WriterProperties:
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
    return WriterProperties(
        compression="ZSTD", compression_level=1, column_properties=columns, max_row_group_size=max_row_group_size
    )
