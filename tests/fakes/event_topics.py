"""The event topics in memory, as redrive sees them, and a death at a chosen point."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sinks.letter_reads import LogPosition
from sinks.republishing import Outgoing, Stored


class KilledError(BaseException):
    """The process is gone: nothing catches this."""


@dataclass
class MemoryTopics:
    """Implements `replay.redrive.EventTopics`.

    Attributes:
        logs: what was published, by topic and partition.
        first_offset: offset of the first record of every partition.
        dies: where the next `publish` ends the process: `before` or `after` Kafka has stored the records.
        refuses: how many of the last records of the next `publish` Kafka does not answer for.
    """

    logs: dict[tuple[str, int], list[Outgoing]] = field(default_factory=dict)
    first_offset: int = 1_000
    dies: str = ""
    refuses: int = 0

    def ends(self, topic: str, partitions: Collection[int]) -> Mapping[int, int]:
        """Return the next offset of some partitions."""
        return {number: self.first_offset + len(self.logs.get((topic, number), ())) for number in partitions}

    def publish(self, records: Sequence[Outgoing]) -> Stored:
        """Store records."""
        dies, self.dies = self.dies, ""
        if dies == "before":
            raise KilledError
        offsets: dict[LogPosition, int] = {}
        kept = len(records) - self.refuses
        self.refuses = 0
        for record in records[:kept]:
            log = self.logs.setdefault((record.letter.topic, record.partition), [])
            offsets[record.letter] = self.first_offset + len(log)
            log.append(record)
        if dies == "after":
            raise KilledError
        return Stored(offsets, "" if kept == len(records) else "no answer")

    def find(
        self, topic: str, searches: Mapping[int, int], letters: Collection[LogPosition]
    ) -> Mapping[LogPosition, tuple[int, int]]:
        """Return partition and offset of the records of letters that are there."""
        found: dict[LogPosition, tuple[int, int]] = {}
        for partition, first in searches.items():
            for offset, record in enumerate(self.logs.get((topic, partition), ()), self.first_offset):
                if offset >= first and record.letter in letters:
                    found.setdefault(record.letter, (partition, offset))
        return found

    def published(self) -> list[LogPosition]:
        """Return the letter of every record that is there."""
        return [record.letter for log in self.logs.values() for record in log]
