"""What the worker knows of each partition that it owns, and the rows that wait for the next flush."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from feature_repo.fence import Fence, PartitionStatus
from feature_repo.states import StoredState
from schemas.dead_letter import DeadLetter
from schemas.event import Record
from schemas.topics import TopicInfo
from sinks.rows import FeatureLogRow, PartitionFlush, RawRow
from streams.brake import Braked
from streams.ports import Batch, TopicPartition


@dataclass(slots=True)
class PartitionProgress:
    """One owned partition.

    Attributes:
        next_offset: all before it was read, and is in the lake or in the buffers below.
        applied_offset: all before it is in the online store, too; less than `next_offset` only while it is halted.
        flushed_offset: all before it is in every sink: what may be committed.
        committed_offset: what Kafka has acknowledged; None before the first commit of the group.
        end_offset: next offset that the broker will give, as last seen.
        buffered_bytes: keys and values of the records that wait for a flush.
        buffered_since_s: monotonic time since when rows wait for a flush; None if none do.
        flushed_since_s: the same for what was flushed and waits for its commit.
        is_fenced: the online store had a fence at the assignment.
        braked: why it is not read any more; None while it is.
        careful_fence: where the fence was when workers died there.
        careful_records: how many records past it are still to be decoded elsewhere first.
        halted_since_ms: since when nothing may be applied, as its fence says; 0 while it may.
        seek_epoch: number of the seek that its batches must have been fetched after; None while it takes none.
    """

    tp: TopicPartition
    log: TopicInfo
    status: PartitionStatus
    next_offset: int
    committed_offset: int | None
    flushed_offset: int = 0
    end_offset: int = 0
    since_ms: int = 0
    is_fenced: bool = False
    buffered_since_s: float | None = None
    flushed_since_s: float | None = None
    first_buffered: int | None = None
    raw: list[RawRow] = field(default_factory=list)
    features: list[FeatureLogRow] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    buffered_bytes: int = 0
    braked: Braked | None = None
    careful_fence: int = 0
    careful_records: int = 0
    halted_since_ms: int = 0
    seek_epoch: int | None = None
    applied_offset: int = field(init=False)
    _careful_after_applied: int = field(init=False)

    def __post_init__(self) -> None:
        self.flushed_offset = self.applied_offset = self.next_offset
        self._careful_after_applied = self.careful_records

    @property
    def is_halted(self) -> bool:
        """Tell whether nothing may be applied."""
        return self.halted_since_ms > 0

    @property
    def buffered_rows(self) -> int:
        """Return how many rows wait for the next flush."""
        return len(self.raw) + len(self.features) + len(self.letters)

    @property
    def lag_records(self) -> int:
        """Return how many records of the log were not read yet."""
        return max(0, self.end_offset - self.next_offset)

    @property
    def is_careful(self) -> bool:
        """Tell whether records may come that have ended earlier workers."""
        return self.careful_records > 0

    def suspects(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return which records of a batch may have ended earlier workers.

        What lies before the fence was decoded once, but a culprit among it was a dead letter then, and is read again.
        """
        return records[: self._before_fence(records) + self.careful_records]

    def vetted(self, suspects: Sequence[Record]) -> None:
        """Count suspects that were tried elsewhere."""
        self.careful_records -= len(suspects) - self._before_fence(suspects)

    def _before_fence(self, records: Sequence[Record]) -> int:
        return bisect_left(records, self.careful_fence, key=lambda record: record.offset)

    def commit_age_s(self, now_s: float) -> float:
        """Return how long the oldest processed record has waited for its commit."""
        waiting = [since_s for since_s in (self.flushed_since_s, self.buffered_since_s) if since_s is not None]
        return now_s - min(waiting) if waiting else 0.0

    def fence(self) -> Fence:
        """Return the fence at `next_offset`."""
        return Fence(self.log.log_epoch, self.next_offset, self.status, self.since_ms)

    def be_careful(self, fence_offset: int, record_count: int) -> None:
        """Have so many records past the fence decoded elsewhere first, and what is read again before it."""
        self.careful_fence, self.careful_records = fence_offset, record_count
        self._careful_after_applied = record_count

    def read(self, batch: Batch, raw: Sequence[RawRow], now_s: float) -> None:
        """Buffer the raw rows of a batch; what else it gave is buffered only if it was applied."""
        self.raw.extend(raw)
        self.buffered_bytes += sum(len(record.value or b"") for record in batch.records)
        if self.first_buffered is None:
            self.first_buffered = batch.records[0].offset
        if self.buffered_since_s is None:
            self.buffered_since_s = now_s
        self.next_offset = batch.next_offset

    def applied(self, features: Sequence[FeatureLogRow], letters: Sequence[DeadLetter]) -> None:
        """Buffer what a batch that was read has given beside raw rows: it is in the online store."""
        self.features.extend(features)
        self.letters.extend(letters)
        self.applied_offset = self.next_offset
        self._careful_after_applied = self.careful_records

    def rewind(self) -> None:
        """End the halt: go back to where the partition was applied to, and take no batch until the seek is known.

        Nothing may be buffered. What stopped the partition meanwhile, or ended earlier workers, is met again.
        """
        self.next_offset = self.applied_offset
        self.careful_records = self._careful_after_applied
        self.halted_since_ms, self.seek_epoch, self.braked = 0, None, None

    def take(self) -> PartitionFlush | None:
        """Hand over all buffered rows, and start new buffers; None when nothing was processed since the last time."""
        if self.first_buffered is None:
            return None
        flush = PartitionFlush(
            topic=self.tp.topic,
            topic_id=self.log.topic_id,
            log_epoch=self.log.log_epoch,
            partition=self.tp.partition,
            first_offset=self.first_buffered,
            last_offset=self.next_offset - 1,
            raw=self.raw,
            features=self.features,
            letters=self.letters,
        )
        self.raw, self.features, self.letters, self.first_buffered = [], [], [], None
        self.buffered_bytes = 0
        if self.flushed_since_s is None and self.applied_offset > (self.committed_offset or 0):
            self.flushed_since_s = self.buffered_since_s
        self.buffered_since_s = None
        return flush


class StateCache:
    """The least recently used states are forgotten first; every entry is in the online store already.

    Args:
        capacity: most states held.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._states: OrderedDict[str, StoredState | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._states

    def get(self, user_id: str) -> StoredState | None:
        """Return the state of a user known to the cache; None when the online store has none.

        Raises:
            KeyError: the cache does not know the user.
        """
        self._states.move_to_end(user_id)
        return self._states[user_id]

    def put(self, user_id: str, state: StoredState | None) -> None:
        """Remember what the online store holds for a user."""
        self._states[user_id] = state
        self._states.move_to_end(user_id)

    def trim(self) -> None:
        """Forget what exceeds the capacity; called between batches, so that a batch's own users stay."""
        while len(self._states) > self._capacity:
            self._states.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()
