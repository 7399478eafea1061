"""The newest time of each id, oldest first."""

from array import array
from bisect import bisect_left
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec


class _Ordered(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


K = TypeVar("K", bound=_Ordered)

_FEW: Final = 4  # so many are put in their places one by one, more by sorting all


class Newest(msgspec.Struct, Generic[K], gc=False):
    """Ids and their newest times, in order of (time, id). Mutable.

    Attributes:
        ids: each once.
        times: one per id, milliseconds since an instant that the owner knows.
        fresh: ids of events since the last `prune`, with their newest times; they are not yet in their places.
    """

    ids: list[K]
    times: "array[int]"
    fresh: dict[K, int] = {}  # msgspec copies an empty default

    def renew(self, id_: K, time: int) -> None:
        """Take note of an event."""
        fresh = self.fresh
        if fresh.get(id_, -1) < time:
            fresh[id_] = time

    def prune(self, oldest: int, most: int) -> int | None:
        """Drop what is older, and all but the newest; return the newest time that the cap dropped, None for none."""
        self._settle()
        ids, times = self.ids, self.times
        dropped = None
        excess = len(times) - most
        if excess > 0:
            dropped = times[excess - 1]
            del ids[:excess], times[:excess]
        if times and times[0] < oldest:
            old = bisect_left(times, oldest)
            del ids[:old], times[:old]
        return dropped

    def _settle(self) -> None:
        if len(self.fresh) > _FEW:
            newest = dict(zip(self.ids, self.times, strict=True))
            newest.update((id_, max(time, newest.get(id_, 0))) for id_, time in self.fresh.items())
            ranked = sorted(zip(newest.values(), newest, strict=True))
            self.ids[:] = [id_ for _, id_ in ranked]
            self.times[:] = array(self.times.typecode, [time for time, _ in ranked])
        else:
            for id_, time in self.fresh.items():
                self._place(id_, time)
        self.fresh.clear()

    def _place(self, id_: K, time: int) -> None:
        ids, times = self.ids, self.times
        if id_ in ids:
            known = ids.index(id_)
            if times[known] >= time:
                return
            del ids[known], times[known]
        place = len(ids)
        if ids and times[-1] >= time:
            place = bisect_left(times, time)
            while place < len(ids) and times[place] == time and ids[place] < id_:
                place += 1
        ids.insert(place, id_)
        times.insert(place, time)
