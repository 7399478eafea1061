"""Deletes the rows of erased users from a table, and what older versions and crashes left of them on the disk.

Rows are found by user and deleted by position: the condition of a deletion is written into the table's log, where it
would name the user for good. Then the files of older versions are deleted, whatever retention says; and files that no
version knows, which a killed writer leaves behind, if they hold such rows.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sinks.erasures import ErasedLog, Tombstones, log_of
from sinks.tables import DEAD_LETTERS, ERASURES, LAKE_TABLES, LakeTable, application_id, arrow_schema

if TYPE_CHECKING:
    from deltalake import DeltaTable

FILES_AT_ONCE: Final = 16
ROWS_AT_ONCE: Final = 1_000
ATTEMPTS: Final = 30
SETTLED_S: Final = 10.0
POLL_S: Final = 0.2

_FILE: Final = "__filename"
_HINT: Final = "What was done so far stays; run the same `shopstream lake erase` again, it goes on from there."

_Done = TypeVar("_Done")


class RowPlace(NamedTuple):
    """Where one row is.

    Attributes:
        day: of the table's date column, as in the name of its folder.
        position: of the table's position column.
    """

    file: str
    day: str
    log_epoch: str
    topic: str
    partition: int
    position: int


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
        for table in LAKE_TABLES.values()
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
    if handle is None:
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
        self._ids = ids
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
            return sum(1 for _ in self._places(handle.to_pyarrow_dataset()))

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
                if not self._any_place():
                    break
        self._progress(
            f"{self._table.name}: {rows:,} rows and {files + leftovers:,} files deleted; "
            f"versions before {oldest_version} cannot be read any more"
        )
        return TableErasure(self._table.name, rows, files, leftovers, oldest_version, self._conflicts)

    # -- rows ------------------------------------------------------------------------------------------------------

    def _delete_rows(self) -> int:
        deleted = 0
        for part in _parts(list(self._places(self._handle().to_pyarrow_dataset()))):
            self._repeated(partial(self._delete, _condition(self._table, part)))
            deleted += len(part)
            self._progress(f"{self._table.name}: {deleted:,} rows deleted")
        return deleted

    def _any_place(self) -> bool:
        return any(True for _ in self._places(self._handle().to_pyarrow_dataset()))

    def _delete(self, condition: str) -> None:
        """Replace the rows of a condition by nothing.

        `DeltaTable.delete` does the same, but refuses when others append meanwhile, and leaves files whose texts are
        of a type that readers cannot compare with texts (deltalake 1.6).
        """
        from deltalake import write_deltalake

        from sinks.delta import writer_properties

        handle = self._handle()
        properties = writer_properties(self._table)
        write_deltalake(handle, _nothing(handle), mode="overwrite", predicate=condition, writer_properties=properties)

    def _places(self, dataset: Any) -> Iterator[RowPlace]:
        """Yield where the rows of erased users are, in the order of the files."""
        names = (_FILE, "log_epoch", "topic", "partition", self._table.position)
        for batch in self._batches(dataset, names):
            columns = batch.to_pydict()
            days = columns.get(self._table.partitioned_by) or [None] * batch.num_rows  # absent in a file by itself
            users = columns[self._user_column]
            for user, day, *place in zip(users, days, *(columns[name] for name in names), strict=True):
                file, epoch, topic, partition, position = place
                if self._is_erased(user, log_of(topic, epoch, partition), position - self._table.position_base):
                    yield RowPlace(file, str(day), epoch, topic, partition, position)

    def _is_erased(self, user: Any, log: ErasedLog, offset: int) -> bool:
        if self._table is DEAD_LETTERS:
            return self._tombstones.covers_letter(user, offset, log)
        return offset < self._tombstones.end_of(user, log)

    @property
    def _user_column(self) -> str:
        return "key" if self._table is DEAD_LETTERS else "user_id"

    def _batches(self, dataset: Any, names: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import compute as pc

        optional = [self._table.partitioned_by] if self._table.partitioned_by in dataset.schema.names else []
        wanted = None
        if self._table is not DEAD_LETTERS:  # letters count by their position, too, and there are few
            ids = self._ids if self._ids is not None else self._covered_ids(dataset)
            wanted = pc.field("user_id").isin(pa.array(list(ids), pa.string()))
        for batch in dataset.to_batches(columns=[self._user_column, *names, *optional], filter=wanted):
            if batch.num_rows:
                yield batch

    def _covered_ids(self, dataset: Any) -> set[str]:
        from pyarrow import compute as pc

        subjects = {subject for ends in self._tombstones.ends.values() for subject in ends}
        pseudonyms = self._tombstones.pseudonyms
        found: set[str] = set()
        seen: set[str] = set()
        for batch in dataset.to_batches(columns=["user_id"]):
            new = set(pc.unique(batch.column("user_id")).to_pylist()) - seen
            seen |= new
            if pseudonyms is not None:
                found |= {user for user in new if not subjects.isdisjoint(pseudonyms.subjects(user))}
        return found

    # -- files -----------------------------------------------------------------------------------------------------

    def _delete_older_versions(self) -> tuple[int, int]:
        """Return the oldest version that can still be read, and how many files were deleted."""
        handle = self._handle()
        oldest_version = handle.version()
        options: dict[str, Any] = {"retention_hours": 0, "enforce_retention_duration": False}
        if not handle.vacuum(dry_run=True, **options):
            return oldest_version, 0  # a real run would add two commits
        return oldest_version, len(handle.vacuum(dry_run=False, **options))

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
            return any(True for _ in self._places(ds.dataset(path, format="parquet")))
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


def _parts(places: Sequence[RowPlace]) -> Iterator[list[RowPlace]]:
    """Cut into parts of few files and rows each: a short deletion seldom meets somebody else's commit."""
    part: list[RowPlace] = []
    files: set[str] = set()
    for place in sorted(places):
        if part and (len(part) == ROWS_AT_ONCE or len(files | {place.file}) > FILES_AT_ONCE):
            yield part
            part, files = [], set()
        part.append(place)
        files.add(place.file)
    if part:
        yield part


def _condition(table: LakeTable, places: Sequence[RowPlace]) -> str:
    """Return the SQL condition that is true of these rows only; it names nobody."""
    positions: dict[tuple[str, str, str, int], list[int]] = {}
    for place in places:
        positions.setdefault(place[1:5], []).append(place.position)
    return " OR ".join(
        f"({table.partitioned_by} = '{day}' AND log_epoch = '{epoch}' AND topic = '{topic}' "
        f'AND "partition" = {partition} AND "{table.position}" IN ({", ".join(map(str, sorted(found)))}))'
        for (day, epoch, topic, partition), found in sorted(positions.items())
    )
