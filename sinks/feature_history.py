"""Appends to `feature_history`: each event of a definition version once, whoever replays it, however often.

The table is one for all definition versions, and a version's rows are told apart by a column. So what an append drops
is decided per version: an application id is `replay-history-v<version>-<topic id>-<partition>`, and an event that lies
below the last offset of that id is written only if the table really lacks it (sinks/exact_append.py). Two replays of
one range at the same time refuse each other's commits, and then find nothing left to write.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Field, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sinks.delta import explained, open_or_create, opened, writer_properties
from sinks.derived_tables import FEATURE_HISTORY
from sinks.exact_append import CONFLICTS_MAX, ExactAppender, TablePart
from sinks.file_rewriting import swap_file, write_without
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake, local_folder, writable
from sinks.lake_table import LakeTable
from sinks.rows import TableCounts
from sinks.tables import arrow_schema

_DAY_MS: Final = 86_400_000
_FILE: Final = "__filename"


class HistoryAppender:
    """Appends the rows of one definition version to `feature_history`, which is created when it is not there.

    Columns of features that the table does not know yet are added to it.

    Args:
        table: `feature_history`, with the columns of the catalog at hand.

    Attributes:
        value_names: names of the columns that hold values, in their order.

    Raises:
        LakeUnavailableError: the table cannot be created or changed, or holds a feature of another type.
        LakePinnedError: the lake is read as of an earlier moment.
    """

    def __init__(self, lake: Lake, definition_version: int, table: LakeTable = FEATURE_HISTORY) -> None:
        path = writable(lake) / table.name
        properties = writer_properties(table)
        self._schema = arrow_schema(table)
        with explained(path, "Check that this user may write there."):
            _retrying()(self._prepare, path, table)
        self._path = path
        self._lake = lake
        self._version = definition_version
        self._table = table
        self._exact = ExactAppender(
            path, table, lambda: _HistoryHandle(open_or_create(path, table), definition_version, properties)
        )
        self.value_names = tuple(column.name for column in table.columns if column.nullable)

    def rows(self, run_id: str, log: PartitionLog, columns: Mapping[str, Any]) -> Any:
        """Return rows of one partition as Arrow.

        Args:
            columns: `user_id`, `offset`, `append_time_ms`, `event_time_ms`, `outcome`, and all `value_names`.
        """
        count = len(columns["offset"])
        constants = {
            **log._asdict(),
            "definition_version": self._version,
            "feature_count": len(self.value_names),
            "run_id": run_id,
        }
        days = [time_ms // _DAY_MS for time_ms in columns["append_time_ms"]]
        arrays = []
        for field in self._schema:
            if field.name in constants:
                arrays.append(pa.repeat(pa.scalar(constants[field.name], field.type), count))
            elif field.name == self._table.partitioned_by:
                arrays.append(pa.array(days, pa.int32()).cast(field.type))
            else:
                arrays.append(pa.array(columns[field.name], field.type))
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def append(self, rows_by_log: Mapping[PartitionLog, Any]) -> TableCounts:
        """Append the rows that the table does not hold yet, all in one commit; blocking, and harmless to repeat.

        Args:
            rows_by_log: what `rows` made, each of one partition, in any order.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        """
        return self._exact.append(
            [
                TablePart(self._application_id(log), pc.max(rows.column("offset")).as_py(), rows)
                for log, rows in rows_by_log.items()
            ]
        )

    def replace_poorer(
        self, log: PartitionLog, first_offset: int, end_offset: int, *, users: Collection[str] | None = None
    ) -> int:
        """Delete the rows of a range that a smaller catalog of this version has written: they are to come again.

        Returns:
            How many there were.

        Raises:
            LakeUnavailableError: nothing was deleted, or all was and the answer was lost.
        """
        with explained(self._path, "Nothing was half-deleted: try again."):
            count: int = _retrying()(self._delete_poorer, log, first_offset, end_offset, users)
        return count

    def _delete_poorer(
        self, log: PartitionLog, first_offset: int, end_offset: int, users: Collection[str] | None
    ) -> int:
        poorer = pc.field("feature_count") < len(self.value_names)
        if users is not None:
            poorer &= pc.field("user_id").isin(pa.array(sorted(users), pa.string()))
        handle = open_or_create(self._path, self._table)
        found = held_rows(handle, self._version, log, first_offset, end_offset, columns=["offset", _FILE], also=poorer)
        offsets: dict[str, set[int]] = {}
        for offset, file in zip(*(column.to_pylist() for column in found.columns), strict=True):
            offsets.setdefault(file, set()).add(offset)
        return sum(self._delete_from(file, log, positions) for file, positions in offsets.items())

    def _delete_from(self, file: str, log: PartitionLog, offsets: set[int]) -> int:
        """Put a file without these rows in the place of one that has them.

        The library's own deletion leaves texts of a type that readers cannot compare (deltalake 1.6).

        Raises:
            CommitFailedError: somebody else has replaced it meanwhile.
        """
        folder = local_folder(self._lake, "Replacing rows of feature_history") / self._table.name
        gone = pa.array(sorted(offsets), pa.int64())

        def is_kept(batch: Any) -> Any:
            is_other = pc.not_equal(batch.column("partition"), log.partition)
            for name, here in (
                ("definition_version", self._version),
                ("log_epoch", log.log_epoch),
                ("topic", log.topic),
            ):
                is_other = pc.or_(is_other, pc.not_equal(batch.column(name).cast(_comparable(here)), here))
            return pc.or_(is_other, pc.invert(pc.is_in(batch.column("offset"), gone)))

        written = write_without(folder / file, self._table, is_kept)
        try:
            is_swapped = swap_file(open_or_create(self._path, self._table), folder, self._table, file, written)
        except BaseException:
            (folder / file).with_name(written.name).unlink(missing_ok=True)
            raise
        if not is_swapped:
            (folder / file).with_name(written.name).unlink(missing_ok=True)
            raise CommitFailedError(f"{file} was replaced by somebody else")
        return len(offsets)

    def _application_id(self, log: PartitionLog) -> str:
        return f"replay-history-v{self._version}-{log.topic_id}-{log.partition}"

    def _prepare(self, path: Any, table: LakeTable) -> None:
        """Create the table, or add the columns of features that it does not know yet."""
        handle = opened(path)
        if handle is not None:
            held = {field.name for field in handle.schema().fields}
            missing = [field for field in self._schema if field.name not in held and field.nullable]
            if missing:
                handle.alter.add_columns([Field.from_arrow(field) for field in missing])
        open_or_create(path, table)


class _HistoryHandle:
    """Implements `sinks.exact_append.TableHandle` for the rows of one definition version."""

    def __init__(self, handle: DeltaTable, definition_version: int, properties: WriterProperties) -> None:
        self._handle = handle
        self._version = definition_version
        self._properties = properties

    def last_offset(self, app_id: str) -> int | None:
        return self._handle.transaction_version(app_id)

    def commit(self, rows: Any, last_offsets: Mapping[str, int]) -> None:
        declared = set(rows.schema.names)
        for field in pa.schema(
            self._handle.schema()
        ):  # delta-rs refuses rows that lack a column, though it may be null
            if field.name not in declared:
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        write_deltalake(
            self._handle,
            rows,
            mode="append",
            writer_properties=self._properties,
            commit_properties=CommitProperties(
                app_transactions=[Transaction(app_id, offset) for app_id, offset in last_offsets.items()]
            ),
        )

    def held_positions(self, rows: Any) -> Any:
        first, last = pc.min_max(rows.column("offset")).as_py().values()
        log = PartitionLog(*(rows.column(name)[0].as_py() for name in PartitionLog._fields))
        return held_rows(self._handle, self._version, log, first, last + 1).column("offset")


def held_rows(
    handle: DeltaTable,
    definition_version: int,
    log: PartitionLog,
    first_offset: int,
    end_offset: int,
    *,
    columns: Collection[str] = ("offset",),
    also: Any = None,
) -> Any:
    """Return some columns of a version's rows of a range, as Arrow, in any order; opens only the files that have any.

    Args:
        also: one more condition, as Arrow has it.
    """
    dataset = handle.to_pyarrow_dataset(
        file_pruning_predicate=[
            ("definition_version", "=", definition_version),
            ("topic", "=", log.topic),
            ("partition", "=", log.partition),
            ("offset", ">=", first_offset),
            ("offset", "<", end_offset),
        ]
    )
    wanted = (pc.field("definition_version") == definition_version) & (pc.field("log_epoch") == log.log_epoch)
    wanted &= (pc.field("topic") == log.topic) & (pc.field("partition") == log.partition)
    wanted &= (pc.field("offset") >= first_offset) & (pc.field("offset") < end_offset)
    return dataset.to_table(columns=list(columns), filter=wanted if also is None else wanted & also)


def _retrying() -> Retrying:
    return Retrying(
        retry=retry_if_exception_type((DeltaError, OSError)),
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        stop=stop_after_attempt(CONFLICTS_MAX),
        reraise=True,
    )


def _comparable(value: int | str) -> Any:
    return pa.int32() if isinstance(value, int) else pa.string()
