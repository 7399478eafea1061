"""How far each partition is and whether it is whole, for readers: asked for at most once a second."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from feature_repo.fence import Fence
from schemas.partitioner import partition_of

MAX_AGE_MS: Final = 1_000


class FenceSource(Protocol):
    """Where the status of partitions is read."""

    def read_blocking(self, topic: str) -> Mapping[int, Fence]:
        """Return the fences of a topic by partition."""
        ...


class FreshFences:
    """Fences, asked for again when they are a second old."""

    def __init__(self, source: FenceSource, clock_ms: Callable[[], int]) -> None:
        self._source = source
        self._clock_ms = clock_ms
        self._read: dict[str, tuple[int, Mapping[int, Fence]]] = {}

    def of(self, topic: str, user_id: str) -> tuple[int, Fence] | tuple[None, None]:
        """Return the partition that holds the user's events, and its fence; None where it has none."""
        fences = self._fences(topic)
        for partition_count in {int(fence.epoch.rpartition(":")[2]) for fence in fences.values()}:
            partition = partition_of(user_id.encode(), partition_count)
            fence = fences.get(partition)
            # while a topic gets more partitions its fences are of two epochs
            if fence is not None and fence.epoch.endswith(f":{partition_count}"):
                return partition, fence
        return None, None

    def _fences(self, topic: str) -> Mapping[int, Fence]:
        now = self._clock_ms()
        known = self._read.get(topic)
        if known is None or not 0 <= now - known[0] < MAX_AGE_MS:
            known = self._read[topic] = (now, self._source.read_blocking(topic))
        return known[1]
