"""Which log took over from which: written once when a topic was moved to a new log epoch (replay/log_move.py).

States of the new log begin with those of the former one, so whoever folds a log asks here first. Only offsets at or
after `first_offset` are of the new log; in a topic that got more partitions what lies below is of the former one.
"""

from collections.abc import Sequence
from math import gcd
from typing import Any, Final, NamedTuple

from schemas.partitioner import partition_of
from sinks.derived_tables import LOG_MOVES
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake

_DAY_MS: Final = 86_400_000
_WRITE_HINT: Final = "Check that the disk has room and that this user may write there; then run the command again."
_ONCE: Final = 1


class MoveRow(NamedTuple):
    """One row of the table `log_moves`: where one partition of the new log begins.

    Attributes:
        partition: of the new log.
        first_offset: the new log begins here.
        moved_ms: integer milliseconds UTC.
    """

    topic: str
    from_epoch: str
    to_epoch: str
    partition: int
    first_offset: int
    moved_ms: int


class Succession(NamedTuple):
    """What a partition's log follows.

    Attributes:
        first_offset: the log begins here.
        former: partitions of the former log in which its users may have been.
    """

    first_offset: int
    former: tuple[PartitionLog, ...]


class LogMoves:
    """All moves that a lake knows.

    Args:
        rows: of the table.
    """

    def __init__(self, rows: Sequence[MoveRow] = ()) -> None:
        self.rows = tuple(rows)
        self._by_log = {PartitionLog(row.to_epoch, row.topic, row.partition): row for row in rows}

    def into(self, topic: str, to_epoch: str) -> dict[int, MoveRow]:
        """Return the rows of the move into a log, by partition; empty when there was none."""
        return {row.partition: row for row in self.rows if (row.topic, row.to_epoch) == (topic, to_epoch)}

    def first_offset(self, log: PartitionLog) -> int | None:
        """Return where a log begins that took over from another; None for any other log."""
        row = self._by_log.get(log)
        return None if row is None else row.first_offset

    def end_offset(self, log: PartitionLog) -> int | None:
        """Return where a log ends because the same topic got more partitions; None for any other log."""
        for row in self.rows:
            is_next = (row.topic, row.from_epoch, row.partition) == (log.topic, log.log_epoch, log.partition)
            if is_next and row.to_epoch.rpartition(":")[0] == log.topic_id:
                return row.first_offset
        return None

    def before(self, log: PartitionLog) -> Succession | None:
        """Return what a log follows; None if it was not moved to."""
        row = self._by_log.get(log)
        if row is None:
            return None
        was, now = count_of(row.from_epoch), count_of(row.to_epoch)
        # a hash leaves the same rest in both logs, by whatever divides both counts
        common = gcd(was, now)
        former = (partition for partition in range(was) if partition % common == log.partition % common)
        return Succession(
            row.first_offset, tuple(PartitionLog(row.from_epoch, row.topic, partition) for partition in former)
        )


def count_of(log_epoch: str) -> int:
    """Return how many partitions a log epoch has."""
    return int(log_epoch.rpartition(":")[2])


def is_of(log: PartitionLog, user_id: str) -> bool:
    """Tell whether a user's events belong to a partition."""
    return partition_of(user_id.encode(), count_of(log.log_epoch)) == log.partition


def read_log_moves(lake: Lake) -> LogMoves:
    """Read the moves that a lake knows; one without the table knows none.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    from sinks.delta import explained, opened  # it imports the Delta library, which a command may never need

    path = lake / LOG_MOVES.name
    handle = opened(path)
    if handle is None:
        return LogMoves()
    with explained(path):
        return LogMoves(_rows(handle))


def note_log_move(lake: Lake, rows: Sequence[MoveRow]) -> LogMoves:
    """Write a move, unless the lake knows one into that log already: then that one holds. Blocking.

    Args:
        rows: of one move, one per partition of the new log.

    Returns:
        All moves that the lake knows then.

    Raises:
        LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    from sinks.delta import explained, open_or_create, writer_properties

    path, topic, to_epoch = lake / LOG_MOVES.name, rows[0].topic, rows[0].to_epoch
    with explained(path, _WRITE_HINT):
        for _ in range(2):
            handle = open_or_create(path, LOG_MOVES)
            known = LogMoves(_rows(handle))
            if known.into(topic, to_epoch):
                return known
            try:
                write_deltalake(
                    handle,
                    _table(rows),
                    mode="append",
                    writer_properties=writer_properties(LOG_MOVES),
                    commit_properties=CommitProperties(
                        app_transactions=[Transaction(f"{topic}-{to_epoch}-{LOG_MOVES.name}", _ONCE)]
                    ),
                )
            except CommitFailedError:
                continue  # somebody else was faster: theirs holds
            break
        return read_log_moves(lake)


def _rows(handle: Any) -> list[MoveRow]:
    table = handle.to_pyarrow_table(columns=list(MoveRow._fields))
    columns = (table.column(name).to_pylist() for name in MoveRow._fields)
    return sorted(MoveRow(*row) for row in zip(*columns, strict=True))


def _table(rows: Sequence[MoveRow]) -> Any:
    import pyarrow as pa

    from sinks.tables import arrow_schema

    schema = arrow_schema(LOG_MOVES)
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in MoveRow._fields}
    columns["moved_date"] = pa.array([row.moved_ms // _DAY_MS for row in rows], pa.int32()).cast(pa.date32())
    return pa.Table.from_arrays(
        [pa.array(columns[name], schema.field(name).type) for name in schema.names], schema=schema
    )
