"""What an audit of served answers found: counts, examples, and the same as metrics."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from config.metrics import SKEW_METRICS
from features.catalog import DEFINITION_VERSION
from replay.skew_causes import Cause, Mismatch
from replay.skew_history import Entry
from sinks.served import ServedRow

EXAMPLES_MAX: Final = 50


class Example(NamedTuple):
    """A mismatch with the answer that it is in."""

    row: ServedRow
    mismatch: Mismatch

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        row, mismatch = self
        return {
            "feature": mismatch.feature,
            "cause": mismatch.cause.value,
            "why": mismatch.why,
            "user_id": row.user_id,
            "served_ms": row.served_ms,
            "as_of_ms": row.as_of_ms,
            "model": row.model,
            "served": mismatch.served,
            "right": mismatch.right,
            "views": {topic: view._asdict() for topic, view in row.views.items()},
            "events": [_event(topic, entry) for topic, entry in mismatch.events],
        }


def _event(topic: str, entry: Entry) -> dict[str, Any]:
    event = entry.event
    return {
        "topic": topic,
        "offset": entry.offset,
        "event_id": event.event_id,
        "kind": event.kind,
        "event_time_ms": event.event_time_ms,
        "append_time_ms": entry.append_ms,
    }


@dataclass(slots=True)
class SkewReport:
    """The result of one audit; it is filled while the audit runs.

    Attributes:
        first_ms, end_ms: answers from the first to before the end were looked at, integer milliseconds UTC.
        right: answers that are what should have been served.
        mismatched: answers with a value that is not.
        pending: answers of states that the lake does not reach yet; they can be judged a few seconds later.
        uncovered: answers whose last 25 h begin before the lake does; nothing can be said of them.
        left_out: answers that the limit left out, the oldest.
        counts: values that differ, by feature and cause.
        examples: one per feature and cause first.
    """

    first_ms: int
    end_ms: int
    allowance_ms: int
    right: int = 0
    mismatched: int = 0
    pending: int = 0
    uncovered: int = 0
    left_out: int = 0
    counts: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def looked_at(self) -> int:
        """How many answers were read."""
        return self.right + self.mismatched + self.pending + self.uncovered

    def add(self, row: ServedRow, mismatches: list[Mismatch]) -> None:
        """Take in an answer that is not right."""
        self.mismatched += 1
        for mismatch in mismatches:
            known = self.counts[(mismatch.feature, mismatch.cause)]
            self.counts[(mismatch.feature, mismatch.cause)] += 1
            if not known and len(self.examples) < EXAMPLES_MAX:
                self.examples.append(Example(row, mismatch))

    def by_cause(self) -> dict[str, int]:
        """Count the values that differ, by cause; causes that did not occur are 0."""
        totals = {cause.value: 0 for cause in Cause}
        for (_, cause), count in self.counts.items():
            totals[cause.value] += count
        return totals

    def by_feature(self) -> dict[str, dict[str, int]]:
        """Count the values that differ, by feature and then cause; only what occurred."""
        found: dict[str, dict[str, int]] = {}
        for (feature, cause), count in sorted(self.counts.items()):
            found.setdefault(feature, {})[cause.value] = count
        return found

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "from_ms": self.first_ms,
            "to_ms": self.end_ms,
            "allowance_ms": self.allowance_ms,
            "definition_version": DEFINITION_VERSION,
            "answers": self.looked_at,
            "right": self.right,
            "mismatched": self.mismatched,
            "pending": self.pending,
            "uncovered": self.uncovered,
            "left_out": self.left_out,
            "by_cause": self.by_cause(),
            "by_feature": self.by_feature(),
            "examples": [example.payload() for example in self.examples],
            "seconds": round(self.seconds, 1),
        }

    def results(self) -> Mapping[str, int]:
        """Count the answers by result."""
        return {
            "right": self.right,
            "mismatched": self.mismatched,
            "pending": self.pending,
            "uncovered": self.uncovered,
        }


def write_metrics(report: SkewReport, path: Path) -> None:
    """Write the metrics of `config.metrics.SKEW_METRICS` as a text file, whole or not at all.

    A node exporter's textfile collector, or anything else that reads Prometheus' text format, takes it from there.

    Raises:
        OSError: it cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    rows, mismatches, until = (
        Gauge(spec.name, spec.description, spec.labels, registry=registry) for spec in SKEW_METRICS
    )
    for result, count in report.results().items():
        rows.labels(result).set(count)
    for (feature, cause), count in report.counts.items():
        mismatches.labels(feature, cause.value).set(count)
    until.set(report.end_ms / 1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)
