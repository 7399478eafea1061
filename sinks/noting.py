"""Appends rows to tables of no log, and reads them back: what was decided, a few rows at a time. Blocking."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sinks.lake_root import Lake
from sinks.lake_table import ColumnType, LakeTable
from sinks.tables import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

DAY_MS: Final = 86_400_000


def as_table(table: LakeTable, rows: Sequence[Mapping[str, Any]]) -> "pa.Table":
    """Return rows as an Arrow table of the lake table's schema.

    Args:
        rows: values by column; the date that partitions the table follows from the column of the same name in ms.
    """
    import pyarrow as pa

    day, instant = table.partitioned_by, table.partitioned_by.replace("_date", "_ms")
    days = {column.name for column in table.columns if column.type is ColumnType.DATE}
    schema = arrow_schema(table)
    arrays = [
        pa.array([row[instant] // DAY_MS for row in rows], pa.int32()).cast(field.type)
        if field.name == day and field.name in days
        else pa.array([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def note(lake: Lake, table: LakeTable, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows; the table is created when it is not there.

    Raises:
        LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        LakePinnedError: the lake is read as of an earlier moment.
    """
    from deltalake import write_deltalake

    from sinks.delta import explained, open_or_create, writer_properties
    from sinks.lake_root import writable

    address = writable(lake) / table.name
    with explained(address):
        write_deltalake(
            open_or_create(address, table),
            as_table(table, rows),
            mode="append",
            writer_properties=writer_properties(table),
        )


def noted(lake: Lake, table: LakeTable, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a table, oldest first by the time that partitions it; none where there is no table.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    from sinks.delta import explained, opened

    address = lake / table.name
    handle = opened(address)
    if handle is None:
        return []
    instant = table.partitioned_by.replace("_date", "_ms")
    names = None if columns is None else list(dict.fromkeys([*columns, instant]))
    with explained(address):
        rows: list[dict[str, Any]] = handle.to_pyarrow_dataset().to_table(columns=names).to_pylist()
    return sorted(rows, key=lambda row: row[instant])
