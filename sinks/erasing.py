"""Deletes the rows of erased users from a table, and what older versions and crashes left of them on the disk.

A file that holds such rows is written anew without them, and takes its place in one commit. The library's own deletion
would do that, too, but it writes its condition, which names the user, into the table's log, is refused whenever a
worker appends meanwhile, and leaves texts of a type that readers cannot compare (deltalake 1.6).

Then the files of older versions are deleted, whatever retention says; and files that no version knows, which a killed
writer leaves behind, if they hold such rows.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sinks.derived_tables import SERVED, SESSIONS
from sinks.erasures import ErasedLog, Tombstones, log_of
from sinks.file_rewriting import swap_file, write_without
from sinks.quality_tables import RECOMMENDATIONS, REFERENCE_USERS
from sinks.tables import ALL_TABLES, DEAD_LETTERS, ERASURES, LakeTable, application_id, arrow_schema

if TYPE_CHECKING:
    from deltalake import DeltaTable

ATTEMPTS: Final = 30
SETTLED_S: Final = 10.0
POLL_S: Final = 0.2

_FILE: Final = "__filename"
_LOG_COLUMNS: Final = ("log_epoch", "topic", "partition")
# Tables of no log: rows of a user go by their time. A session that begins later holds no event from before: an event's
# time may be ahead of its arrival by a few minutes.
_TIMES: Final = {
    SERVED.name: ("served_ms", 0),
    SESSIONS.name: ("start_ms", 3_600_000),
    RECOMMENDATIONS.name: ("served_ms", 0),
    REFERENCE_USERS.name: ("loaded_ms", 0),
}
_HINT: Final = "What was done so far stays; run the same `shopstream lake erase` again, it goes on from there."

_Done = TypeVar("_Done")


@dataclass(frozen=True, slots=True)
class TableErasure:
    """What was erased from one table.

    Attributes:
        rows: deleted, or in a dry run to be deleted.
        files: of older versions, deleted.
        leftovers: files that no version knew, deleted because they held such rows.
        oldest_version: versions of the table before this one can no longer be read.
        conflicts: tries that somebody else's commit refused.
    """

    name: str
    rows: int
    files: int
    leftovers: int
    oldest_version: int
    conflicts: int


def erasable_tables() -> tuple[LakeTable, ...]:
    """Return the tables that hold something of users."""
    return tuple(
        table
        for table in ALL_TABLES.values()
        if table is not ERASURES and (table is DEAD_LETTERS or "user_id" in arrow_schema(table).names)
    )


def logs_of_users(lake: Path, table: LakeTable, ids: Sequence[str]) -> set[tuple[str, str, int]]:
    """Return topic, log epoch and partition of every log that a table has rows of these users from.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    import pyarrow as pa
    from pyarrow import compute as pc

    from sinks.delta import explained, opened

    path = lake / table.name
    handle = opened(path)
    if handle is None or table.name in _TIMES:
        return set()
    if table is DEAD_LETTERS:
        wanted = pc.field("key").isin(pa.array([user_id.encode() for user_id in ids], pa.binary()))
    else:
        wanted = pc.field("user_id").isin(pa.array(list(ids), pa.string()))
    found: set[tuple[str, str, int]] = set()
    with explained(path, _HINT):
        names = ["topic", "log_epoch", "partition"]
        for batch in handle.to_pyarrow_dataset().to_batches(columns=names, filter=wanted):
            found |= set(zip(*(batch.column(name).to_pylist() for name in names), strict=True))
    return found


class TableEraser:
    """Erases from one table. Blocking; every step may be repeated, also after a kill in its middle.

    Args:
        lake: folder of the lake.
        tombstones: whose rows, and up to which offset.
        ids: the users as they are stored; None for all whom the tombstones cover, which takes longer to find.
        logs: the partitions that workers write, to refuse an append that one of them has half done.
        progress: told a line per step.
    """

    def __init__(
        self,
        lake: Path,
        table: LakeTable,
        tombstones: Tombstones,
        ids: Sequence[str] | None,
        *,
        logs: Sequence[ErasedLog] = (),
        progress: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = lake / table.name
        self._table = table
        self._tombstones = tombstones
        self._given = ids is not None
        self._ids = set(ids or ())
        self._seen: set[str] = set()
        self._logs = logs
        self._progress = progress
        self._sleep = sleep
        self._conflicts = 0

    def count(self) -> int:
        """Return how many rows there are to erase; changes nothing.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        from sinks.delta import explained, opened

        handle = opened(self._path)
        if handle is None:
            return 0
        with explained(self._path, _HINT):
            return sum(self._rows_by_file(handle.to_pyarrow_dataset()).values())

    def erase(self) -> TableErasure | None:
        """Delete the rows, then all that is not of the newest version; None when the table was never written.

        Raises:
            LakeUnavailableError: the table cannot be read or written.
        """
        from sinks.delta import explained, opened

        if opened(self._path) is None:
            return None
        rows, files, leftovers = 0, 0, 0
        with explained(self._path, _HINT):
            while True:
                rows += self._delete_rows()
                oldest_version, deleted = self._repeated(self._delete_older_versions)
                files += deleted
                leftovers += self._delete_leftovers()
                if not self._rows_by_file(self._handle().to_pyarrow_dataset()):
                    break
        self._progress(
            f"{self._table.name}: {rows:,} rows and {files + leftovers:,} files deleted; "
            f"versions before {oldest_version} cannot be read any more"
        )
        return TableErasure(self._table.name, rows, files, leftovers, oldest_version, self._conflicts)

    # -- rows ------------------------------------------------------------------------------------------------------

    def _delete_rows(self) -> int:
        deleted = 0
        for file, count in sorted(self._rows_by_file(self._handle().to_pyarrow_dataset()).items()):
            written = write_without(self._path / file, self._table, self._is_kept)
            if self._repeated(partial(self._swap, file, written)):
                deleted += count
            else:  # somebody else has replaced it; the next round finds the rows where they are now
                (self._path / file).with_name(written.name).unlink(missing_ok=True)
            self._progress(f"{self._table.name}: {deleted:,} rows deleted")
        return deleted

    def _swap(self, file: str, written: Any) -> bool:
        return swap_file(self._handle(), self._path, self._table, file, written)

    def _rows_by_file(self, dataset: Any) -> Counter[str]:
        """Count the rows of erased users in each file that has any."""
        import pyarrow as pa
        from pyarrow import compute as pc

        wanted = None
        if self._table is not DEAD_LETTERS:  # letters count by their position, too, and there are few
            self._find_ids(dataset)
            wanted = pc.field("user_id").isin(pa.array(list(self._ids), pa.string()))
        counts: Counter[str] = Counter()
        columns = [*self._places, _FILE]
        for batch in dataset.to_batches(columns=columns, filter=wanted):
            files = batch.column(_FILE).to_pylist()
            counts.update(file for file, erased in zip(files, self._erased(batch), strict=True) if erased)
        return counts

    def _is_kept(self, batch: Any) -> Any:
        """Return which rows of a batch stay, as Arrow."""
        import pyarrow as pa
        from pyarrow import compute as pc

        if self._table is DEAD_LETTERS:
            return pa.array([not erased for erased in self._erased(batch)], pa.bool_())
        is_theirs = pc.is_in(batch.column("user_id"), pa.array(list(self._ids), pa.string()))
        erased = iter(self._erased(batch.filter(is_theirs)))
        return pa.array([not (theirs and next(erased)) for theirs in is_theirs.to_pylist()], pa.bool_())

    def _erased(self, batch: Any) -> Iterator[bool]:
        columns = [batch.column(name).to_pylist() for name in self._places]
        if self._table.name in _TIMES:
            _, ahead_ms = _TIMES[self._table.name]
            until_ms = {user: self._tombstones.until_ms(user) for user in set(columns[0])}
            yield from (
                until_ms[user] >= 0 and time_ms <= until_ms[user] + ahead_ms
                for user, time_ms in zip(*columns, strict=True)
            )
            return
        for user, epoch, topic, number, position in zip(*columns, strict=True):
            yield self._is_erased(user, log_of(topic, epoch, number), position - self._table.position_base)

    @property
    def _places(self) -> tuple[str, ...]:
        """Names of the columns that tell whose a row is, and where it lies."""
        if self._table.name in _TIMES:
            return self._user_column, _TIMES[self._table.name][0]
        return self._user_column, *_LOG_COLUMNS, self._table.position

    def _is_erased(self, user: Any, log: ErasedLog, offset: int) -> bool:
        if self._table is DEAD_LETTERS:
            return self._tombstones.covers_letter(user, offset, log)
        return offset < self._tombstones.end_of(user, log)

    @property
    def _user_column(self) -> str:
        return "key" if self._table is DEAD_LETTERS else "user_id"

    def _find_ids(self, dataset: Any) -> None:
        """Learn which users of a table the tombstones cover, unless they were given."""
        from pyarrow import compute as pc

        if self._given:
            return
        subjects = {subject for ends in self._tombstones.ends.values() for subject in ends}
        subjects |= set(self._tombstones.noted_ms)
        pseudonyms = self._tombstones.pseudonyms
        for batch in dataset.to_batches(columns=["user_id"]):
            new = set(pc.unique(batch.column("user_id")).to_pylist()) - self._seen
            self._seen |= new
            if pseudonyms is not None:
                self._ids |= {user for user in new if not subjects.isdisjoint(pseudonyms.subjects(user))}

    # -- files -----------------------------------------------------------------------------------------------------

    def _delete_older_versions(self) -> tuple[int, int]:
        """Return the oldest version that can still be read, and how many files were deleted."""
        handle = self._handle()
        oldest_version = handle.version()
        options: dict[str, Any] = {"retention_hours": 0, "enforce_retention_duration": False}
        # those that an earlier run has deleted are listed, too
        files = [file for file in handle.vacuum(dry_run=True, **options) if (self._path / file).exists()]
        if files:  # else a real run would add two commits for nothing
            handle.vacuum(dry_run=False, **options)
        return oldest_version, len(files)

    def _delete_leftovers(self) -> int:
        """Delete files that no version knows and that hold rows of erased users: killed writers left them."""
        named = [path for path in self._unknown_files() if self._may_name_someone(path)]
        if not named:
            return 0
        self._repeated(self._refuse_half_done_appends)
        self._wait_until_settled(named)
        settled = self._unknown_files() & set(named)
        for path in settled:
            path.unlink(missing_ok=True)
        return len(settled)

    def _unknown_files(self) -> set[Path]:
        on_disk = {path for path in self._path.resolve().rglob("*.parquet*") if "_delta_log" not in path.parts}
        return on_disk - {Path(file).resolve() for file in self._handle().file_uris()}  # after the folder was listed

    def _may_name_someone(self, path: Path) -> bool:
        from pyarrow import ArrowInvalid
        from pyarrow import dataset as ds

        if path.suffix != ".parquet":
            return True  # half of a file, `….parquet#1`: whose rows it holds cannot be known, and nobody can read it
        try:
            return bool(self._rows_by_file(ds.dataset(path, format="parquet")))
        except ArrowInvalid:
            return True  # the same, renamed too early
        except FileNotFoundError:
            return False

    def _wait_until_settled(self, paths: Sequence[Path]) -> None:
        """Let a writer that is at work on a file right now finish: it commits within milliseconds, or never."""
        told = False
        while any(_age_s(path) < SETTLED_S for path in paths):
            if not told:
                self._progress(f"{self._table.name}: waiting up to {SETTLED_S:g} s for files that were just written")
                told = True
            self._sleep(POLL_S)

    def _refuse_half_done_appends(self) -> None:
        """Commit for the workers' application ids: an append that was begun before is then refused, and done again."""
        from deltalake import CommitProperties, Transaction, write_deltalake

        handle = self._handle()
        ids = [application_id(log.topic_id, log.partition, self._table) for log in self._logs]
        held = {app_id: handle.transaction_version(app_id) for app_id in ids}
        transactions = [Transaction(app_id, version) for app_id, version in held.items() if version is not None]
        if transactions:
            commit = CommitProperties(app_transactions=transactions)
            write_deltalake(handle, _nothing(handle), mode="append", commit_properties=commit)

    def _handle(self) -> "DeltaTable":
        from deltalake import DeltaTable

        return DeltaTable(self._path)

    def _repeated(self, step: Callable[[], _Done]) -> _Done:
        from deltalake.exceptions import DeltaError
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

        def count(_: Any) -> None:
            self._conflicts += 1

        retrying = Retrying(
            retry=retry_if_exception_type((DeltaError, OSError)),
            wait=wait_random_exponential(multiplier=0.05, max=2.0),
            stop=stop_after_attempt(ATTEMPTS),
            before_sleep=count,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(step)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _nothing(handle: "DeltaTable") -> Any:
    """Return no rows, with all columns of a table: also with those that a later release has added."""
    import pyarrow as pa

    return pa.schema(handle.schema().to_arrow()).empty_table()
