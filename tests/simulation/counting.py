"""The worker's metrics, of which a run looks at the outcomes alone: the others cost a sixth of its time."""

from collections import Counter
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry

from streams.metrics import WorkerMetrics


class _Ignored:
    """Takes what a metric takes."""

    def labels(self, *labels: str) -> "_Ignored":
        return self

    def inc(self, amount: float = 1) -> None:
        """Count nothing."""

    def set(self, value: float) -> None:
        """Set nothing."""

    def observe(self, value: float) -> None:
        """Observe nothing."""


class _Halted(_Ignored):
    """Counts records of halted partitions."""

    count = 0

    def labels(self, *labels: str) -> "_Halted":
        return self

    def inc(self, amount: float = 1) -> None:
        self.count += round(amount)


class _Outcomes:
    """Counts records by outcome."""

    def __init__(self, outcomes: Counter[str], outcome: str = "") -> None:
        self._outcomes = outcomes
        self._outcome = outcome

    def labels(self, topic: str, outcome: str) -> "_Outcomes":
        return _Outcomes(self._outcomes, outcome)

    def inc(self, amount: int = 1) -> None:
        self._outcomes[self._outcome] += amount


@cache
def _names() -> tuple[str, ...]:
    return tuple(vars(WorkerMetrics(CollectorRegistry())))


class CountingMetrics(WorkerMetrics):
    """Metrics that nobody scrapes.

    Attributes:
        outcomes: records by outcome.
        read_while_halted: those that were read while their partition was halted.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        ignored: Any = _Ignored()
        for name in _names():
            setattr(self, name, ignored)
        records: Any = _Outcomes(self.outcomes)
        self.records = records
        self.read_while_halted = _Halted()
        halted: Any = self.read_while_halted
        self.halted_records = halted
