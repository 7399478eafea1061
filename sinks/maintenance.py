"""Upkeep of the lake: small files become large ones, logs get a checkpoint, replaced files are deleted in the end.

It runs beside live workers. A compaction moves rows and adds none, so it never stands against an append; where somebody
else deleted rows of the same files first, the step is tried again from the newest version.

Two compactions of the same files are another matter: delta-rs lets both pass, and every row is there twice. Hence the
lock: whatever merges or deletes files of a lake holds `exclusive`.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sinks.dropping_days import drop_days, old_days
from sinks.lake_lock import exclusive
from sinks.lake_root import Lake, TableAddress, is_there, writable
from sinks.leases import Lease, hours_to_keep, leases
from sinks.table_files import LOG_FOLDER, files_below, library_arguments
from sinks.tables import ALL_TABLES, FEATURE_LOG, LakeTable

if TYPE_CHECKING:
    from deltalake import DeltaTable

FILE_BYTES: Final = 100 * 1024 * 1024
# Statistics of a group let a reader of a stretch pass over it: three times as fast as with one group per file.
GROUP_ROWS: Final = 65_536
ATTEMPTS: Final = 8
LOG_FILES_LEFT_ALONE: Final = 200

_RETENTION: Final = "delta.deletedFileRetentionDuration"
_DELTA_RETENTION_HOURS: Final = 168  # where the table does not say
_HINT: Final = "What was done so far stays; run `shopstream lake maintain` again once this is mended."

__all__ = ["MaintenanceReport", "TableMaintenance", "Upkeep", "exclusive", "maintain_lake", "maintain_table"]

_Done = TypeVar("_Done")


@dataclass(frozen=True, slots=True)
class TableSize:
    """How large a table is.

    Attributes:
        files: data files of the newest version.
        bytes: their size.
        disk_files: data files in its folder, those of older versions included.
        disk_bytes: their size.
        log_files: files of its log.
    """

    files: int
    bytes: int
    disk_files: int
    disk_bytes: int
    log_files: int


@dataclass(frozen=True, slots=True)
class TableMaintenance:
    """What was done to one table; of a dry run, what would be done.

    Attributes:
        merged_days: days whose files were merged.
        merged_files: files that were replaced by larger ones.
        dropped_days: days that left the table because they are older than it keeps rows.
        dropped_files: their files; they are deleted like replaced ones.
        deleted_files: files that were deleted: replaced longer ago than the retention, or left by a crash.
        conflicts: tries that somebody else's commit refused.
    """

    name: str
    before: TableSize
    after: TableSize
    merged_days: int
    merged_files: int
    deleted_files: int
    conflicts: int
    dropped_days: int = 0
    dropped_files: int = 0


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What one run did, table by table; tables that were never written are left out.

    Attributes:
        retention_hours: replaced files were kept for so long: what the settings say, or longer for readers' sake.
        readers: those that were under way, the one that needs the oldest files first.
    """

    dry_run: bool
    retention_hours: int
    tables: tuple[TableMaintenance, ...]
    readers: tuple[Lease, ...] = ()

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a run is to do.

    Attributes:
        retention_hours: files stay for so long after they were replaced; a reader whose snapshot is older fails.
        before: days from this one on are left alone; None for no such day.
        dry_run: change nothing.
        history_hours: the log keeps versions for so long after they were replaced.
        keep_from: the first day that a table keeps, by its name; of other tables every day is kept.
    """

    retention_hours: int
    before: date | None
    dry_run: bool = False
    history_hours: int = 1
    keep_from: Mapping[str, date] = field(default_factory=dict)


def maintain_lake(
    lake: Lake,
    *,
    retention_hours: int,
    history_hours: int = 1,
    feature_log_days: int = 0,
    open_day: bool = False,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> MaintenanceReport:
    """Compact, checkpoint and vacuum every table of the lake. Blocking; may be interrupted and repeated at any time.

    Args:
        retention_hours: files stay for so long after they were replaced, or longer while a reader may need them.
        history_hours: versions can be read for so long after they were replaced.
        feature_log_days: days of `feature_log` that are kept, today's besides; 0 for all.
        open_day: whether to compact today's files as well.
        dry_run: change nothing.
        progress: told a line per step.

    Raises:
        LakeBusyError: another run is under way.
        LakePinnedError: the lake is read as of an earlier moment.
        LakeUnavailableError: a table cannot be read or written.
    """
    if not is_there(writable(lake)):
        return MaintenanceReport(dry_run, retention_hours, ())
    today = datetime.now(UTC).date()
    keep_from = {FEATURE_LOG.name: today - timedelta(days=feature_log_days)} if feature_log_days else {}
    with exclusive(lake):
        readers = leases(lake)
        kept_hours = hours_to_keep(readers, retention_hours)
        if kept_hours > retention_hours:
            progress(f"replaced files are kept for {kept_hours:,} h: {readers[0].reader} may need them")
        upkeep = Upkeep(kept_hours, None if open_day else today, dry_run, history_hours, keep_from)
        reports = [maintain_table(lake, table, upkeep, progress) for table in ALL_TABLES.values()]
    found = tuple(report for report in reports if report is not None)
    return MaintenanceReport(dry_run, kept_hours, found, tuple(readers))


def maintain_table(
    lake: Lake, table: LakeTable, upkeep: Upkeep, progress: Callable[[str], None] = lambda _: None
) -> TableMaintenance | None:
    """Compact, checkpoint and vacuum one table; None when it was never written.

    Raises:
        LakeUnavailableError: it cannot be read or written.
    """
    from sinks.delta import explained, opened

    path = lake / table.name
    handle = opened(path)
    if handle is None:
        return None
    work = _Work(path, table, upkeep, progress)
    with explained(path, _HINT):
        before = _size(handle, path)
        dropped = old_days(handle, table, upkeep.keep_from.get(table.name))
        small = Counter({day: n for day, n in _small_files(handle, table, upkeep.before).items() if day not in dropped})
        if upkeep.dry_run:
            merged, deleted, after = dict(small), len(work.deletable(handle)), before
        else:
            work.settle()
            dropped = work.drop_days()
            merged = {day: removed for day in sorted(small) if (removed := work.compact(day))}
            work.checkpoint()
            deleted = work.vacuum()
            after = _size(work.handle(), path)
    return TableMaintenance(
        table.name, before, after, len(merged), sum(merged.values()), deleted, work.conflicts,
        len(dropped), sum(dropped.values()),
    )  # fmt: skip


class _Work:
    """The steps on one table, each on a new handle and tried again when somebody else was first."""

    def __init__(self, path: TableAddress, table: LakeTable, upkeep: Upkeep, progress: Callable[[str], None]) -> None:
        self._path = path
        self._table = table
        self._upkeep = upkeep
        self._progress = progress
        self.conflicts = 0

    def handle(self) -> "DeltaTable":
        from deltalake import DeltaTable

        return DeltaTable(**library_arguments(self._path))

    def drop_days(self) -> Counter[str]:
        """Remove the days that the table keeps no longer; return how many files each had."""
        first = self._upkeep.keep_from.get(self._table.name)
        dropped: Counter[str] = self._repeated(lambda: drop_days(self.handle(), self._table, first))
        if dropped:
            self._tell(f"{len(dropped):,} days before {first} dropped, {sum(dropped.values()):,} files")
        return dropped

    def compact(self, day: str) -> int:
        """Merge the small files of a day; return how many were replaced."""
        from sinks.delta import writer_properties

        def step() -> dict[str, Any]:
            return self.handle().optimize.compact(
                partition_filters=[(self._table.partitioned_by, "=", day)],
                target_size=FILE_BYTES,
                max_concurrent_tasks=1,  # a worker needs the other core
                writer_properties=writer_properties(self._table, max_row_group_size=GROUP_ROWS),
            )

        started = time.monotonic()
        metrics = self._repeated(step)
        removed, added = metrics["numFilesRemoved"], metrics["numFilesAdded"]
        if removed:  # two that together are too large stay two
            self._tell(f"{day}: {removed:,} files merged into {added:,} in {time.monotonic() - started:.1f} s")
        return int(removed)

    def checkpoint(self) -> None:
        def step() -> None:
            handle = self.handle()
            handle.create_checkpoint()
            # Versions before it are forgotten that are older than the table's log retention, the one that was the
            # newest until a moment ago, too: so a short log, which costs nobody anything, is left whole.
            if len(files_below(self._path, LOG_FOLDER)) > LOG_FILES_LEFT_ALONE:
                handle.cleanup_metadata()

        self._repeated(step)
        self._tell("checkpoint written")

    def vacuum(self) -> int:
        """Delete what was replaced longer ago than the retention; return how many files that were."""

        def step() -> int:
            handle = self.handle()
            # each real run adds two commits, and its list may be long
            if not self.deletable(handle):
                return 0
            return len(handle.vacuum(self._upkeep.retention_hours, dry_run=False, **self._VACUUM))

        deleted = self._repeated(step)
        self._tell(f"{deleted:,} files deleted that were replaced over {self._upkeep.retention_hours} h ago")
        return deleted

    # In full mode the folder is listed: what a crash left behind goes too, by its own age. The smallest retention is
    # the setting's, not the table's.
    _VACUUM: Final[dict[str, Any]] = {"full": True, "enforce_retention_duration": False}

    def deletable(self, handle: "DeltaTable") -> list[str]:
        return handle.vacuum(self._upkeep.retention_hours, dry_run=True, **self._VACUUM)

    def settle(self) -> None:
        """Give the table the properties that this release wants; each change makes an append be tried again, once."""
        from sinks.delta import LOG_RETENTION

        def step() -> None:
            handle = self.handle()
            found = handle.metadata().configuration
            upkeep = self._upkeep
            # A replaced file that the log has forgotten counts as a crash's leftover.
            hours = max(upkeep.retention_hours, _DELTA_RETENTION_HOURS)
            log = LOG_RETENTION if upkeep.history_hours == 1 else f"interval {upkeep.history_hours} hours"
            wanted = {_RETENTION: f"interval {hours} hours", "delta.logRetentionDuration": log}
            absent = {_RETENTION: f"interval {_DELTA_RETENTION_HOURS} hours"}
            if wanted != {name: found.get(name, absent.get(name)) for name in wanted}:
                handle.alter.set_table_properties(wanted)

        self._repeated(step)

    def _repeated(self, step: Callable[[], _Done]) -> _Done:
        from deltalake.exceptions import DeltaError

        retrying = Retrying(
            retry=retry_if_exception_type((DeltaError, OSError)),
            wait=wait_random_exponential(multiplier=0.05, max=2.0),
            stop=stop_after_attempt(ATTEMPTS),
            before_sleep=self._count,
            reraise=True,
        )
        return retrying(step)

    def _count(self, _: RetryCallState) -> None:
        self.conflicts += 1

    def _tell(self, line: str) -> None:
        self._progress(f"{self._table.name} {line}")


def _small_files(handle: "DeltaTable", table: LakeTable, before: date | None) -> Counter[str]:
    """Count the files of each day that a compaction would touch; days with fewer than two are left out."""
    small: Counter[str] = Counter()
    for file in _files(handle):
        day = file[f"partition.{table.partitioned_by}"]
        if file["size_bytes"] < FILE_BYTES and (before is None or day < before):
            small[day.isoformat()] += 1
    return Counter({day: count for day, count in small.items() if count > 1})


def _files(handle: "DeltaTable") -> list[dict[str, Any]]:
    import pyarrow as pa

    actions = pa.table(handle.get_add_actions(flatten=True))
    wanted = [name for name in actions.column_names if name.startswith("partition.") or name == "size_bytes"]
    rows: list[dict[str, Any]] = actions.select(wanted).to_pylist()
    return rows


def _size(handle: "DeltaTable", path: TableAddress) -> TableSize:
    sizes = [file["size_bytes"] for file in _files(handle)]
    found = files_below(path)
    logs = [file for file in found if file.path.startswith(LOG_FOLDER)]
    data = [file.size for file in found if file.path.endswith(".parquet") and not file.path.startswith(LOG_FOLDER)]
    return TableSize(len(sizes), sum(sizes), len(data), sum(data), len(logs))
