"""Who owns each partition, and how many owners in a row died at the same place; kept beside the fences.

A record may end the process that decodes it, natively, so that nobody can say which it was. What remains is where the
fence stood. An owner that finishes in order says so; one that is followed by another without having said so has died.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.connections import RedisConnections
from feature_repo.fence import fence_key
from feature_repo.scripts import Row, RowScript

if TYPE_CHECKING:
    from feast import FeatureStore


class PartitionOwners:
    """The owners of one project's partitions.

    Args:
        connections: those of the fences.
        project: Feast project.
    """

    def __init__(self, connections: RedisConnections, project: str) -> None:
        self._connections = connections
        self._project = project
        here = Path(__file__)
        self._take = RowScript(here.with_name("take_partition.lua"))
        self._give = RowScript(here.with_name("decimals.lua"), here.with_name("give_partition.lua"))

    @classmethod
    def beside(cls, store: "FeatureStore") -> "PartitionOwners":
        """Open the owners of an open feature store, over the connections of its online store."""
        return cls(store.provider.online_store.connections(store.config.online_store), store.project)

    async def taken(self, topic: str, partitions: Collection[int], owner: str, *, within: int) -> dict[int, int]:
        """Note the owner of partitions that have a fence.

        Args:
            owner: names one life of one process.
            within: owners that died less than so many offsets further on than the one before died at the same place.

        Returns:
            How many owners in a row have died at the same place, by partition; this owner is not one of them.

        Raises:
            OnlineStoreError: Redis does not answer, or is full.
        """
        rows = self._rows(topic, partitions)
        answers = await self._take.run_async(self._connections, (owner.encode(), b"%d" % within), rows) if rows else []
        return dict(zip(partitions, (int(count) for answer in answers for count in answer), strict=True))

    async def given_back(self, topic: str, partitions: Collection[int], owner: str) -> None:
        """Note that an owner has finished in order; nothing changes if the partition has another one by now.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        rows = self._rows(topic, partitions)
        if rows:
            await self._give.run_async(self._connections, (owner.encode(),), rows)

    def _rows(self, topic: str, partitions: Collection[int]) -> list[Row]:
        key = fence_key(self._project, topic).encode()
        return [Row(key, (str(partition).encode(),)) for partition in partitions]
