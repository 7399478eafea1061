"""Stand-ins for what surrounds the batch loop: time, decoding, positions and letters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from schemas.codec import Decoded
from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.event import Event, Record
from schemas.topics import TopicInfo
from streams.ports import Positions, TopicPartition


@dataclass
class ManualClock:
    """Time that passes when a test says so."""

    wall_ms: int = 1_700_000_000_000
    elapsed_s: float = 0.0

    def now_ms(self) -> int:
        """Return wall-clock milliseconds UTC."""
        return self.wall_ms

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        return self.elapsed_s

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.elapsed_s += seconds
        self.wall_ms += round(seconds * 1000)


class JsonDecoder:
    """Records whose value is an event as JSON; anything else is a dead letter."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Event)

    def unresolved(self, records: Sequence[Record]) -> set[int]:
        """Return nothing: there are no schemas."""
        return set()

    async def resolve(self, ids: set[int]) -> None:
        """Fetch nothing."""

    def decode(self, record: Record, partition_count: int) -> Decoded | DeadLetter:
        """Decode one record."""
        try:
            return Decoded(self._decoder.decode(record.value or b""), 1)
        except msgspec.MsgspecError as error:
            return self.refused(record, str(error))

    def refused(self, record: Record, detail: str) -> DeadLetter:
        """Return the letter of a record that is not decoded."""
        return DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            append_time_ms=record.append_time_ms,
            key=record.key,
            value=record.value,
            schema_id=None,
            stage=Stage.DECODE,
            reason=Reason.UNDECODABLE,
            detail=detail,
            first_seen_ms=record.append_time_ms,
        )


@dataclass
class RecordedLetters:
    """A dead-letter topic that remembers."""

    letters: list[DeadLetter] = field(default_factory=list)

    async def write(self, letters: Sequence[DeadLetter], /) -> None:
        """Take letters."""
        self.letters.extend(letters)


@dataclass
class FixedOffsets:
    """Positions that a test sets."""

    log: TopicInfo
    positions_by_partition: dict[TopicPartition, Positions]

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Positions]:
        """Return the positions of each partition."""
        return {tp: self.positions_by_partition[tp] for tp in partitions}

    async def logs(self, topics: Sequence[str]) -> Mapping[str, TopicInfo]:
        """Return the same log for every topic."""
        return dict.fromkeys(topics, self.log)


def json_record(tp: TopicPartition, offset: int, event: Event | bytes, append_time_ms: int = 0) -> Record:
    """Return the record of an event, or of bytes that are none."""
    value = event if isinstance(event, bytes) else msgspec.json.encode(event)
    key = None if isinstance(event, bytes) else event.user_id.encode()
    return Record(tp.topic, tp.partition, offset, append_time_ms, key, value)
