"""The owners of partitions in memory, beside the fences in memory."""

from collections.abc import Collection
from dataclasses import dataclass

from tests.fakes.online import InMemoryFences


@dataclass
class _Partition:
    owner: str | None = None
    died_at: int | None = None
    deaths: int = 0


class InMemoryOwners:
    """Implements `streams.ports.Owners`."""

    def __init__(self, fences: InMemoryFences) -> None:
        self._fences = fences
        self._partitions: dict[tuple[str, int], _Partition] = {}

    async def taken(self, topic: str, partitions: Collection[int], owner: str, *, within: int) -> dict[int, int]:
        """Note the owner; return how many owners in a row died at the same place."""
        return {partition: self._taken(topic, partition, owner, within) for partition in partitions}

    async def given_back(self, topic: str, partitions: Collection[int], owner: str) -> None:
        """Note that an owner has finished in order."""
        fences = self._fences.read_blocking(topic)
        for partition in partitions:
            held = self._partitions.get((topic, partition))
            if held is None or held.owner != owner:
                continue
            held.owner = None
            if held.died_at is not None and partition in fences and held.died_at < fences[partition].next_offset:
                held.died_at, held.deaths = None, 0

    def _taken(self, topic: str, partition: int, owner: str, within: int) -> int:
        fence = self._fences.read_blocking(topic).get(partition)
        if fence is None:
            return 0
        held = self._partitions.setdefault((topic, partition), _Partition())
        is_same_place = held.died_at is not None and 0 <= fence.next_offset - held.died_at < within
        count = held.deaths if is_same_place else 0
        if held.owner not in (None, owner):
            count += 1
            held.died_at, held.deaths = fence.next_offset, count
        held.owner = owner
        return count
