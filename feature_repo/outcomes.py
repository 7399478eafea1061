"""What became of each row of a push: Feast's `push` returns nothing, so it is told beside it.

with record_outcomes() as outcomes:
    await store.push_async("user_clicks_push", frame)
outcomes.by_user["u-1"]   # WriteOutcome.WRITTEN
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from features.versioning import WriteOutcome


@dataclass
class PushOutcomes:
    """The outcomes of the pushes inside one `record_outcomes`; of a user pushed twice, the last."""

    by_user: dict[str, WriteOutcome] = field(default_factory=dict)

    def add(self, outcomes: Mapping[str, WriteOutcome]) -> None:
        """Add the outcomes of one write."""
        self.by_user.update(outcomes)

    @property
    def counts(self) -> Counter[WriteOutcome]:
        """How many users had each outcome."""
        return Counter(self.by_user.values())


_recorder: ContextVar[PushOutcomes | None] = ContextVar("push_outcomes", default=None)


@contextmanager
def record_outcomes() -> Iterator[PushOutcomes]:
    """Collect the outcomes of the pushes made inside, in this task and in tasks that it starts.

    They are complete when the push returns, and also when it raises VersionConflictError.
    """
    outcomes = PushOutcomes()
    token = _recorder.set(outcomes)
    try:
        yield outcomes
    finally:
        _recorder.reset(token)


def report_outcomes(outcomes: Mapping[str, WriteOutcome]) -> None:
    """Hand the outcomes of one write to whoever records them; without a recorder they are dropped."""
    recorder = _recorder.get()
    if recorder is not None:
        recorder.add(outcomes)
