"""What the broker acknowledged, record by record, so that a checker can recompute every feature from it."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.event import Event
from schemas.producer import Delivery
from traffic.timed import BrokenEvent, Defect, Mark, TimedEvent


class Sent(NamedTuple):
    """One acknowledged record.

    Attributes:
        append_time_ms: the broker's LogAppendTime, integer milliseconds UTC.
        event: what it holds; None where it was sent broken.
        defect: how it is broken; `traffic.broken.EXPECTED_REASONS` tells its fate.
    """

    topic: str
    partition: int
    offset: int
    append_time_ms: int
    event: Event | None
    defect: Defect | None


@dataclass(slots=True)
class _PartitionLog:
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    append_times_ms: "array[int]" = field(default_factory=lambda: array("q"))
    payloads: list[Event | BrokenEvent] = field(default_factory=list)


class SentLog:
    """Counts what was acknowledged and, unless told otherwise, keeps it: 24 bytes a record besides the event itself.

    Args:
        keep: keep the records; False only counts them.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._partitions: dict[tuple[str, int], _PartitionLog] = {}
        self.acknowledged_count = 0
        self.failed_count = 0
        self.kind_counts: Counter[str] = Counter()
        self.mark_counts: Counter[Mark] = Counter()
        self.defect_counts: Counter[Defect] = Counter()
        self.error_counts: Counter[str] = Counter()

    def note(self, timed: TimedEvent, delivery: Delivery) -> None:
        """Take the broker's answer to one record."""
        if delivery.error is not None:
            self.failed_count += 1
            self.error_counts[delivery.error] += 1
            return
        payload = timed.payload
        self.acknowledged_count += 1
        self.mark_counts[timed.mark] += 1
        if isinstance(payload, BrokenEvent):
            self.defect_counts[payload.defect] += 1
        else:
            self.kind_counts[payload.kind] += 1
        if self._keep:
            where = (delivery.topic, delivery.partition)
            log = self._partitions.get(where)
            if log is None:
                log = self._partitions[where] = _PartitionLog()
            log.offsets.append(delivery.offset)
            log.append_times_ms.append(delivery.append_time_ms)
            log.payloads.append(payload)

    def records(self) -> Iterator[Sent]:
        """Yield what was kept, by topic and partition, each partition in log order."""
        for topic, partition in sorted(self._partitions):
            log = self._partitions[topic, partition]
            # the broker answers in log order; it is not promised for retries across a leader change
            order = sorted(range(len(log.offsets)), key=log.offsets.__getitem__)
            for at in order:
                payload = log.payloads[at]
                event, defect = (None, payload.defect) if isinstance(payload, BrokenEvent) else (payload, None)
                yield Sent(topic, partition, log.offsets[at], log.append_times_ms[at], event, defect)

    def by_user(self) -> dict[str, list[Sent]]:
        """Return each user's events by topic, each topic in log order; broken records belong to no user."""
        users: dict[str, list[Sent]] = {}
        for sent in self.records():
            if sent.event is not None:
                users.setdefault(sent.event.user_id, []).append(sent)
        return users
