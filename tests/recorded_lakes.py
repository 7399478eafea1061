"""Small lakes as a worker would have written them: events arrive, are folded, and are readable from some instant on."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.apply import fold
from features.finalize import finalize
from features.state import Trailer, decode, read_trailer, with_trailer
from schemas.event import CART_KINDS, CARTS_TOPIC, CLICKS_TOPIC, Event, Record
from schemas.partitioner import partition_of
from sinks.lake import LakeSink
from sinks.rows import FeatureLogRow, PartitionFlush, RawRow

PARTITIONS = 2
TOPIC_IDS = {CLICKS_TOPIC: "clicksid", CARTS_TOPIC: "cartsid"}


@dataclass
class RecordedLake:
    """A lake in the making; `write` appends what arrived since the last time, in one commit per table.

    Attributes:
        topic_ids: by topic; another lake object on the same root with others is a topic that was created anew.
        logs: (offset, event) by topic and user, in log order.
        pushed: (servable_ms, state) by topic and user, in the order of pushes.
    """

    root: Path
    topic_ids: Mapping[str, str] = field(default_factory=lambda: TOPIC_IDS)
    logs: dict[tuple[str, str], list[tuple[int, Event]]] = field(default_factory=lambda: defaultdict(list))
    pushed: dict[tuple[str, str], list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    _next: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    _rows: dict[tuple[str, int], PartitionFlush] = field(default_factory=dict)
    _sink: LakeSink | None = None

    def arrive(self, event: Event, *, at_ms: int, servable_ms: int | None = None, schema_id: int = 7) -> int:
        """Append an event to its log and push the state; return its offset.

        Args:
            at_ms: when the broker got it.
            servable_ms: when the state became readable; 5 ms later, if None.
        """
        topic = CARTS_TOPIC if event.kind in CART_KINDS else CLICKS_TOPIC
        partition = partition_of(event.user_id.encode(), PARTITIONS)
        offset = self._next[topic, partition]
        self._next[topic, partition] = offset + 1
        self.logs[topic, event.user_id].append((offset, event))
        record = Record(topic, partition, offset, at_ms, event.user_id.encode(), b"framed")
        flush = self._flush(topic, partition)
        flush.raw.append(RawRow(record, event, schema_id, at_ms + 1))
        before = self.pushed[topic, event.user_id]
        state = fold(before[-1][1] if before else None, [(offset, event)]).state
        self.push(topic, event.user_id, state, at_ms + 5 if servable_ms is None else servable_ms)
        return offset

    def push(self, topic: str, user_id: str, state: bytes, servable_ms: int) -> None:
        """Log a state as pushed."""
        self.pushed[topic, user_id].append((servable_ms, state))
        row = FeatureLogRow(user_id, read_trailer(state).version, state, servable_ms)
        self._flush(topic, partition_of(user_id.encode(), PARTITIONS)).features.append(row)

    def write(self) -> None:
        """Append what is not in the lake yet."""
        if self._sink is None:
            self._sink = LakeSink(self.root)
        flushes = [
            PartitionFlush(
                topic=flush.topic,
                topic_id=flush.topic_id,
                log_epoch=flush.log_epoch,
                partition=flush.partition,
                first_offset=0,
                last_offset=self._next[key] - 1,
                raw=flush.raw,
                features=flush.features,
            )
            for key, flush in self._rows.items()
        ]
        self._sink.write(flushes)
        self._rows.clear()

    def served(self, user_id: str, instant_ms: int) -> dict[str, Any]:
        """Return by brute force what a reader was given."""
        found = {topic: self.newest(topic, user_id, instant_ms) for topic in TOPIC_IDS}
        return finalize({topic: None if hit is None else decode(hit[1]) for topic, hit in found.items()}, instant_ms)

    def newest(self, topic: str, user_id: str, instant_ms: int) -> tuple[int, bytes] | None:
        """Return by brute force the newest (servable_ms, state) at an instant."""
        readable = [push for push in self.pushed.get((topic, user_id), ()) if push[0] <= instant_ms]
        return max(readable, key=lambda push: (push[0], *_order(read_trailer(push[1]))), default=None)

    def log_until(self, topic: str, user_id: str, instant_ms: int) -> Sequence[tuple[int, Event]]:
        """Return a user's log without what happened after an instant."""
        log = self.logs.get((topic, user_id), ())
        return [(offset, event) for offset, event in log if event.event_time_ms <= instant_ms]

    def _flush(self, topic: str, partition: int) -> PartitionFlush:
        if (topic, partition) not in self._rows:
            topic_id = self.topic_ids[topic]
            epoch = f"{topic_id}:{PARTITIONS}"
            self._rows[topic, partition] = PartitionFlush(topic, topic_id, epoch, partition, 0, 0)
        return self._rows[topic, partition]


def repaired(state: bytes, generation: int) -> bytes:
    """Return a state as a repair would have written it."""
    return with_trailer(state, Trailer(generation, 0, read_trailer(state).version))


def _order(trailer: Trailer) -> tuple[int, int]:
    return trailer.generation, trailer.version
