"""Ids of users as two columns, in the order of their bytes: found by halving, without an object per user."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class KnownUsers:
    """Users, each once.

    Attributes:
        starts: where each id begins in `texts`; one more at the end.
        texts: the ids in UTF-8, one after the other.
    """

    starts: Any
    texts: Any

    @classmethod
    def of(cls, ids: Any) -> "KnownUsers":
        """Take them from Arrow strings in the order of their bytes."""
        large = ids.cast(pa.large_string())
        starts = np.frombuffer(large.buffers()[1], np.int64)[large.offset :][: len(large) + 1] if len(large) else None
        if starts is None:
            return cls(np.zeros(1, np.int64), np.empty(0, np.uint8))
        texts = np.frombuffer(large.buffers()[2] or b"", np.uint8)
        return cls(starts - starts[0], texts[starts[0] : starts[-1]])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def find(self, user_id: str) -> int | None:
        """Return the number of a user; None for one who is not known."""
        wanted = user_id.encode(errors="replace")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self._bytes(low) == wanted else None

    def ids(self) -> Iterator[str]:
        """Yield them in their order."""
        return (self._bytes(number).decode() for number in range(len(self)))

    def kept(self, wanted: Any) -> "KnownUsers":
        """Return those of a numpy mask."""
        lengths = np.diff(self.starts)
        starts = np.concatenate([[0], np.cumsum(lengths[wanted])]).astype(np.int64)
        return KnownUsers(starts, self.texts[np.repeat(wanted, lengths)])

    def _bytes(self, number: int) -> bytes:
        return bytes(self.texts[self.starts[number] : self.starts[number + 1]])
