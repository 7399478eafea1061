"""The brake: a partition most of whose records fail is stopped rather than poured into the dead letters; pure.

A topic that turns bad as a whole (a producer that registered at another registry, a client that partitions in another
way) is mended at its source, and then read again. Letters would have to be redriven one by one.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.dead_letter import DeadLetter, Reason
from schemas.event import Record


@dataclass(frozen=True, slots=True)
class Braked:
    """Why a partition is stopped.

    Attributes:
        next_offset: the first record that was not processed.
        window_records: how many of the newest records were looked at.
        letter_count: how many of them would be dead letters, at least.
        reasons: of those, most frequent first.
        example: in words, what is wrong with one of the most frequent.
    """

    next_offset: int
    window_records: int
    letter_count: int
    reasons: tuple[tuple[Reason, int], ...]
    example: str

    @property
    def reason(self) -> Reason:
        """Return the most frequent reason."""
        return self.reasons[0][0]

    @property
    def is_misrouted(self) -> bool:
        """Tell whether keys did not belong here: so it looks where partitions were added to a topic."""
        return any(reason is Reason.MISROUTED for reason, _ in self.reasons)

    def sentence(self) -> str:
        """Say it in one line."""
        named = ", ".join(f"{reason.value} {count:,}" for reason, count in self.reasons[:3])
        return (
            f"stopped before offset {self.next_offset}: {self.letter_count:,} of the last {self.window_records:,} "
            f"records or fewer would be dead letters ({named}; for example: {self.example})"
        )


class Brake:
    """Counts the dead letters among the newest records of one partition.

    Args:
        window_records: how many of the newest records are looked at.
        share: of them, dead letters above which the partition is stopped; at 1 it never is.
    """

    def __init__(self, window_records: int, share: float) -> None:
        self._window_records = window_records
        self._letters_max = share * window_records
        self._seen = 0
        self._letters: deque[tuple[int, Reason]] = deque()

    def refuses(self, records: Sequence[Record], letters: Sequence[DeadLetter]) -> Braked | None:
        """Count a batch, or tell why it must not be processed: none of it is counted then.

        Args:
            records: the batch, at least one, in log order.
            letters: those of its records that are dead letters, in the same order.
        """
        kept = deque(self._letters) if letters else self._letters
        for letter in letters:
            position = self._seen + bisect_left(records, letter.offset, key=lambda record: record.offset)
            kept.append((position, letter.reason))
            while kept[0][0] <= position - self._window_records:
                kept.popleft()
            if len(kept) > self._letters_max:
                return self._braked(records[0].offset, kept, letters)
        self._letters = kept
        self._seen += len(records)
        return None

    def _braked(self, offset: int, kept: deque[tuple[int, Reason]], letters: Sequence[DeadLetter]) -> Braked:
        reasons = Counter(reason for _, reason in kept).most_common()
        example = next((letter.detail for letter in letters if letter.reason is reasons[0][0]), letters[-1].detail)
        return Braked(offset, self._window_records, len(kept), tuple(reasons), example)
