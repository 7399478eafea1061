"""Exact append to a table: a row that is there already is not written again, whoever tries, however often.

delta-rs keeps the transaction versions of a commit but does not compare them, so the comparison is made here:

1. read, from the snapshot of the handle, the last offset that the table holds for each application id;
2. drop the rows at or below it; where the table fills gaps, those of them that it really holds;
3. commit the rest with the new last offsets *on that same handle*.

A commit by somebody else for one of these ids since the snapshot makes the table refuse ours; then a new handle is
opened and everything is dropped and tried again. A worker that lost its partitions and does not know it is refused in
the same way, and then finds nothing left to write.

Which library keeps the table is not known here: see `sinks.delta`.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import CommitFailedError, DeltaError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from sinks.errors import LakeUnavailableError
from sinks.lake_root import TableAddress
from sinks.rows import TableCounts
from sinks.tables import LakeTable

CONFLICTS_MAX: Final = 8
# A handle keeps the whole list of commits since its checkpoint and goes through it at every commit: 8 ms after 100
# commits, 200 ms after 3,000. A new one starts from the newest checkpoint.
HANDLE_COMMITS_MAX: Final = 50

_WRITE_HINT: Final = (
    "Check that the disk has room and that this user may write there. Nothing was half-written: try again."
)


@dataclass(frozen=True, slots=True)
class TablePart:
    """Rows of one partition of a topic for one table.

    Attributes:
        app_id: as `sinks.tables.application_id` names it.
        last_offset: what the table will hold of the partition once these rows are in; none of them lies above it.
        rows: an Arrow table of the table's schema, in any order; of none, only `last_offset` is noted.
    """

    app_id: str
    last_offset: int
    rows: Any


class TableHandle(Protocol):
    """One snapshot of a table, on which one commit after the other is made."""

    def last_offset(self, app_id: str) -> int | None:
        """Return the last offset that the snapshot holds for an application id, None if it knows none."""
        ...

    def held_positions(self, rows: Any) -> Any:
        """Return, as Arrow, which positions between the first and the last of these rows the snapshot holds.

        Args:
            rows: at least one, all of one partition.
        """
        ...

    def commit(self, rows: Any, last_offsets: Mapping[str, int]) -> None:
        """Append rows and note new last offsets in one commit; the snapshot is then the one after it.

        Raises:
            CommitFailedError: somebody else has committed for one of these application ids since the snapshot.
            DeltaError, OSError: the table was not written, or it was and the answer was lost.
        """
        ...


OpenTable = Callable[[], TableHandle]


class ExactAppender:
    """Appends to one table of the lake. Threads may share it.

    Args:
        path: of the table, for errors.
        open_table: gives a handle at the newest version of the table, which it creates when it is not there.
        sleep: waits between two tries, in seconds.
    """

    def __init__(
        self,
        path: TableAddress,
        table: LakeTable,
        open_table: OpenTable,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._table = table
        self._open = open_table
        self._sleep = sleep
        self._lock = threading.Lock()
        self._handle: TableHandle | None = None
        self._handle_commits = 0

    def append(self, parts: Sequence[TablePart]) -> TableCounts:
        """Append the rows that the table does not hold yet, all in one commit; no commit when there are none.

        Blocking; repeating it is harmless.

        Args:
            parts: at most one of each application id; one without rows that the table is not behind is left out.

        Returns:
            What was written, and what was there already. Rows of a commit that succeeded though it was reported as
            failed count as there already.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        """
        if not parts:
            return TableCounts()
        if len({part.app_id for part in parts}) < len(parts):
            raise ValueError("one partition comes twice in one append")
        retrying = Retrying(
            retry=retry_if_exception_type((DeltaError, OSError)),
            wait=wait_random_exponential(multiplier=0.02, max=1.0),
            stop=_is_enough,
            sleep=self._sleep,
            reraise=True,
        )
        with self._lock, explained(self._path, _WRITE_HINT):
            return retrying(self._try_append, parts)

    def _try_append(self, parts: Sequence[TablePart]) -> TableCounts:
        row_count = sum(part.rows.num_rows for part in parts)
        try:
            handle = self._current_handle()
            batches, last_offsets = self._missing(parts, handle)
            if not last_offsets:
                return TableCounts(dropped=row_count)
            rows = pa.concat_tables(batches) if batches else parts[0].rows.slice(0, 0)
            handle.commit(rows, last_offsets)
        except (DeltaError, OSError):
            self._handle = None  # its snapshot is old, or what it refers to was cleaned up
            raise
        self._handle_commits += 1
        return TableCounts(written=rows.num_rows, dropped=row_count - rows.num_rows)

    def _missing(self, parts: Sequence[TablePart], handle: TableHandle) -> tuple[list[Any], dict[str, int]]:
        batches: list[Any] = []
        last_offsets: dict[str, int] = {}
        for part in parts:
            rows, last_offset = part.rows, part.last_offset
            held = handle.last_offset(part.app_id)
            if not rows.num_rows:
                if held is None or held < last_offset:
                    last_offsets[part.app_id] = last_offset
                continue
            if held is not None:
                rows, last_offset = self._not_held(rows, held, handle), max(held, last_offset)
            if rows.num_rows:
                batches.append(rows)
                last_offsets[part.app_id] = last_offset
        return batches, last_offsets

    def _not_held(self, rows: Any, held: int, handle: TableHandle) -> Any:
        first_above = held + 1 + self._table.position_base
        positions = rows.column(self._table.position)
        if pc.min(positions).as_py() >= first_above:
            return rows
        is_missing = pc.greater_equal(positions, first_above)
        if self._table.fills_gaps:
            below = rows.filter(pc.invert(is_missing))
            is_missing = pc.or_(is_missing, pc.invert(pc.is_in(positions, handle.held_positions(below))))
        return rows.filter(is_missing)

    def _current_handle(self) -> TableHandle:
        if self._handle is None or self._handle_commits >= HANDLE_COMMITS_MAX:
            self._handle = self._open()
            self._handle_commits = 0
        return self._handle


def _is_enough(state: RetryCallState) -> bool:
    """Stop late where somebody else was first; try anything else just once more, with a new handle."""
    refused = state.outcome is not None and isinstance(state.outcome.exception(), CommitFailedError)
    return state.attempt_number >= (CONFLICTS_MAX if refused else 2)


@contextmanager
def explained(path: TableAddress, hint: str) -> Iterator[None]:
    """Turn what the system or a library raises about the table at `path` into LakeUnavailableError."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise LakeUnavailableError(path, first_lines(error), hint=hint) from error


def first_lines(error: Exception) -> str:
    """Return what an error says, without the stack of the library that follows it."""
    lines = itertools.takewhile(lambda line: not line.lstrip().startswith("0: "), str(error).splitlines())
    return " ".join(line.strip() for line in lines).rstrip(".")
