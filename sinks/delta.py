"""The lake's tables as Delta tables: opened, created, appended to through delta-rs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import ColumnProperties, CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from sinks import exact_append
from sinks.errors import LakeMismatchError, LakePinnedError, LakeUnavailableError
from sinks.exact_append import HANDLE_COMMITS_MAX, ExactAppender, TablePart, first_lines
from sinks.lake_root import Lake, RootedTable, TableAddress, writable
from sinks.rows import TableCounts
from sinks.table_files import library_arguments
from sinks.tables import ColumnType, LakeTable, arrow_schema
from sinks.time_travel import open_pinned

__all__ = [
    "CHECKPOINT_COMMITS",
    "HANDLE_COMMITS_MAX",
    "DeltaAppender",
    "TablePart",
    "explained",
    "open_or_create",
    "opened",
    "writer_properties",
]

CHECKPOINT_COMMITS: Final = 50
# Each commit lists the log: 6 ms for 1,000 of its files.
LOG_RETENTION: Final = "interval 1 hours"

_READ_HINT: Final = "Restore this folder from a copy, or move it away: the worker then begins an empty table."


class DeltaAppender:
    """Appends to one table of the lake, which is created when it is not there. Threads may share it.

    Args:
        root: the lake.

    Raises:
        LakePinnedError: the lake is read as of an earlier moment.
    """

    def __init__(self, root: Lake, table: LakeTable) -> None:
        path = writable(root) / table.name
        properties = writer_properties(table)
        self._exact = ExactAppender(path, table, lambda: _DeltaHandle(open_or_create(path, table), table, properties))

    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        """Append the rows that the table does not hold yet: see `ExactAppender.append`.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        """
        return self._exact.append(parts)


class _DeltaHandle:
    """Implements `sinks.exact_append.TableHandle` with delta-rs, which refuses a commit on a stale snapshot."""

    def __init__(self, handle: DeltaTable, table: LakeTable, properties: WriterProperties) -> None:
        self._handle = handle
        self._table = table
        self._properties = properties
        declared = {column.name for column in table.columns}
        self._later = [field for field in pa.schema(handle.schema()) if field.name not in declared]

    def last_offset(self, app_id: str) -> int | None:
        return self._handle.transaction_version(app_id)

    def commit(self, rows: Any, last_offsets: Mapping[str, int]) -> None:
        for field in self._later:  # delta-rs refuses rows that lack a column, though it may be null
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        transactions = [Transaction(app_id, offset) for app_id, offset in last_offsets.items()]
        write_deltalake(
            self._handle,
            rows,
            mode="append",
            writer_properties=self._properties,
            commit_properties=CommitProperties(app_transactions=transactions),
        )

    def held_positions(self, rows: Any) -> Any:
        name = self._table.position
        first, last = pc.min_max(rows.column(name)).as_py().values()
        epoch, topic, partition = (rows.column(column)[0].as_py() for column in ("log_epoch", "topic", "partition"))
        # without the pruning every file of the table costs 0.7 ms, though none is opened
        files = self._handle.to_pyarrow_dataset(
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


def opened(path: TableAddress) -> DeltaTable | None:
    """Open a table at its newest version, or at the one that its address is pinned to; None when there is none.

    Raises:
        LakeVersionError: it is pinned to a version that is not there, or cannot be read any more.
        LakeUnavailableError: what is there cannot be read.
    """
    try:
        if isinstance(path, RootedTable) and path.pin is not None:
            return open_pinned(path)
        return DeltaTable(**library_arguments(path))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise LakeUnavailableError(path, first_lines(error), hint=_READ_HINT) from error


def open_or_create(path: TableAddress, table: LakeTable) -> DeltaTable:
    """Open a table to write to it, or create it.

    Raises:
        LakePinnedError: it is read as of an earlier moment.
        LakeUnavailableError: what is there cannot be read, or has other columns.
        CommitFailedError: somebody else created it at this moment.
        DeltaError, OSError: it cannot be created.
    """
    if isinstance(path, RootedTable) and path.pin is not None:
        raise LakePinnedError(str(path), f"{path.name} at {path.pin}")
    handle = opened(path)
    if handle is None:
        handle = DeltaTable.create(
            **library_arguments(path),
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
    declared = {column.name: column.type.value for column in table.columns}
    found = {column.name: str(getattr(column.type, "type", column.type)) for column in handle.schema().fields}
    # a nullable column that we do not know was added by a later release, which must run beside this one for a while
    later = {column.name for column in handle.schema().fields if column.nullable and column.name not in declared}
    differing = {name for name in declared.keys() | found.keys() if declared.get(name) != found.get(name)} - later
    if differing:
        raise LakeMismatchError(
            path,
            f"its columns differ from those of this release in {', '.join(sorted(differing))}",
            hint="Another release wrote it: use that one, or set lake.path to a new folder.",
        )
    return handle


@contextmanager
def explained(path: TableAddress, hint: str = _READ_HINT) -> Iterator[None]:
    """Turn what the system or a library raises about the table at `path` into LakeUnavailableError."""
    with exact_append.explained(path, hint):
        yield


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
