"""Removes whole days from a table in one commit, beside those who append to it."""

import time
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING, Any

from sinks.lake_table import LakeTable

if TYPE_CHECKING:
    from deltalake import DeltaTable


def old_days(handle: "DeltaTable", table: LakeTable, first: date | None) -> Counter[str]:
    """Count the files of each day before `first`; None for no day."""
    return Counter(file["day"].isoformat() for file in _files_before(handle, table, first))


def drop_days(handle: "DeltaTable", table: LakeTable, first: date | None) -> Counter[str]:
    """Remove the days before `first` in one commit; return how many files each had. Appends do not stand against it.

    Args:
        handle: at the newest version.

    Raises:
        CommitFailedError: somebody else replaced one of the files at this moment.
    """
    from deltalake.transaction import AddAction, RemoveAction

    files = _files_before(handle, table, first)
    if not files:
        return Counter()
    now_ms = time.time_ns() // 1_000_000
    removed: list[AddAction | RemoveAction] = [
        RemoveAction(
            file["path"],
            data_change=True,
            deletion_timestamp=now_ms,
            size=file["size_bytes"],
            partition_values={table.partitioned_by: file["day"].isoformat()},
        )
        for file in files
    ]
    handle.create_write_transaction(removed, "append", handle.schema(), [table.partitioned_by])
    return Counter(file["day"].isoformat() for file in files)


def _files_before(handle: "DeltaTable", table: LakeTable, first: date | None) -> list[dict[str, Any]]:
    import pyarrow as pa

    if first is None:
        return []
    name = f"partition.{table.partitioned_by}"
    actions = pa.table(handle.get_add_actions(flatten=True)).select(["path", "size_bytes", name])
    files: list[dict[str, Any]] = actions.rename_columns(["path", "size_bytes", "day"]).to_pylist()
    return [file for file in files if file["day"] < first]
