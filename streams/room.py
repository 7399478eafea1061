"""How much may be fetched: what bounds the batches between Kafka and the loop; pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from streams.ports import TopicPartition

OUTSTANDING_BATCHES_MAX = 2


@dataclass(frozen=True, slots=True)
class NextFetch:
    """What the next fetch may bring.

    Attributes:
        partitions: those with room; None for all that are assigned.
        is_patient: no partition that could bring records was left out, so the fetch may wait for records to come.
    """

    partitions: frozenset[TopicPartition] | None
    is_patient: bool


class FetchRoom:
    """Counts the batches of each partition that were fetched and are not done; a full partition is not fetched."""

    def __init__(self, batches_max: int = OUTSTANDING_BATCHES_MAX) -> None:
        self._batches_max = batches_max
        self._outstanding: dict[TopicPartition, int] = {}

    def next_fetch(self, assigned: frozenset[TopicPartition], paused: Collection[TopicPartition]) -> NextFetch | None:
        """Return what to fetch; None while there is no room anywhere."""
        wanted = assigned.difference(paused) if paused else assigned
        room = frozenset(tp for tp in wanted if self._outstanding.get(tp, 0) < self._batches_max)
        if not room:
            return None
        return NextFetch(None if len(room) == len(assigned) else room, is_patient=len(room) == len(wanted))

    def taken(self, partitions: Iterable[TopicPartition]) -> None:
        """Count a batch of each."""
        for tp in partitions:
            self._outstanding[tp] = self._outstanding.get(tp, 0) + 1

    def done(self, tp: TopicPartition) -> None:
        """Count a batch that is done."""
        self._outstanding[tp] = max(0, self._outstanding.get(tp, 0) - 1)

    def forget(self, tp: TopicPartition) -> None:
        """Forget the batches of a partition: what was fetched before its seek is not counted after it."""
        self._outstanding.pop(tp, None)

    def clear(self) -> None:
        """Forget all: what was fetched before a seek is not counted after it."""
        self._outstanding.clear()
