"""Where the logs of erased users end: the tombstones, as the lake keeps them and as a filter.

An erased user's log ends at an offset of each partition. What lies below it is dropped whenever it is read again, from
Kafka or from a copy of the lake; what comes later is counted from zero. A tombstone names nobody: it holds a hash.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from config.errors import SettingsError
from schemas.privacy import Pseudonyms
from sinks.lake_root import Lake, writable
from sinks.tables import ERASURES

REQUESTED: Final = "requested"
ELSEWHERE: Final = "elsewhere"
CUT: Final = "cut"
LETTER: Final = "letter"
FINISHED: Final = "finished"

_WRITE_HINT: Final = "Check that the disk has room and that this user may write there; then run the command again."
_DAY_MS: Final = 86_400_000
_ENDS: Final = (REQUESTED, ELSEWHERE, CUT)


class ErasedLog(NamedTuple):
    """One partition's log: the same when its topic gets more partitions, another when that is created again."""

    topic_id: str
    topic: str
    partition: int


class ErasureRow(NamedTuple):
    """One row of the table `erasures`.

    Attributes:
        offset: the user's log ends before it; of a `letter`, its own offset.
        noted_ms: integer milliseconds UTC.
    """

    request_id: str
    step: str
    subject: str
    key_id: str
    log_epoch: str
    topic: str
    partition: int
    offset: int
    noted_ms: int

    @property
    def log(self) -> ErasedLog:
        """The log that the offset is of."""
        return ErasedLog(self.log_epoch.rpartition(":")[0], self.topic, self.partition)


@dataclass(frozen=True, slots=True)
class Tombstones:
    """What must not come back. False where nobody was ever erased: then there is nothing to ask.

    Attributes:
        ends: of each log, where those of erased users end, by the keyed hash of the user.
        letters: of each log, offsets of dead letters that named an erased user elsewhere than in their key.
        noted_ms: when the newest step of each user's erasures was noted, by the hash: what is of no log ends there.
    """

    ends: Mapping[ErasedLog, Mapping[str, int]] = field(default_factory=dict)
    letters: Mapping[ErasedLog, frozenset[int]] = field(default_factory=dict)
    pseudonyms: Pseudonyms | None = None
    noted_ms: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.ends)

    def covers(self, user_id: str, topic: str, log_epoch: str, partition: int, offset: int) -> bool:
        """Tell whether an event was erased.

        Args:
            user_id: as it is stored: the id itself, or its pseudonym.
        """
        return bool(self.ends) and offset < self.end_of(user_id, log_of(topic, log_epoch, partition))

    def end_of(self, user_id: str, log: ErasedLog) -> int:
        """Return the offset at which the log of a user begins anew; 0 for one who was never erased."""
        ends = self.ends.get(log)
        if not ends or self.pseudonyms is None:
            return 0
        return max(ends.get(subject, 0) for subject in self.pseudonyms.subjects(user_id))

    def until_ms(self, user_id: str) -> int:
        """Return until when a user was erased, integer milliseconds UTC; -1 for one who never was."""
        if not self.noted_ms or self.pseudonyms is None:
            return -1
        return max(self.noted_ms.get(subject, -1) for subject in self.pseudonyms.subjects(user_id))

    def covers_letter(self, key: bytes | None, offset: int, log: ErasedLog) -> bool:
        """Tell whether a record that became a dead letter was of an erased user, by its key and its place."""
        if offset in self.letters.get(log, ()):
            return True
        return key is not None and offset < self.end_of(key.decode(errors="replace"), log)

    def reach(self, log: ErasedLog) -> int:
        """Return the offset from which on nothing of a log is erased: only what lies below it needs to be looked at."""
        return max(self.ends.get(log, {}).values(), default=0)

    def with_ends(self, more: Iterable[tuple[ErasedLog, str, int]]) -> "Tombstones":
        """Return these with further ends of logs: (log, subject, offset)."""
        ends = {log: dict(of_log) for log, of_log in self.ends.items()}
        for log, subject, offset in more:
            of_log = ends.setdefault(log, {})
            of_log[subject] = max(offset, of_log.get(subject, 0))
        return replace(self, ends=ends)


def log_of(topic: str, log_epoch: str, partition: int) -> ErasedLog:
    """Return the log that offsets of an epoch belong to."""
    return ErasedLog(log_epoch.rpartition(":")[0], topic, partition)


def tombstones_of(rows: Iterable[ErasureRow], pseudonyms: Pseudonyms | None) -> Tombstones:
    """Make the filter of rows of the table.

    Raises:
        SettingsError: some were noted under a key that is not the one at hand: they could not be found again.
    """
    found = list(rows)
    key_ids = {row.key_id for row in found}
    if key_ids - {pseudonyms.key_id if pseudonyms else ""}:
        raise SettingsError(
            "Users were erased from this lake under a privacy.key that is not the one set now"
            if pseudonyms
            else "Users were erased from this lake, and privacy.key is not set",
            hint="Set the key that was used then: without it what was erased would come back unnoticed.",
        )
    letters: dict[ErasedLog, set[int]] = {}
    for row in found:
        if row.step == LETTER:
            letters.setdefault(row.log, set()).add(row.offset)
    ends = ((row.log, row.subject, row.offset) for row in found if row.step in _ENDS)
    frozen = {log: frozenset(offsets) for log, offsets in letters.items()}
    noted_ms: dict[str, int] = {}
    for row in found:
        noted_ms[row.subject] = max(row.noted_ms, noted_ms.get(row.subject, 0))
    return Tombstones({}, frozen, pseudonyms, noted_ms).with_ends(ends)


def read_tombstones(lake: Lake, pseudonyms: Pseudonyms | None) -> Tombstones:
    """Read which users were erased from a lake; a lake without the table has none.

    Args:
        pseudonyms: with the key of the settings, whether or not ids are replaced (`Pseudonyms.with_key_of`).

    Raises:
        LakeUnavailableError: the table cannot be read.
        SettingsError: there are erasures, and their key is not at hand.
    """
    return tombstones_of(read_erasures(lake), pseudonyms)


def read_erasures(lake: Lake) -> list[ErasureRow]:
    """Return the rows of the table.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    from sinks.delta import explained, opened  # it imports the Delta library, which a command may never need

    path = lake / ERASURES.name
    handle = opened(path)
    if handle is None:
        return []
    with explained(path):
        rows = handle.to_pyarrow_table(columns=list(ErasureRow._fields))
    return [
        ErasureRow(*row) for row in zip(*(rows.column(name).to_pylist() for name in ErasureRow._fields), strict=True)
    ]


def note_erasures(lake: Lake, rows: Sequence[ErasureRow]) -> None:
    """Append rows to the table, which is created when it is not there. Blocking; one caller at a time.

    Raises:
        LakeUnavailableError: nothing was written.
    """
    import pyarrow as pa
    from deltalake import write_deltalake

    from sinks.delta import explained, open_or_create, writer_properties
    from sinks.tables import arrow_schema

    path = writable(lake) / ERASURES.name
    schema = arrow_schema(ERASURES)
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in ErasureRow._fields}
    columns["noted_date"] = pa.array([row.noted_ms // _DAY_MS for row in rows], pa.int32()).cast(pa.date32())
    table = pa.Table.from_arrays(
        [pa.array(columns[name], schema.field(name).type) for name in schema.names], schema=schema
    )
    with explained(path, _WRITE_HINT):
        handle = open_or_create(path, ERASURES)
        write_deltalake(handle, table, mode="append", writer_properties=writer_properties(ERASURES))
