"""Which ids of a batch are in a reference table: a sorted array of hashes, and a memory of what was found in it."""

from collections.abc import Collection
from typing import Final

import mmh3
import numpy as np
from numpy.typing import NDArray

REMEMBERED_MAX: Final = 50_000


def id_hash(text: str) -> int:
    """Return the hash by which an id is looked up: the first half of MurmurHash3 (x64, 128 bits), unsigned."""
    return mmh3.hash64(text, signed=False)[0]


def id_hashes(ids: Collection[str]) -> NDArray[np.uint64]:
    """Return the sorted hashes of ids, each once: what `KnownIds` looks into."""
    return np.unique(np.fromiter(map(id_hash, ids), np.uint64, len(ids)))


class KnownIds:
    """One reference table.

    Args:
        hashes: sorted, of all its ids.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes
        self._found: set[str] = set()

    def unknown(self, ids: set[str | None]) -> set[str]:
        """Return those that are not in the table; None and empty ones are left out."""
        asked = [text for text in ids - self._found if text]
        if not asked:
            return set()
        if not self._hashes.size:
            return set(asked)
        hashes = np.fromiter(map(id_hash, asked), np.uint64, len(asked))
        places = np.minimum(np.searchsorted(self._hashes, hashes), self._hashes.size - 1)
        is_found = self._hashes[places] == hashes
        unknown = {text for text, found in zip(asked, is_found.tolist(), strict=True) if not found}
        if len(self._found) + len(asked) > REMEMBERED_MAX:
            self._found.clear()
        self._found.update(text for text in asked if text not in unknown)
        return unknown


class FirstSeen:
    """When ids were first missed, in the log's time; the oldest are forgotten beyond a bound, and are new again.

    Args:
        kept_max: how many are remembered.
    """

    def __init__(self, kept_max: int = 100_000) -> None:
        self._kept_max = kept_max
        self._first: dict[int, int] = {}

    def overdue(self, ids: set[str], now_ms: int, grace_ms: int) -> set[str]:
        """Note that these are missing now, and return those that were first missed longer than `grace_ms` ago.

        Args:
            now_ms: may be earlier than before: partitions of a backlog are read hours apart.
        """
        first, found = self._first, set()
        for text in ids:
            hashed = id_hash(text)
            first[hashed] = since_ms = min(now_ms, first.get(hashed, now_ms))
            if now_ms - since_ms > grace_ms:
                found.add(text)
        while len(first) > self._kept_max:
            del first[next(iter(first))]
        return found
