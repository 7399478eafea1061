"""Writes one file of a table anew without some of its rows, and puts it in the place of the old one."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sinks.tables import ColumnType, LakeTable

if TYPE_CHECKING:
    from deltalake import DeltaTable

GROUP_ROWS: Final = 65_536

_PLAIN: Final = {"string_view": "string", "large_string": "string", "binary_view": "binary", "large_binary": "binary"}


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A new file that no version of the table knows yet.

    Attributes:
        name: its own, without the folder.
        rows: in it; 0 if nothing was left to write, then there is no file.
        stats: smallest and greatest values of the columns that readers skip files by, as the table's log holds them.
    """

    name: str
    rows: int
    stats: str


def write_without(path: Path, table: LakeTable, is_kept: Callable[[Any], Any]) -> WrittenFile:
    """Write the rows of a file that are to be kept into a new file beside it, a piece at a time.

    Args:
        is_kept: returns which rows of a record batch stay, as Arrow.
    """
    import pyarrow.parquet as pq

    name = f"part-{uuid.uuid4()}.zstd.parquet"
    bounds = _Bounds(table)
    with pq.ParquetFile(path) as source:
        schema = _plain(source.schema_arrow)
        with pq.ParquetWriter(path.with_name(name), schema, **_options(table, schema)) as writer:
            for batch in source.iter_batches(GROUP_ROWS):
                kept = batch.filter(is_kept(batch)).cast(schema)
                if kept.num_rows:
                    writer.write_batch(kept)
                    bounds.take(kept)
    if not bounds.rows:
        path.with_name(name).unlink()
    return WrittenFile(name, bounds.rows, bounds.stats())


def swap_file(handle: "DeltaTable", folder: Path, table: LakeTable, file: str, written: WrittenFile) -> bool:
    """Commit a new file in the place of an old one; appends by others do not stand against it.

    Args:
        handle: at the newest version.
        folder: of the table.
        file: path of the old one, as the table's log has it.

    Returns:
        Whether it was done: not if somebody else has replaced the file since.

    Raises:
        CommitFailedError: somebody else replaced it at this moment.
    """
    import pyarrow as pa
    from deltalake.transaction import AddAction, RemoveAction

    known = pa.table(handle.get_add_actions(flatten=True))
    names = known.column("path").to_pylist()
    if file not in names:
        return False
    at = names.index(file)
    day = known.column(f"partition.{table.partitioned_by}")[at].as_py().isoformat()
    values, now_ms = {table.partitioned_by: day}, time.time_ns() // 1_000_000
    size = known.column("size_bytes")[at].as_py()
    actions: list[AddAction | RemoveAction] = [
        RemoveAction(file, data_change=True, deletion_timestamp=now_ms, size=size, partition_values=values)
    ]
    if written.rows:
        path = str(Path(file).with_name(written.name))
        new_size = (folder / path).stat().st_size
        actions.append(AddAction(path, new_size, values, now_ms, True, written.stats))  # noqa: FBT003 - a tuple, almost
    handle.create_write_transaction(actions, "append", handle.schema(), [table.partitioned_by])
    return True


class _Bounds:
    """Smallest and greatest values of what is written."""

    def __init__(self, table: LakeTable) -> None:
        self._names = [name for name in table.skipping_columns if name in _skippable(table)]
        self._least: dict[str, Any] = {}
        self._greatest: dict[str, Any] = {}
        self.rows = 0

    def take(self, batch: Any) -> None:
        from pyarrow import compute as pc

        self.rows += batch.num_rows
        for name in self._names:
            least, greatest = pc.min_max(batch.column(name)).as_py().values()
            if least is not None:
                self._least[name] = min(least, self._least.get(name, least))
                self._greatest[name] = max(greatest, self._greatest.get(name, greatest))

    def stats(self) -> str:
        return json.dumps({"numRecords": self.rows, "minValues": self._least, "maxValues": self._greatest})


def _skippable(table: LakeTable) -> set[str]:
    kinds = {ColumnType.STRING, ColumnType.INTEGER, ColumnType.LONG}
    return {column.name for column in table.columns if column.type in kinds}


def _plain(schema: Any) -> Any:
    """Return a schema with the types that the table was created with, whatever writer wrote the file."""
    import pyarrow as pa

    fields = [
        field.with_type(pa.type_for_alias(_PLAIN[str(field.type)])) if str(field.type) in _PLAIN else field
        for field in schema
    ]
    return pa.schema(fields)


def _options(table: LakeTable, schema: Any) -> dict[str, Any]:
    """Return how the worker's own files are written: see `sinks.delta.writer_properties`."""
    spread = {column.name for column in table.columns if column.spread}
    numbers = {column.name for column in table.columns if column.type in {ColumnType.LONG, ColumnType.INTEGER}}
    held = set(schema.names)
    return {
        "compression": "zstd",
        "compression_level": 1,
        "write_statistics": [name for name in table.skipping_columns if name in held],
        "use_dictionary": sorted(held - spread),
        "column_encoding": dict.fromkeys(sorted(spread & numbers & held), "DELTA_BINARY_PACKED"),
    }
