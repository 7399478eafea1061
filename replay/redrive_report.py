"""What became of the letters that a redrive selected."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from replay.redrive_planning import Planned, Verdict


@dataclass(slots=True)
class RedriveReport:
    """What became of the letters that were selected.

    Attributes:
        verdicts: how many letters, by reason and verdict.
        examples: one letter of each reason and verdict, and why.
        published: letters that Kafka has stored again in this run.
        recovered: letters that an earlier run had published without noting where.
    """

    dry_run: bool
    verdicts: Counter[tuple[str, Verdict]] = field(default_factory=Counter)
    examples: dict[tuple[str, Verdict], Planned] = field(default_factory=dict)
    published: int = 0
    recovered: int = 0

    def add(self, planned: Planned) -> None:
        """Count one letter."""
        key = (planned.head.reason, planned.verdict)
        self.verdicts[key] += 1
        self.examples.setdefault(key, planned)

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        rows = [
            {
                "reason": reason,
                "verdict": verdict.value,
                "letters": self.verdicts[reason, verdict],
                "example": str(planned.head.position),
                "why": planned.why,
            }
            for (reason, verdict), planned in sorted(self.examples.items())
        ]
        return {
            "dry_run": self.dry_run,
            "letters": self.verdicts.total(),
            "published": self.published,
            "recovered": self.recovered,
            "verdicts": rows,
        }
