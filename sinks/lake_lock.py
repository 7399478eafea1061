"""Keeps two that merge or delete files of one lake apart.

On a local folder this is a lock of the system, which ends with its process. In an object store it is a row in a table
of its own: who is at work, and until when that holds unless it is renewed. Two that take it at once commit for the
same application id on the same version, and Delta refuses the second.
"""

import fcntl
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sinks.errors import LakeBusyError, SinkError
from sinks.lake_root import Lake, TableAddress, is_remote, local_folder, writable
from sinks.lake_table import Column, ColumnType, LakeTable

logger = logging.getLogger(__name__)

LOCK_FILE: Final = ".maintenance.lock"
HELD_S: Final = 300.0
RENEWED_S: Final = 60.0

UPKEEP_LOCK: Final = LakeTable(
    name="upkeep_lock",
    description="Who merges or deletes files of a lake in an object store; the newest row holds.",
    columns=(
        Column("sequence", ColumnType.LONG, "Number of the row.", skipping=True),
        Column("holder", ColumnType.STRING, "Who; empty for nobody."),
        Column("until_ms", ColumnType.LONG, "Until when it holds unless it is renewed."),
        Column("noted_date", ColumnType.DATE, "Day of the row, UTC; the table is partitioned by it."),
    ),
    partitioned_by="noted_date",
    position="sequence",
)
_APPLICATION: Final = "upkeep_lock"


@contextmanager
def exclusive(lake: Lake) -> Iterator[None]:
    """Keep other upkeep of this lake out for the time of the block; appends go on.

    The lock of a process that dies ends with it; in an object store, `HELD_S` seconds later at the latest.

    Raises:
        LakeBusyError: somebody else holds it.
        LakePinnedError: the lake is read as of an earlier moment.
    """
    if is_remote(writable(lake)):
        with _exclusive_row(lake):
            yield
        return
    with _exclusive_file(local_folder(lake, "Upkeep")):
        yield


@contextmanager
def _exclusive_file(folder: Path) -> Iterator[None]:
    with (folder / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LakeBusyError(folder) from error
        yield


@contextmanager
def _exclusive_row(lake: Lake) -> Iterator[None]:
    row = _LockRow(lake / UPKEEP_LOCK.name, uuid.uuid4().hex[:12])
    if not row.take(HELD_S):
        raise LakeBusyError(lake)
    try:
        with repeated(lambda: row.take(HELD_S), RENEWED_S, "lake-lock"):
            yield
    finally:
        row.take(0.0)


class _LockRow:
    """The newest row of the table, from the point of view of one holder."""

    def __init__(self, address: TableAddress, holder: str) -> None:
        self._address = address
        self._holder = holder

    def take(self, held_s: float) -> bool:
        """Hold the lock for so long from now on, 0 to let go of it; False when somebody else holds it."""
        from deltalake import CommitProperties, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError

        from sinks.delta import explained, open_or_create

        now_ms = time.time_ns() // 1_000_000
        with explained(self._address):
            try:
                handle = open_or_create(self._address, UPKEEP_LOCK)
                rows = handle.to_pyarrow_table().sort_by("sequence").to_pylist()
                newest: dict[str, Any] = rows[-1] if rows else {"holder": "", "until_ms": 0}
                if newest["holder"] not in ("", self._holder) and newest["until_ms"] > now_ms:
                    return False
                sequence = (handle.transaction_version(_APPLICATION) or 0) + 1
                write_deltalake(
                    handle,
                    self._row(sequence, now_ms, now_ms + round(held_s * 1000)),
                    mode="append",
                    commit_properties=CommitProperties(app_transactions=[Transaction(_APPLICATION, sequence)]),
                )
            except CommitFailedError:
                return False  # somebody else took it at this moment
        return True

    def _row(self, sequence: int, now_ms: int, until_ms: int) -> Any:
        import pyarrow as pa

        from sinks.tables import arrow_schema

        holder = self._holder if until_ms > now_ms else ""
        day = pa.array([now_ms // 86_400_000], pa.int32()).cast(pa.date32())
        columns = [pa.array([sequence]), pa.array([holder]), pa.array([until_ms]), day]
        return pa.Table.from_arrays(columns, schema=arrow_schema(UPKEEP_LOCK))


@contextmanager
def repeated(step: Callable[[], object], every_s: float, name: str) -> Iterator[None]:
    """Do a step again and again beside the block, in a thread that ends with it; a step that fails is tried again."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(every_s):
            try:
                step()
            except (SinkError, OSError) as error:
                logger.warning("%s: could not be renewed, and is tried again in %g s: %s", name, every_s, error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
