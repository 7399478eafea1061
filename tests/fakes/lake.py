"""The lake in memory: same rules and same reports as the Delta tables, and no file."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from sinks.delta import TablePart
from sinks.lake import LakeSink
from sinks.rows import FlushReport, PartitionFlush, TableCounts
from sinks.tables import LAKE_TABLES, LakeTable, arrow_schema


@dataclass
class MemoryTable:
    """What is stored: rows, and the last offset of each application id."""

    table: LakeTable
    batches: list[Any] = field(default_factory=list)
    last_offsets: dict[str, int] = field(default_factory=dict)
    held: dict[str, set[int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        """Append the rows that are not here yet."""
        with self.lock:
            counts = [self._append(part) for part in parts]
            self.commit_count += any(count.written for count in counts)
        return TableCounts(sum(count.written for count in counts), sum(count.dropped for count in counts))

    commit_count: int = 0

    def _append(self, part: TablePart) -> TableCounts:
        last_offset = self.last_offsets.get(part.app_id, -1)
        held = self.held.setdefault(part.app_id, set())
        positions = part.rows.column(self.table.position).to_pylist()
        missing = [
            index
            for index, position in enumerate(positions)
            if position - self.table.position_base > last_offset or (self.table.fills_gaps and position not in held)
        ]
        if missing:
            self.batches.append(part.rows.take(missing))
            held.update(positions[index] for index in missing)
            self.last_offsets[part.app_id] = max(last_offset, part.last_offset)
        return TableCounts(len(missing), len(positions) - len(missing))


class MemoryLake:
    """All tables; implements what `LakeSink` offers, and hands out sinks that share it, as workers share a lake."""

    def __init__(self) -> None:
        self.tables = {name: MemoryTable(table) for name, table in LAKE_TABLES.items()}
        self._sink = self.worker()

    def worker(self) -> LakeSink:
        """Return the sink of one more worker."""
        return LakeSink(Path(), lambda _, table: self.tables[table.name])

    def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        """Append what the tables do not hold yet."""
        return self._sink.write(flushes)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of a table, in the order in which they were written."""
        found = self.tables[table]
        rows: list[dict[str, Any]] = pa.concat_tables(
            [arrow_schema(found.table).empty_table(), *found.batches]
        ).to_pylist()
        return rows
