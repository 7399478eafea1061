"""The broker of one run: the logs, and the consumer group with its generations, as Kafka keeps them.

Assignments are drawn at random, so partitions change hands more often, and come back sooner, than Kafka's would.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Mapping
from random import Random
from typing import Final

from schemas.event import Record
from streams.ports import TopicPartition
from tests.simulation.load import Load, Produced

SESSION_TIMEOUT_S: Final = 6.0
REBALANCE_TIMEOUT_S: Final = 20.0
HEARTBEAT_S: Final = 1.0


class Logs:
    """The records that have arrived."""

    def __init__(self, load: Load) -> None:
        self._records: dict[TopicPartition, list[Record]] = {tp: [] for tp in load.partitions}
        self._offsets: dict[TopicPartition, list[int]] = {tp: [] for tp in load.partitions}

    def append(self, made: Produced) -> None:
        """Store a record."""
        self._records[made.tp].append(made.record)
        self._offsets[made.tp].append(made.record.offset)

    def end(self, tp: TopicPartition) -> int:
        """Return the next offset."""
        offsets = self._offsets[tp]
        return offsets[-1] + 1 if offsets else 0

    def read(self, tp: TopicPartition, position: int, records_max: int) -> list[Record]:
        """Return records from a position on."""
        first = bisect_left(self._offsets[tp], position)
        return self._records[tp][first : first + records_max]


class Member:
    """One consumer, as the group's coordinator sees it.

    Attributes:
        must_rejoin: the coordinator wants it to give up its partitions and join again.
        is_member: whether the coordinator still counts it in.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.generation = -1
        self.partitions: tuple[TopicPartition, ...] = ()
        self.must_rejoin = asyncio.Event()
        self.is_member = False
        self.joining: asyncio.Future[bool] | None = None


class Group:
    """The consumer group: eager rebalances, and commits that are refused to whoever is not of its generation."""

    def __init__(self, load: Load, rng: Random) -> None:
        self._partitions = load.partitions
        self._rng = rng
        self._members: list[Member] = []
        self._is_preparing = False
        self._round = 0
        self.generation = 0
        self.committed: dict[TopicPartition, int] = {}

    async def join(self, member: Member) -> bool:
        """Wait for the next generation; False if the coordinator lost patience, and it must join again."""
        member.must_rejoin.clear()
        if not member.is_member:
            member.is_member = True
            self._members.append(member)
        member.joining = asyncio.get_running_loop().create_future()
        self._prepare()
        self._complete_soon()
        return await member.joining

    def leave(self, member: Member) -> None:
        """Take a member out; the others share its partitions."""
        if not member.is_member:
            return
        self._members.remove(member)
        member.is_member = False
        member.must_rejoin.set()
        if member.joining is not None and not member.joining.done():
            member.joining.set_result(False)
        member.joining = None
        if self._members:
            self._prepare()
            self._complete_soon()

    def commit(self, member: Member, generation: int, offsets: Mapping[TopicPartition, int]) -> bool:
        """Take offsets from a member of the current generation."""
        if not member.is_member or generation != self.generation:
            return False
        self.committed.update(offsets)
        return True

    def _prepare(self) -> None:
        if self._is_preparing:
            return
        self._is_preparing = True
        self._round += 1
        for member in self._members:
            if member.joining is None:
                member.must_rejoin.set()
        asyncio.get_running_loop().call_later(REBALANCE_TIMEOUT_S, self._lose_patience, self._round)

    def _lose_patience(self, number: int) -> None:
        if self._is_preparing and number == self._round:
            for member in [member for member in self._members if member.joining is None]:
                self.leave(member)

    def _complete_soon(self) -> None:
        asyncio.get_running_loop().call_later(self._rng.uniform(0.01, 0.5), self._complete)

    def _complete(self) -> None:
        if not self._is_preparing or any(member.joining is None for member in self._members) or not self._members:
            return
        self._is_preparing = False
        self.generation += 1
        owned: dict[str, list[TopicPartition]] = {member.name: [] for member in self._members}
        for tp in self._partitions:
            owned[self._rng.choice(self._members).name].append(tp)
        for member in self._members:
            member.generation, member.partitions = self.generation, tuple(owned[member.name])
            assert member.joining is not None
            member.joining.set_result(True)
            member.joining = None
