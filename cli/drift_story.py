"""What the story of `shopstream demo --drift` is told with: its steps."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StoryStep:
    """One step of the story.

    Attributes:
        outcome: in words what happened.
        at_s: when it began, from the start of the demo.
        is_as_told: whether it happened as it should.
        figures: what was measured; JSON.
    """

    name: str
    outcome: str
    at_s: float
    seconds: float
    is_as_told: bool
    figures: Mapping[str, Any] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "step": self.name,
            "outcome": self.outcome,
            "at_s": round(self.at_s, 1),
            "seconds": round(self.seconds, 1),
            "as_told": self.is_as_told,
            **self.figures,
        }


@dataclass(slots=True)
class Happening:
    """A step while it goes on; what is set here is told at its end.

    Attributes:
        outcome: in words what happened.
        is_as_told: whether all that was expected held.
        figures: what was measured.
    """

    outcome: str = ""
    is_as_told: bool = True
    figures: dict[str, Any] = field(default_factory=dict)

    def expect(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Note a condition of the story, and what is told where it does not hold."""
        if not holds:
            self.fail(otherwise)

    def fail(self, what: str) -> None:
        """Note that it did not go as it should, and why."""
        self.is_as_told = False
        self.outcome = "; ".join(part for part in (self.outcome, f"NOT AS TOLD: {what}") if part)


class Narrator:
    """Tells each step, when it begins and when it has ended.

    Args:
        tell: shows a line.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.steps: list[StoryStep] = []
        self._started_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._started_s

    @contextmanager
    def step(self, name: str, begins: str) -> Iterator[Happening]:
        """Tell a step; what the block sets is its outcome."""
        at_s = self.seconds
        self.tell(f"{name}: {begins}")
        happening = Happening()
        yield happening
        done = StoryStep(name, happening.outcome, at_s, self.seconds - at_s, happening.is_as_told, happening.figures)
        self.steps.append(done)
        self.tell(f"{name}: {done.outcome} ({done.seconds:.1f} s)")
