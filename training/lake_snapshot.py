"""The lake as one set sees it: its tables at fixed versions, and from when on they hold what a set needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from sinks.delta import explained, opened
from sinks.lake_reads import partition_rows
from sinks.lake_root import Lake, LakeRoot, Pin, TableAddress, pinned
from sinks.tables import DEAD_LETTERS, FEATURE_LOG, RAW_EVENTS, LakeTable
from training.errors import NotInLakeError

if TYPE_CHECKING:
    from deltalake import DeltaTable

_READ: Final = (RAW_EVENTS, FEATURE_LOG, DEAD_LETTERS)
_PUSH_DELAY_MS: Final = 60_000
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Tables at the versions that they had when the set was begun.

    Attributes:
        lake: reads them at these versions.
        versions: by table; a table that does not exist is absent.
    """

    lake: Lake
    versions: dict[str, int]

    @classmethod
    def of(cls, lake: Lake) -> "Snapshot":
        """Take one of a lake, which may be that of an earlier moment.

        Raises:
            NotInLakeError: it holds no events.
            LakeUnavailableError: a table cannot be read.
        """
        handles = {table.name: opened(lake / table.name) for table in _READ}
        versions = {name: handle.version() for name, handle in handles.items() if handle is not None}
        if RAW_EVENTS.name not in versions:
            raise NotInLakeError(
                f"The lake {lake} holds no events.", hint="Start a worker; it writes them with its first flush."
            )
        instant = lake.pin.instant if isinstance(lake, LakeRoot) else None
        return cls(pinned(lake, Pin(versions, instant)), versions)

    def address(self, table: LakeTable) -> TableAddress:
        """Return where a table is."""
        return self.lake / table.name

    def handle(self, table: LakeTable) -> "DeltaTable":
        """Open a table.

        Raises:
            NotInLakeError: there is none.
            LakeUnavailableError: it cannot be read.
        """
        handle = opened(self.address(table)) if table.name in self.versions else None
        if handle is None:
            raise NotInLakeError(
                f"The lake {self.lake} has no table {table.name}: no state was ever pushed under this definition "
                "version.",
                hint="Start a worker of it, or make a set as_corrected.",
            )
        return handle

    def begins_ms(self, table: LakeTable, column: str) -> int:
        """Return the smallest value that a table holds of a column of times, from the statistics of its files.

        Raises:
            NotInLakeError: there is no such table, or it holds nothing.
            LakeUnavailableError: it cannot be read.
        """
        return self._extreme(table, column, "min", pc.min)

    def ends_ms(self, table: LakeTable, column: str) -> int:
        """Return the greatest value, likewise.

        Raises:
            NotInLakeError: there is no such table, or it holds nothing.
            LakeUnavailableError: it cannot be read.
        """
        return self._extreme(table, column, "max", pc.max)

    def _extreme(self, table: LakeTable, column: str, statistic: str, of: Callable[[Any], Any]) -> int:
        handle = self.handle(table)
        with explained(self.address(table)):
            files = pa.table(handle.get_add_actions(flatten=True))
            name = f"{statistic}.{column}"
            found = of(files.column(name)).as_py() if name in files.column_names else None
            if found is None and files.num_rows:  # written without statistics
                found = of(handle.to_pyarrow_dataset().to_table(columns=[column]).column(column)).as_py()
        if found is None:
            raise NotInLakeError(f"The lake's table {table.name} holds nothing.", hint="Start a worker first.")
        return int(found)

    def positions(self) -> list[dict[str, Any]]:
        """Return, for each partition, from where to where `raw_events` and `feature_log` hold its log.

        Raises:
            LakeUnavailableError: a table cannot be read.
        """
        return [
            {
                "table": table.name,
                "log_epoch": found.log_epoch,
                "topic": found.topic,
                "partition": found.partition,
                "first_offset": found.first_offset,
                "last_offset": found.last_offset,
                "rows": found.row_count,
            }
            for table in (RAW_EVENTS, FEATURE_LOG)
            for found in partition_rows(self.lake, table)
        ]

    def has_every_beginning(self) -> bool:
        """Tell whether the log of each partition is there from its very first record.

        Raises:
            LakeUnavailableError: a table cannot be read.
        """
        firsts: dict[tuple[str, str, int], int] = {}
        for table in (RAW_EVENTS, DEAD_LETTERS):
            for found in partition_rows(self.lake, table):
                key = found[:3]
                firsts[key] = min(found.first_offset, firsts.get(key, found.first_offset))
        return not any(firsts.values())

    def lacks_states(self) -> bool:
        """Tell whether the log of states begins later than events were taken in: `lake maintain` drops its oldest days.

        Raises:
            NotInLakeError: there is no log of states, or it holds nothing.
            LakeUnavailableError: a table cannot be read.
        """
        first_day = self.begins_ms(RAW_EVENTS, "append_time_ms") // _DAY_MS
        day = pa.scalar(first_day, pa.int32()).cast(pa.date32())
        with explained(self.address(RAW_EVENTS)):
            dataset = self.handle(RAW_EVENTS).to_pyarrow_dataset()
            taken_in = dataset.to_table(columns=["ingest_time_ms"], filter=pc.field(RAW_EVENTS.partitioned_by) == day)
        first_ms = int(pc.min(taken_in.column("ingest_time_ms")).as_py())
        return self.begins_ms(FEATURE_LOG, "servable_ms") - first_ms > _PUSH_DELAY_MS
