"""The lake in memory: the real exact append, over tables that refuse a commit on a stale snapshot as Delta does.

`tests/contract/test_lake.py` runs the same suite on this and on Delta.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import CommitFailedError

from sinks.exact_append import ExactAppender, TablePart
from sinks.lake import LakeSink
from sinks.lake_root import Lake
from sinks.rows import FlushReport, PartitionFlush, TableCounts
from sinks.tables import LAKE_TABLES, LakeTable, arrow_schema

LogKey = tuple[str, str, int]  # id of the topic, topic, partition


class MemoryTable:
    """One table: its commits, and what the snapshot after each of them holds."""

    def __init__(self, table: LakeTable) -> None:
        self.table = table
        self.commits: list[Any] = []
        self.last_offsets: dict[str, list[tuple[int, int]]] = {}
        self.positions: dict[LogKey, dict[int, int]] = {}
        self._lock = threading.Lock()

    @property
    def commit_count(self) -> int:
        """Return how many commits were made."""
        return len(self.commits)

    def open(self) -> "MemoryHandle":
        """Return a handle on the newest snapshot."""
        return MemoryHandle(self)

    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        """Append the rows that are not here yet."""
        return ExactAppender(Path(self.table.name), self.table, self.open).append(parts)

    def commit(self, snapshot: int, rows: Any, last_offsets: Mapping[str, int]) -> int:
        """Add a commit; return the version after it.

        Raises:
            CommitFailedError: the snapshot is older than a commit for one of these application ids.
        """
        with self._lock:
            for app_id in last_offsets:
                if self.last_offsets.get(app_id, [(0, 0)])[-1][0] > snapshot:
                    raise CommitFailedError(f"Concurrent transaction failed: {app_id}")
            self.commits.append(rows)
            version = len(self.commits)
            for app_id, offset in last_offsets.items():
                self.last_offsets.setdefault(app_id, []).append((version, offset))
            names = ("log_epoch", "topic", "partition", self.table.position)
            for epoch, topic, partition, position in zip(
                *(rows.column(name).to_pylist() for name in names), strict=True
            ):
                held = self.positions.setdefault((epoch.rpartition(":")[0], topic, partition), {})
                held.setdefault(position, version)
            return version


class MemoryHandle:
    """Implements `sinks.exact_append.TableHandle` on a memory table."""

    def __init__(self, table: MemoryTable) -> None:
        self._table = table
        self.snapshot = table.commit_count

    def last_offset(self, app_id: str) -> int | None:
        """Return the last offset that the snapshot holds for an application id."""
        known = self._table.last_offsets.get(app_id, ())
        return next((offset for version, offset in reversed(known) if version <= self.snapshot), None)

    def held_positions(self, rows: Any) -> Any:
        """Return which positions between the first and the last of these rows the snapshot holds."""
        first, last = pc.min_max(rows.column(self._table.table.position)).as_py().values()
        epoch, topic, partition = (rows.column(name)[0].as_py() for name in ("log_epoch", "topic", "partition"))
        held = self._table.positions.get((epoch.rpartition(":")[0], topic, partition), {})
        found = [at for at in range(first, last + 1) if held.get(at, self.snapshot + 1) <= self.snapshot]
        return pa.array(found, pa.int64())

    def commit(self, rows: Any, last_offsets: Mapping[str, int]) -> None:
        """Append rows in one commit."""
        self.snapshot = self._table.commit(self.snapshot, rows, last_offsets)


class MemoryLake:
    """All tables; implements what `LakeSink` offers, and hands out sinks that share it, as workers share a lake."""

    def __init__(self) -> None:
        self.tables = {name: MemoryTable(table) for name, table in LAKE_TABLES.items()}
        self._sink = self.worker()

    def worker(self) -> LakeSink:
        """Return the sink of one more worker: it keeps handles of its own."""
        return LakeSink(Path(), self.open_table)

    def open_table(self, root: Lake, table: LakeTable) -> ExactAppender:
        """Return what appends to a table, with a handle of its own."""
        return ExactAppender(root / table.name, table, self.tables[table.name].open)

    def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        """Append what the tables do not hold yet."""
        return self._sink.write(flushes)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of a table, in the order in which they were written."""
        found = self.tables[table]
        rows: list[dict[str, Any]] = pa.concat_tables(
            [arrow_schema(found.table).empty_table(), *found.commits]
        ).to_pylist()
        return rows
