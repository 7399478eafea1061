"""The audit of served answers: each is computed again from the lake, and the cause of each mismatch is named.

Users are taken some at a time, with the events of their last 25 hours, so that memory is bounded and each file is read
once per such part; the features of an answer need no more (docs/explanation/time-and-order.md).
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from replay.skew_causes import Judge, Suspect, settled_ms
from replay.skew_history import Entry, TopicHistory
from replay.skew_report import SkewReport
from replay.sources import EventSource, LakeSource
from schemas.event import EVENT_TOPICS
from sinks.erasures import Tombstones
from sinks.feature_states import ServedState, read_states
from sinks.lake_reads import PartitionLog, partition_rows
from sinks.lake_root import Lake
from sinks.served import ServedMoment, ServedRow, ServedView, read_served, served_moments
from sinks.tables import DEAD_LETTERS, RAW_EVENTS

HOUR_MS: Final = 3_600_000
WARM_UP_MS: Final = 25 * HOUR_MS
EVENTS_AT_ONCE: Final = 250_000
ROWS_AT_ONCE: Final = 20_000

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SkewOptions:
    """What is audited, and how strictly.

    Attributes:
        first_ms, end_ms: answers from the first to before the end, integer milliseconds UTC.
        users: whose, as stores hold them; None for all.
        limit: at most about so many answers, the newest; None for all.
        allowance_ms: `serving.push_allowance_ms`.
        future_ms: `events.future_tolerance_ms`.
    """

    first_ms: int
    end_ms: int
    users: Collection[str] | None = None
    limit: int | None = None
    allowance_ms: int = 2_000
    future_ms: int = 300_000


def audit(lake: Lake, options: SkewOptions, tombstones: Tombstones, progress: Progress = lambda _: None) -> SkewReport:
    """Compare the answers that were kept with what should have been served. Blocking; nothing is written.

    Args:
        tombstones: events of erased users, which do not count.
        progress: told in words how far it has come.

    Raises:
        LakeUnavailableError: a table cannot be read.
    """
    return _Audit(lake, options, tombstones, progress).run()


class _Audit:
    def __init__(self, lake: Lake, options: SkewOptions, tombstones: Tombstones, progress: Progress) -> None:
        self._lake = lake
        self._options = options
        self._tombstones = tombstones
        self._progress = progress
        self._source: EventSource = LakeSource(lake)
        self._logs = _Logs(lake, self._source)
        self._report = SkewReport(options.first_ms, options.end_ms, options.allowance_ms)
        self._corrected = {log: self._source.corrected(log) for log in self._logs.positions}

    def run(self) -> SkewReport:
        """Audit, some users at a time."""
        started_s = time.monotonic()
        moments = self._wanted()
        if moments:
            counts = Counter(moment.user_id for moment in moments)
            first_ms = min(moment.served_ms for moment in moments)
            since_ms = min(moment.as_of_ms for moment in moments) - WARM_UP_MS
            del moments
            self._progress(f"{counts.total():,} answers of {len(counts):,} users")
            for users in self._parts(counts):
                self._judge(users, first_ms, since_ms)
                done, seconds = self._report.looked_at, time.monotonic() - started_s
                self._progress(f"{done:,} of {counts.total():,} answers, {done / seconds:,.0f}/s")
        self._report.seconds = time.monotonic() - started_s
        return self._report

    def _wanted(self) -> list[ServedMoment]:
        options = self._options
        found = list(served_moments(self._lake, options.first_ms, options.end_ms, users=options.users))
        if options.limit is None or len(found) <= options.limit:
            return found
        # whole milliseconds, so that no answer is told from another one of the same moment
        newest_ms = sorted((moment.served_ms for moment in found), reverse=True)[options.limit - 1]
        kept = [moment for moment in found if moment.served_ms >= newest_ms]
        self._report.left_out = len(found) - len(kept)
        return kept

    def _parts(self, counts: Mapping[str, int]) -> Iterator[list[str]]:
        """Divide users so that neither the answers nor the events of a part are too many."""
        events: Counter[str] = Counter()
        for log in self._logs.positions:
            events += self._source.counts(log, users=counts)
        part: list[str] = []
        rows_count = events_count = 0
        for user_id in sorted(counts):
            rows_count, events_count = rows_count + counts[user_id], events_count + events[user_id]
            if part and (rows_count > ROWS_AT_ONCE or events_count > EVENTS_AT_ONCE):
                yield part
                part, rows_count, events_count = [], counts[user_id], events[user_id]
            part.append(user_id)
        yield part

    def _judge(self, users: Sequence[str], first_ms: int, since_ms: int) -> None:
        rows: dict[str, list[ServedRow]] = {user_id: [] for user_id in users}
        for piece in read_served(self._lake, first_ms, self._options.end_ms, users=users):
            for row in piece:
                rows[row.user_id].append(row)
        entries = self._entries(users, since_ms)
        suspects: list[tuple[Judge, Suspect]] = []
        for user_id, of_user in rows.items():
            judge = Judge(self._histories(user_id, entries.get(user_id, {})), self._options.allowance_ms)
            for row in sorted(of_user, key=lambda row: settled_ms(row, self._options.allowance_ms)):
                if self._is_out_of_reach(row):
                    continue
                suspect = judge.suspect(row)
                if suspect is None:
                    self._report.right += 1
                else:
                    suspects.append((judge, suspect))
            entries.pop(user_id, None)
        self._explain(suspects)

    def _is_out_of_reach(self, row: ServedRow) -> bool:
        if any(self._logs.lacks(topic, view) for topic, view in row.views.items()):
            self._report.pending += 1
            return True
        if any(self._logs.begins_after(topic, view, row.as_of_ms - WARM_UP_MS) for topic, view in row.views.items()):
            self._report.uncovered += 1
            return True
        return False

    def _explain(self, suspects: Sequence[tuple[Judge, Suspect]]) -> None:
        names = {id(suspect): dict(_served_states(suspect.row)) for _, suspect in suspects}
        states = read_states(self._lake, {name for of_row in names.values() for name in of_row.values()})
        for judge, suspect in suspects:
            of_row = names[id(suspect)]
            stored = {topic: states[name] for topic, name in of_row.items() if name in states}
            self._report.add(suspect.row, judge.mismatches(suspect, stored))

    def _entries(self, users: Sequence[str], since_ms: int) -> dict[str, dict[str, list[Entry]]]:
        """Read the events of users that may count, by user and topic."""
        found: dict[str, dict[str, list[Entry]]] = {}
        for log, position in self._logs.positions.items():
            # an event is never appended long before it happens
            first = self._source.offset_at(log, since_ms - self._options.future_ms)
            for piece in self._source.read(log, first, position, users=users):
                for offset, append_ms, event in zip(piece.offsets, piece.append_times_ms, piece.events, strict=True):
                    user_id = event.user_id
                    if not self._tombstones.covers(user_id, log.topic, log.log_epoch, log.partition, offset):
                        entry = Entry(log.log_epoch, offset, append_ms, event)
                        found.setdefault(user_id, {}).setdefault(log.topic, []).append(entry)
        return found

    def _histories(self, user_id: str, entries: Mapping[str, list[Entry]]) -> dict[str, TopicHistory]:
        repaired: dict[str, int] = {}
        for log, versions in self._corrected.items():
            if user_id in versions:
                repaired[log.topic] = max(versions[user_id], repaired.get(log.topic, 0))
        return {topic: TopicHistory(entries.get(topic, ()), repaired.get(topic, 0)) for topic in EVENT_TOPICS}


class _Logs:
    """What the lake holds of each partition."""

    def __init__(self, lake: Lake, source: EventSource) -> None:
        self._source = source
        found: dict[PartitionLog, int] = {}
        for table in (RAW_EVENTS, DEAD_LETTERS):
            for rows in partition_rows(lake, table):
                log = PartitionLog(rows.log_epoch, rows.topic, rows.partition)
                found[log] = min(rows.first_offset, found.get(log, rows.first_offset))
        self.positions = {log: source.position(log) for log in found}
        self._begins_ms = {log: self._beginning(log) for log, first_offset in found.items() if first_offset}

    def _beginning(self, log: PartitionLog) -> int:
        if self._source.former(log) is not None:
            return 0
        reach = self._source.reach(log)
        return 0 if reach is None else reach.first_append_ms

    def lacks(self, topic: str, view: ServedView) -> bool:
        """Tell whether the lake does not reach the state of a view yet."""
        if view.version is None:
            return False
        if view.epoch is None or view.partition is None:
            return view.version > max((end for log, end in self.positions.items() if log.topic == topic), default=0)
        log = PartitionLog(view.epoch, topic, view.partition)
        position = self.positions.get(log)
        return (self._source.position(log) if position is None else position) < view.version

    def begins_after(self, topic: str, view: ServedView, instant_ms: int) -> bool:
        """Tell whether the log of a view begins in the lake only after an instant."""
        if view.epoch is None or view.partition is None:
            return False
        return self._begins_ms.get(PartitionLog(view.epoch, topic, view.partition), 0) > instant_ms


def _served_states(row: ServedRow) -> Iterator[tuple[str, ServedState]]:
    for topic, view in row.views.items():
        if view.version is not None and view.servable_ms is not None:
            yield topic, ServedState(topic, row.user_id, view.version, view.servable_ms)
