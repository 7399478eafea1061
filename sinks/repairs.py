"""What repairs leave in the lake: a note of each in `repairs`, and the new states in `feature_log`.

A note is written before the state is offered to the online store, so that what is stored was always noted. One that
was not stored after all is harmless: the next fold of that user takes the order that the note names.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from config.definition import DEFINITION_VERSION, versioned
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake
from sinks.rows import FeatureLogRow, PartitionFlush
from sinks.tables import FEATURE_LOG, REPAIRS, LakeTable

if TYPE_CHECKING:
    from sinks.lake import Appender

EVENT_TIME: Final = "event_time"
_DAY_MS: Final = 86_400_000


class RepairNote(NamedTuple):
    """One state that is about to be offered to the online store.

    Attributes:
        version: last offset of the user in the lake + 1.
    """

    user_id: str
    generation: int
    version: int


def _delta_appender(root: Lake, table: LakeTable) -> "Appender":
    from sinks.delta import DeltaAppender  # it imports the Delta library, which a command may never need

    return DeltaAppender(root, table)


class RepairSink:
    """Writes what one repair of one partition does; blocking.

    An append carries an application id of this very repair and round, so that one which is reported as failed though
    it succeeded is recognised, and the worker's own ids are left alone.

    Args:
        root: the lake.
        fold_order: `log` or `event_time`.
        open_table: what appends to a table.
    """

    def __init__(
        self,
        root: Lake,
        log: PartitionLog,
        fold_order: str,
        open_table: "Callable[[Lake, LakeTable], Appender]" = _delta_appender,
    ) -> None:
        self._lake = root
        self._log = log
        self._fold_order = fold_order
        self._notes = open_table(root, REPAIRS)
        self._states = open_table(root, FEATURE_LOG)
        self._run = uuid.uuid4().hex[:12]
        self._round = 0
        self._noted_version = -1

    def new_round(self) -> None:
        """Begin a round: within one, the versions of all that is written only grow."""
        self._round += 1
        self._noted_version = -1

    def note(self, notes: Sequence[RepairNote], repaired_ms: int) -> None:
        """Note states that are about to be offered, in the order of their versions.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        """
        import pyarrow as pa

        if notes[0].version <= self._noted_version:
            self.new_round()  # users whose states are what a new log begins with have one version
        self._noted_version = notes[-1].version

        from sinks.tables import arrow_schema

        constants = {
            **self._log._asdict(),
            "fold_order": self._fold_order,
            "repaired_ms": repaired_ms,
            "repaired_date": repaired_ms // _DAY_MS,
        }
        rows = [{**note._asdict(), **constants} for note in notes]
        schema = arrow_schema(REPAIRS)
        columns = [_column(pa, [row[name] for row in rows], schema.field(name).type) for name in schema.names]
        self._append(self._notes, REPAIRS, pa.Table.from_arrays(columns, schema=schema), notes[-1].version)

    def log_states(self, rows: Sequence[FeatureLogRow]) -> None:
        """Add states that the online store took to `feature_log`.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        """
        from sinks.arrow_rows import feature_log

        epoch, topic, partition = self._log
        flush = PartitionFlush(topic, self._log.topic_id, epoch, partition, 0, 0, features=list(rows))
        self._append(self._states, FEATURE_LOG, feature_log(flush), max(row.version for row in rows))

    def log_missing(self, rows: Sequence[FeatureLogRow]) -> None:
        """Add those of the states that `feature_log` does not hold: a repair that was killed stored them.

        Raises:
            LakeUnavailableError: the table cannot be read or written.
        """
        held = _held_states(self._lake, self._log, min(row.servable_ms for row in rows))
        missing = [row for row in rows if (row.user_id, row.version, row.servable_ms) not in held]
        if missing:
            self.new_round()
            self.log_states(sorted(missing, key=lambda row: row.version))

    def _append(self, appender: "Appender", table: LakeTable, rows: Any, last_version: int) -> None:
        from sinks.exact_append import TablePart

        app_id = f"{self._log.topic_id}-{self._log.partition}-{table.name}-repair-{self._run}-{self._round}"
        appender.append([TablePart(app_id, last_version - table.position_base, rows)])


def corrected_versions(lake: Lake, log: PartitionLog) -> dict[str, int]:
    """Return the users that were repaired in event-time order, and the version up to which that order holds.

    Every later fold takes their events below that version in event-time order, and the others in log order. What an
    earlier definition version has repaired so counts too: which events came back is told by the log.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    found: dict[str, int] = {}
    for definition in range(1, DEFINITION_VERSION + 1):
        table = replace(REPAIRS, name=versioned("repairs", definition))
        for users, versions in _columns(lake, table, log, ("user_id", "version"), ("fold_order", "==", EVENT_TIME)):
            for user_id, version in zip(users, versions, strict=True):
                found[user_id] = max(version, found.get(user_id, 0))
    return found


def _held_states(lake: Lake, log: PartitionLog, first_ms: int) -> set[tuple[str, int, int]]:
    names = ("user_id", "version", "servable_ms")
    held: set[tuple[str, int, int]] = set()
    for columns in _columns(lake, FEATURE_LOG, log, names, ("servable_ms", ">=", first_ms)):
        held.update(zip(*columns, strict=True))
    return held


def _columns(lake: Lake, table: LakeTable, log: PartitionLog, names: Sequence[str], also: tuple[str, str, Any]) -> Any:
    """Yield some columns of a partition's rows as lists, a piece of the table at a time."""
    from pyarrow import compute as pc

    from sinks.delta import explained, opened

    handle = opened(lake / table.name)
    if handle is None:
        return
    column, comparison, value = also
    wanted = pc.field(column) == value if comparison == "==" else pc.field(column) >= value
    for name, here in log._asdict().items():
        wanted &= pc.field(name) == here
    with explained(lake / table.name):
        for batch in handle.to_pyarrow_dataset().to_batches(columns=list(names), filter=wanted):
            yield [batch.column(name).to_pylist() for name in names]


def _column(pa: Any, values: Sequence[Any], kind: Any) -> Any:
    return pa.array(values, pa.int32()).cast(kind) if kind == pa.date32() else pa.array(values, kind)
