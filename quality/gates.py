"""Gates: is the data of a topic fit to be applied? Counts over sliding windows, and what they say.

A window slides over the time of the log, in each partition the newest so far, which never goes back: what is decided
follows from the log, not from when it is read, nor from which partition is read first. Freshness slides over append
time, since a feed that sends only old events does not move event time; all else slides over event time, as far as it is
not ahead of append time. Counts of panes and of workers add up (`Tally`).
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

from config.quality import GatePolicy, GateSettings
from config.words import percent, span

PANES: Final = 10
PANES_KEPT: Final = 1_000  # those used last; what a partition needs are the ten where it stands
SCHEMA_PART: Final = "schema"
RECORDS_PART: Final = "records"


class Gate(StrEnum):
    """What is looked at."""

    FRESHNESS = "freshness"
    NULLS = "nulls"
    SCHEMA = "schema"
    REFERENCES = "references"


class GateStatus(StrEnum):
    """What a gate says; UNKNOWN is never good enough to be called PASS."""

    PASS = "pass"  # noqa: S105  # not a password
    FAIL = "fail"
    UNKNOWN = "unknown"
    OVERRIDDEN = "overridden"


@dataclass
class Tally:
    """What was counted, by part: `kind.field`, a name of an id, `schema` or `records`; tallies add up.

    Attributes:
        seen: what could be judged.
        bad: empty fields, records of unexpected schemas, ids that no reference table has.
        overdue: of the ids in `bad`, those that have been missing for longer than the grace period.
        youngest_ms: the smallest age of a record when it was appended; None before the first.
    """

    seen: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    overdue: Counter[str] = field(default_factory=Counter)
    youngest_ms: int | None = None

    def add(self, other: "Tally") -> None:
        """Add what another one counted."""
        self.seen.update(other.seen)
        self.bad.update(other.bad)
        self.overdue.update(other.overdue)
        if other.youngest_ms is not None:
            mine = self.youngest_ms
            self.youngest_ms = other.youngest_ms if mine is None else min(mine, other.youngest_ms)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"seen": self.seen, "bad": self.bad, "overdue": self.overdue, "youngest_ms": self.youngest_ms}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return what `document` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        seen, bad, overdue = (
            Counter({str(part): int(count) for part, count in document[name].items()})
            for name in ("seen", "bad", "overdue")
        )
        youngest = document["youngest_ms"]
        return cls(seen, bad, overdue, None if youngest is None else int(youngest))


class Panes:
    """Tallies by panes of time, over which windows slide; every partition stands at a pane of its own.

    In a backlog partitions are read hours apart. What one counts adds to what the others counted of the same time.

    Args:
        window_ms: divided into `PANES`.
    """

    def __init__(self, window_ms: int) -> None:
        self.pane_ms = max(1, window_ms // PANES)
        self._reached: dict[int, int] = {}
        self._tallies: OrderedDict[int, Tally] = OrderedDict()

    @property
    def now_ms(self) -> int:
        """The newest time of any partition; -1 before the first."""
        return max(self._reached.values(), default=-1)

    def pane(self, at_ms: int) -> int:
        """Return the number of the pane that holds an instant."""
        return at_ms // self.pane_ms

    def reached_ms(self, partition: int) -> int:
        """Return the newest time of a partition; -1 before the first."""
        return self._reached.get(partition, -1)

    def count_at(self, partition: int, at_ms: int) -> Tally:
        """Move a partition to `at_ms`, if that is later, and return the tally where it stands, to be added to."""
        self._reached[partition] = now_ms = max(at_ms, self.reached_ms(partition))
        pane = self.pane(now_ms)
        tally = self._tallies.setdefault(pane, Tally())
        self._tallies.move_to_end(pane)
        if len(self._tallies) > PANES_KEPT:
            self._tallies.popitem(last=False)
        return tally

    def window(self, end_ms: int) -> list[Tally]:
        """Return the tallies of the window whose newest pane holds `end_ms`."""
        pane = self.pane(end_ms)
        found = (self._tallies.get(number) for number in range(pane - PANES + 1, pane + 1))
        return [tally for tally in found if tally is not None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says about a topic.

    Attributes:
        value: what is compared with the threshold: a share, a count, or an age in ms; None when nothing is known.
        count: how many records, fields or ids it rests on.
        detail: the same in words.
        part: which field, id or schema it is about; empty for all.
    """

    gate: Gate
    status: GateStatus
    value: float | None
    threshold: float
    count: int
    detail: str
    part: str = ""


class CriticalField(NamedTuple):
    """A field that must not be empty in events of a kind."""

    kind: str
    name: str

    @property
    def part(self) -> str:
        """How it is written in the settings and in tallies."""
        return f"{self.kind}.{self.name}"


@dataclass(frozen=True, slots=True)
class GateRules:
    """What is asked of one topic.

    Attributes:
        fields: its critical fields.
        ids: fields that hold ids of reference tables.
    """

    settings: GateSettings
    fields: tuple[CriticalField, ...]
    ids: tuple[str, ...]

    def policy(self, gate: Gate) -> GatePolicy:
        """Return what a violation of a gate does."""
        settings = self.settings
        return {
            Gate.FRESHNESS: settings.freshness_policy,
            Gate.NULLS: settings.null_policy,
            Gate.SCHEMA: settings.schema_policy,
            Gate.REFERENCES: settings.reference_policy,
        }[gate]

    def is_on(self, gate: Gate) -> bool:
        """Tell whether a gate is judged."""
        return self.policy(gate) is not GatePolicy.OFF


def judge(tally: Tally, rules: GateRules, *, missing: Iterable[str] = ()) -> list[Verdict]:
    """Say what each gate that is on makes of what one window counted.

    Args:
        missing: ids whose reference table is not there.
    """
    asked = {
        Gate.FRESHNESS: lambda: _freshness(tally, rules),
        Gate.NULLS: lambda: _nulls(tally, rules),
        Gate.SCHEMA: lambda: _schema(tally),
        Gate.REFERENCES: lambda: _references(tally, rules, frozenset(missing)),
    }
    return [asked[gate]() for gate in Gate if rules.is_on(gate)]


def _freshness(tally: Tally, rules: GateRules) -> Verdict:
    limit, count, youngest = rules.settings.freshness_max_ms, tally.seen[RECORDS_PART], tally.youngest_ms
    if youngest is None or count < rules.settings.min_count:
        return _too_few(Gate.FRESHNESS, count, rules, limit)
    age = max(0, youngest)  # a producer's clock may be ahead
    said = f"the newest of {count:,} records was {span(age)} old when it arrived"
    status = GateStatus.FAIL if age > limit else GateStatus.PASS
    return Verdict(Gate.FRESHNESS, status, age, limit, count, f"{said} (at most {span(limit)})")


def _nulls(tally: Tally, rules: GateRules) -> Verdict:
    limit = rules.settings.null_share_max
    if not rules.fields:
        return Verdict(Gate.NULLS, GateStatus.UNKNOWN, None, limit, 0, "no critical field is set for this topic")
    found = []
    for part in (critical.part for critical in rules.fields):
        count, bad = tally.seen[part], tally.bad[part]
        if count < rules.settings.min_count:
            found.append(_too_few(Gate.NULLS, count, rules, limit, part))
            continue
        share = bad / count
        said = f"{part} is empty in {percent(share)} of {count:,} events (below {percent(limit)})"
        found.append(Verdict(Gate.NULLS, _over(share, limit), share, limit, count, said, part))
    return _worst(found)


def _schema(tally: Tally) -> Verdict:
    count, bad = tally.seen[SCHEMA_PART], tally.bad[SCHEMA_PART]
    if not count:
        return Verdict(Gate.SCHEMA, GateStatus.UNKNOWN, None, 0, 0, "no record was seen in this window")
    if bad:
        said = f"{bad:,} of {count:,} records were written with a schema that nobody expects"
        return Verdict(Gate.SCHEMA, GateStatus.FAIL, bad, 0, count, said, SCHEMA_PART)
    return Verdict(Gate.SCHEMA, GateStatus.PASS, 0, 0, count, f"{count:,} records, all of expected schemas")


def _references(tally: Tally, rules: GateRules, missing: frozenset[str]) -> Verdict:
    settings = rules.settings
    found = []
    for part in rules.ids:
        count, bad, overdue = tally.seen[part], tally.bad[part], tally.overdue[part]
        limit, new_limit = settings.unresolved_share_max, settings.new_share_max
        if part in missing:
            said = f"there is no reference table of {part}"
            found.append(Verdict(Gate.REFERENCES, GateStatus.UNKNOWN, None, limit, count, said, part))
            continue
        if count < settings.min_count:
            found.append(_too_few(Gate.REFERENCES, count, rules, limit, part))
            continue
        new_share, share = bad / count, overdue / count
        if new_share >= new_limit:
            said = f"{percent(new_share)} of {count:,} values of {part} are in no table (below {percent(new_limit)})"
            found.append(Verdict(Gate.REFERENCES, GateStatus.FAIL, new_share, new_limit, count, said, part))
            continue
        said = (
            f"{percent(share)} of {count:,} values of {part} have been in no table for longer than "
            f"{span(settings.grace_ms)} (below {percent(limit)}); {percent(new_share)} with newer ones"
        )
        found.append(Verdict(Gate.REFERENCES, _over(share, limit), share, limit, count, said, part))
    return _worst(found, missing)


def _over(share: float, limit: float) -> GateStatus:
    return GateStatus.FAIL if share >= limit else GateStatus.PASS


def _too_few(gate: Gate, count: int, rules: GateRules, limit: float, part: str = "") -> Verdict:
    said = f"{count:,} {part or 'records'} in this window are too few to judge (from {rules.settings.min_count:,} on)"
    return Verdict(gate, GateStatus.UNKNOWN, None, limit, count, said, part)


def _worst(found: Sequence[Verdict], missing: frozenset[str] = frozenset()) -> Verdict:
    """Return what fails, else what cannot be known, else what comes nearest to failing; what is too few comes last."""

    def rank(verdict: Verdict) -> tuple[int, float]:
        if verdict.status is GateStatus.FAIL:
            return 3, verdict.value or 0.0
        if verdict.part in missing:
            return 2, 0.0
        return int(verdict.status is GateStatus.PASS), verdict.value or 0.0

    return max(found, key=rank)
