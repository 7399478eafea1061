"""Counts what gates look at, over the records that one worker reads of a topic: a few loops in C per batch."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter, sub
from typing import Any, Final, NamedTuple

from config.errors import SettingsError
from config.quality import GateSettings
from quality.gates import (
    RECORDS_PART,
    SCHEMA_PART,
    CriticalField,
    Gate,
    GateRules,
    GateStatus,
    Panes,
    Tally,
    Verdict,
    judge,
)
from quality.known_ids import FirstSeen, KnownIds
from schemas.event import KINDS_BY_TOPIC, Event
from sinks.rows import RawRow
from streams.decoding import DecodedBatch

EXAMPLES_MAX: Final = 5
REFERENCES: Final = {"product_id": "products", "category_id": "categories", "user_id": "users"}


def rules_of(settings: GateSettings) -> dict[str, GateRules]:
    """Return what is asked of each topic.

    Raises:
        SettingsError: a critical field does not exist.
    """
    topic_of = {kind: topic for topic, kinds in KINDS_BY_TOPIC.items() for kind in kinds}
    names = Event.__struct_fields__
    fields: dict[str, list[CriticalField]] = {topic: [] for topic in KINDS_BY_TOPIC}
    for text in dict.fromkeys(settings.critical_fields):
        kind, _, name = text.partition(".")
        if kind not in topic_of or name not in names:
            raise SettingsError(
                f"gates.critical_fields names {text!r}, which no event has.",
                hint=f"It is kind.field; kinds: {', '.join(topic_of)}; fields: {', '.join(names)}.",
            )
        fields[topic_of[kind]].append(CriticalField(kind, name))
    return {topic: GateRules(settings, tuple(found), tuple(REFERENCES)) for topic, found in fields.items()}


@dataclass
class Evidence:
    """Where something bad was seen; it names no user, because it is kept where no erasure looks.

    Attributes:
        newest: the newest of it: partition, offset and value; the value is left out where it would name a user.
        offsets: first and last offset by partition.
    """

    newest: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EXAMPLES_MAX))
    offsets: dict[int, list[int]] = field(default_factory=dict)

    def add(self, rows: Iterable[RawRow], value: str) -> None:
        """Add records, and an attribute of their events, or `schema_id`."""
        for row in rows:
            partition, offset = row.record.partition, row.record.offset
            seen: dict[str, Any] = {"partition": partition, "offset": offset}
            if value == "schema_id":
                seen["value"] = row.schema_id
            elif value != "user_id":
                seen["value"] = getattr(row.event, value)
            self.newest.append(seen)
            span = self.offsets.setdefault(partition, [offset, offset])
            span[:] = min(span[0], offset), max(span[1], offset)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"examples": list(self.newest), "offsets": {str(number): ends for number, ends in self.offsets.items()}}


class Failure(NamedTuple):
    """A gate that failed on the way.

    Attributes:
        happened_ms: event time that the partition had reached there; the window ends with it.
        arrived_ms: the same of append time.
    """

    verdict: Verdict
    happened_ms: int
    arrived_ms: int


class TopicCounting:
    """The gates of one topic on one worker.

    Attributes:
        rules: what is asked.
        tables: reference tables by name of the id; None where there is none. Replaced from outside.
        unexpected: ids of writer schemas that nobody expects. Replaced from outside.
        counted: by partition, the offset below which records are counted, or accepted as they are.
    """

    def __init__(self, rules: GateRules) -> None:
        self.rules = rules
        self.tables: Mapping[str, KnownIds | None] = {}
        self.unexpected: frozenset[int] = frozenset()
        self.counted: dict[int, int] = {}
        self._first_seen = {name: FirstSeen() for name in rules.ids}
        self._critical = [(part.kind, part.part, part.name, attrgetter(part.name)) for part in rules.fields]
        self._ids = [(name, attrgetter(name)) for name in rules.ids]
        self.begin_anew({})

    def begin_anew(self, accepted: Mapping[int, int]) -> None:
        """Forget what was counted; records below `accepted`, by partition, are not looked at."""
        window_ms = self.rules.settings.window_ms
        self._happened, self._arrived = Panes(window_ms), Panes(window_ms)
        self.evidence: dict[str, Evidence] = {}
        self.counted = dict(accepted)

    @property
    def arrived_ms(self) -> int:
        """The newest append time."""
        return self._arrived.now_ms

    @property
    def happened_ms(self) -> int:
        """The newest event time, as far as it is not ahead of append time."""
        return self._happened.now_ms

    def tally(self, happened_ms: int | None = None, arrived_ms: int | None = None) -> Tally:
        """Return what both windows hold that end there; the newest unless told."""
        total = Tally()
        for tally in (
            *self._happened.window(self.happened_ms if happened_ms is None else happened_ms),
            *self._arrived.window(self.arrived_ms if arrived_ms is None else arrived_ms),
        ):
            total.add(tally)
        return total

    def missing(self) -> list[str]:
        """Return the ids whose reference table is not there."""
        return [name for name in self.rules.ids if self.tables.get(name) is None]

    def verdicts(self, happened_ms: int | None = None, arrived_ms: int | None = None) -> list[Verdict]:
        """Say what the gates make of the windows that end there; the newest unless told."""
        return judge(self.tally(happened_ms, arrived_ms), self.rules, missing=self.missing())

    def look(self, works: Sequence[DecodedBatch]) -> dict[Gate, Failure]:
        """Count batches, pane by pane, and return what failed on the way; what was counted before is left out."""
        failed: dict[Gate, Failure] = {}
        for work in works:
            for happened_ms, arrived_ms in self._counts(work.batch.tp.partition, self._uncounted(work)):
                if not self._is_beyond_doubt(happened_ms, arrived_ms):
                    for verdict in self.verdicts(happened_ms, arrived_ms):
                        if verdict.status is GateStatus.FAIL:
                            failed.setdefault(verdict.gate, Failure(verdict, happened_ms, arrived_ms))
        return failed

    def _uncounted(self, work: DecodedBatch) -> Sequence[RawRow]:
        partition, rows = work.batch.tp.partition, work.rows
        begin = self.counted.get(partition, 0)
        if work.batch.next_offset <= begin:
            return ()
        self.counted[partition] = work.batch.next_offset
        if not rows or rows[0].record.offset >= begin:
            return rows
        return [row for row in rows if row.record.offset >= begin]

    def _counts(self, partition: int, rows: Sequence[RawRow]) -> Iterator[tuple[int, int]]:
        """Count rows; yield after each run of them that is in one pane of both times: (event time, append time)."""
        if not rows:
            return
        events = [row.event for row in rows]
        times = [event.event_time_ms for event in events]
        appends = [row.record.append_time_ms for row in rows]
        begin = 0
        for end, happened_ms, arrived_ms in self._ends(partition, list(map(min, times, appends)), appends):
            part, of_part = rows[begin:end], events[begin:end]
            arrived = self._arrived.count_at(partition, arrived_ms)
            if self.rules.is_on(Gate.FRESHNESS):
                ages = Tally(youngest_ms=min(map(sub, appends[begin:end], times[begin:end])))
                ages.seen[RECORDS_PART] = len(part)
                arrived.add(ages)
            self._count(part, of_part, self._happened.count_at(partition, happened_ms), happened_ms)
            yield happened_ms, arrived_ms
            begin = end

    def _ends(self, partition: int, times: Sequence[int], appends: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return where runs of one pane end, with the partition's times there: (index, event time, append time)."""
        happened, arrived = self._happened, self._arrived
        happened_ms, arrived_ms = happened.reached_ms(partition), arrived.reached_ms(partition)
        newest, last = max(happened_ms, *times), max(arrived_ms, *appends)
        stays = happened.pane(newest) == happened.pane(happened_ms) and arrived.pane(last) == arrived.pane(arrived_ms)
        if stays:
            return [(len(times), newest, last)]
        # both never go back, so where a pane ends is found without a look at each record
        newest_at = list(accumulate(times, max, initial=happened_ms))[1:]
        last_at = list(accumulate(appends, max, initial=arrived_ms))[1:]
        ends, end = [], 0
        while end < len(times):
            end = min(
                bisect_right(newest_at, happened.pane(newest_at[end]), end, key=happened.pane),
                bisect_right(last_at, arrived.pane(last_at[end]), end, key=arrived.pane),
            )
            ends.append((end, newest_at[end - 1], last_at[end - 1]))
        return ends

    def _is_beyond_doubt(self, happened_ms: int, arrived_ms: int) -> bool:
        """Tell whether no gate can fail, without asking each."""
        if any(tally.bad for tally in self._happened.window(happened_ms)):
            return False
        ages = [tally.youngest_ms for tally in self._arrived.window(arrived_ms) if tally.youngest_ms is not None]
        return not ages or min(ages) <= self.rules.settings.freshness_max_ms or not self.rules.is_on(Gate.FRESHNESS)

    def _count(self, rows: Sequence[RawRow], events: Sequence[Event], tally: Tally, now_ms: int) -> None:
        if self.rules.is_on(Gate.NULLS):
            self._count_nulls(rows, events, tally)
        if self.rules.is_on(Gate.SCHEMA):
            tally.seen[SCHEMA_PART] += len(rows)
            if self.unexpected:
                bad = [row for row in rows if row.schema_id in self.unexpected]
                self._note(tally, SCHEMA_PART, bad, "schema_id")
        if self.rules.is_on(Gate.REFERENCES):
            self._count_ids(rows, events, tally, now_ms)

    def _count_nulls(self, rows: Sequence[RawRow], events: Sequence[Event], tally: Tally) -> None:
        kinds = [event.kind for event in events]
        by_kind: dict[str, list[Event]] = {}
        for kind, part, name, value in self._critical:
            if kind not in by_kind:
                by_kind[kind] = [event for event, its in zip(events, kinds, strict=True) if its == kind]
            found = by_kind[kind]
            tally.seen[part] += len(found)
            values = list(map(value, found))
            if values.count(None) or values.count(""):
                bad = [row for row in rows if row.event.kind == kind and value(row.event) in {None, ""}]
                self._note(tally, part, bad, name)

    def _count_ids(self, rows: Sequence[RawRow], events: Sequence[Event], tally: Tally, now_ms: int) -> None:
        settings = self.rules.settings
        for name, value in self._ids:
            table = self.tables.get(name)
            if table is None:
                continue
            values = list(map(value, events))
            tally.seen[name] += len(values) - values.count(None) - values.count("")
            unknown = table.unknown(set(values))
            if not unknown:
                continue
            overdue = self._first_seen[name].overdue(unknown, now_ms, settings.grace_ms)
            self._note(tally, name, [row for row in rows if value(row.event) in unknown], name)
            tally.overdue[name] += sum(value(event) in overdue for event in events) if overdue else 0

    def _note(self, tally: Tally, part: str, bad: Sequence[RawRow], name: str) -> None:
        if bad:
            tally.bad[part] += len(bad)
            self.evidence.setdefault(part, Evidence()).add(bad, name)
