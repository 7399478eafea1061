"""The target `history`: what a user's features were just after each event of a range, as rows of `feature_history`.

An event is folded into the state of its topic, in the order of the log, and the values are finalized over the states
of both topics at the time of the event. So a row says what a reader would have been told right then, had it asked for
that instant: a late event or a duplicate changes nothing, and an event before the newest is answered for the newest.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from config.definition import DEFINITION_VERSION
from config.settings import Settings
from features.apply import take
from features.finalize import finalize
from features.state import TopicState, decode, encode
from replay.errors import CatalogChangedError
from replay.targets import Chunk, Entry, RunInfo
from sinks.lake_reads import PartitionLog
from sinks.rows import TableCounts

if TYPE_CHECKING:
    from replay.history_corrections import Corrections

ROWS_AT_ONCE: Final = 100_000

_OWN_COLUMNS: Final = ("user_id", "offset", "append_time_ms", "event_time_ms", "outcome")

States = dict[str, bytes]  # of one user, by topic


class HistoryTable(Protocol):
    """What the rows are appended to (sinks/feature_history.py)."""

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the values that a row holds."""
        ...

    def rows(self, run_id: str, log: PartitionLog, columns: Mapping[str, Any], /) -> Any:
        """Return rows of one partition as Arrow."""
        ...

    def append(self, rows_by_log: Mapping[PartitionLog, Any], /) -> TableCounts:
        """Append the rows that are not there yet."""
        ...

    def replace_poorer(
        self, log: PartitionLog, first_offset: int, end_offset: int, /, *, users: Collection[str] | None
    ) -> int:
        """Delete the rows of a range that lack features; return how many there were."""
        ...


class _Saved(msgspec.Struct, array_like=True):
    """What a lane goes on from."""

    value_names: tuple[str, ...]
    counts: dict[str, int]
    users: list[str]
    states: dict[str, States]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Saved)


class HistoryTarget:
    """Writes the history of a lane; implements `replay.targets.Target`.

    Memory grows with the users: their states, as bytes. Of the rows some 100,000 wait for their append.

    Args:
        corrections: the states that repairs in event-time order gave to users.
    """

    def __init__(
        self, run: RunInfo, lane: Sequence[PartitionLog], table: HistoryTable, corrections: "Corrections"
    ) -> None:
        self._run = run
        self._lane = lane
        self._table = table
        self._corrections = corrections
        self._columns = (*_OWN_COLUMNS, *table.value_names)
        self._values_of = itemgetter(*table.value_names)
        self._states: dict[str, States] = {}
        self._users: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._waiting: dict[PartitionLog, list[Any]] = {}
        self._waiting_count = 0
        self._is_begun = False

    def restore(self, saved: bytes) -> None:
        """Go on from what `save` returned.

        Raises:
            CatalogChangedError: the rows before that lack features of this code's catalog, or have others.
        """
        found = _DECODER.decode(saved)
        if found.value_names != self._table.value_names:
            raise CatalogChangedError(
                f"a catalog of {len(found.value_names)} values", f"another, of {len(self._table.value_names)}"
            )
        self._counts, self._users, self._states = Counter(found.counts), set(found.users), found.states
        self._is_begun = True

    def write(self, chunk: Chunk) -> None:
        """Fold the events of a chunk, and keep a row for each that lies in the range."""
        if not self._is_begun:
            self._begin()
        by_user: dict[str, list[Entry]] = {}
        for entry in chunk.merged():
            by_user.setdefault(entry.event.user_id, []).append(entry)
        rows: dict[PartitionLog, list[tuple[Any, ...]]] = {}
        for user_id, entries in by_user.items():
            self._states[user_id] = self._fold(self._states.get(user_id, {}), entries, rows)
        self._users.update(row[0] for row in chain.from_iterable(rows.values()))
        for log, found in rows.items():
            self._counts["events"] += len(found)
            columns = dict(zip(self._columns, zip(*found, strict=True), strict=True))
            self._waiting.setdefault(log, []).append(self._table.rows(self._run.run_id, log, columns))
            self._waiting_count += len(found)
        if self._waiting_count >= ROWS_AT_ONCE:
            self._append()

    def save(self) -> bytes:
        """Append what waits, and return states and counts."""
        self._append()
        return _ENCODER.encode(_Saved(self._table.value_names, dict(self._counts), list(self._users), self._states))

    def counts(self) -> Mapping[str, int]:
        """Return how many events there were, how many rows were written or there already, and of how many users.

        `replaced` is how many rows an earlier catalog had written, which lacked features.
        """
        return {"events": 0, "written": 0, "held": 0, "replaced": 0, **self._counts, "users": len(self._users)}

    def close(self) -> None:
        """Do nothing: nothing is open between two appends."""

    def _begin(self) -> None:
        self._is_begun = True
        for log in self._lane:
            first_offset, end_offset = self._run.ranges[log]
            self._counts["replaced"] += self._table.replace_poorer(log, first_offset, end_offset, users=self._run.users)

    def _fold(
        self, stored: States, entries: Sequence[Entry], rows: dict[PartitionLog, list[tuple[Any, ...]]]
    ) -> States:
        """Return a user's states after these events, and add a row for each that lies in the range."""
        states: dict[str, TopicState | None] = {topic: decode(blob) for topic, blob in stored.items()}
        for entry in entries:
            log, offset, event = entry.log, entry.offset, entry.event
            corrected = self._corrections.before(log, event.user_id, offset, states.get(log.topic))
            states[log.topic], outcome = take(corrected, event, offset)
            if entry.is_warm_up:
                continue
            values = finalize(states, event.event_time_ms)
            own = (event.user_id, offset, entry.append_time_ms, event.event_time_ms, outcome.value)
            rows.setdefault(log, []).append((*own, *self._values_of(values)))
        return {topic: encode(state) for topic, state in states.items() if state is not None}

    def _append(self) -> None:
        import pyarrow as pa

        if not self._waiting_count:
            return
        told = self._table.append({log: pa.concat_tables(found) for log, found in self._waiting.items()})
        self._counts.update(written=told.written, held=told.dropped)
        self._waiting, self._waiting_count = {}, 0


def open_history(settings: Settings, run: RunInfo, lane: Sequence[PartitionLog]) -> HistoryTarget:
    """Open the history of one lane.

    Raises:
        CatalogChangedError: the replay was begun by code of another definition version.
        LakeUnavailableError: the table cannot be created or changed.
        LakePinnedError: the lake is read as of an earlier moment.
        SettingsError: the key of earlier erasures is not set.
    """
    if run.definition_version != DEFINITION_VERSION:
        raise CatalogChangedError(f"definition version {run.definition_version}", f"version {DEFINITION_VERSION}")
    from replay.history_corrections import Corrections
    from sinks.feature_history import HistoryAppender
    from sinks.lake_root import lake_of

    lake = lake_of(settings)
    return HistoryTarget(
        run, lane, HistoryAppender(lake, run.definition_version), Corrections.of(settings, lake, lane, run.users)
    )
