"""Repairs the states of users who are named: folded anew from the lake, beside a running worker.

A state that is right is left alone; one that is wrong is replaced as in any repair (replay/repair.py). Users who were
repaired in event-time order before are folded so again.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from replay.errors import UnknownUsersError
from replay.lake_folds import FoldOrder, LogPart, earlier_parts, event_counts_of, never
from replay.repair import WAIT_S, PartitionRepair, RepairPorts, RepairProgress
from schemas.privacy import PSEUDONYM_PREFIX, Pseudonyms
from schemas.topics import TopicInfo
from sinks.lake_reads import PartitionLog
from sinks.log_moves import is_of

PARTITIONS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class UserSelection:
    """Users of one partition.

    Attributes:
        event_counts: how many events the source holds of each, by user as stored.
    """

    log: PartitionLog
    event_counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SelectionReport:
    """What became of the users that were named.

    Attributes:
        wrong: in at least one topic the state was missing, partial or not what the log folds to; it was replaced.
        right: every stored state was right, and was left alone.
        states: replaced and right states, by topic.
    """

    wrong: Sequence[str]
    right: Sequence[str]
    states: Mapping[str, tuple[int, int]]

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "users": len(self.wrong) + len(self.right),
            "wrong": len(self.wrong),
            "right": len(self.right),
            "wrong_users": list(self.wrong),
            "topics": {topic: {"repaired": done[0], "agreed": done[1]} for topic, done in self.states.items()},
        }


def stored_ids(user_ids: Sequence[str], pseudonyms: Pseudonyms | None) -> list[str]:
    """Return what users are stored as, each once, in the order given.

    Args:
        user_ids: ids or, where users are pseudonymised, pseudonyms.
        pseudonyms: those in use; None where ids are kept as they are.
    """
    found = (
        user_id if pseudonyms is None or user_id.startswith(PSEUDONYM_PREFIX) else pseudonyms.of(user_id)
        for user_id in user_ids
    )
    return list(dict.fromkeys(found))


class SelectionRepair:
    """Repairs users of all partitions of some topics.

    Args:
        wait_s: how long to wait, without progress, for the lake to reach what the online store holds.
    """

    def __init__(self, ports: RepairPorts, topics: Mapping[str, TopicInfo], *, wait_s: float = WAIT_S) -> None:
        self._ports = ports
        self._topics = topics
        self._wait_s = wait_s
        self._repairs: list[PartitionRepair] = []

    def progress(self) -> RepairProgress:
        """Tell how far it has come, also while it runs."""
        totals = zip(*(repair.progress() for repair in self._repairs), strict=True)
        return RepairProgress(*(sum(each) for each in totals)) if self._repairs else RepairProgress(0, 0, 0)

    async def select(self, users: Collection[str]) -> list[UserSelection]:
        """Find the partitions that the users have events in; nothing is changed.

        Args:
            users: as they are stored.

        Raises:
            UnknownUsersError: of some there is no event.
            LakeUnavailableError, BrokerUnavailableError: the source cannot be read.
        """
        selections = await asyncio.to_thread(self._select, users)
        known = {user for selection in selections for user in selection.event_counts}
        unknown = [user for user in users if user not in known]
        if unknown:
            raise UnknownUsersError(unknown, self._ports.events().name)
        return selections

    def _select(self, users: Collection[str]) -> list[UserSelection]:
        selections = []
        for topic, info in self._topics.items():
            for partition in range(info.partition_count):
                log = PartitionLog(info.log_epoch, topic, partition)
                # of a pseudonym nobody can tell the partition
                here = [user for user in users if user.startswith(PSEUDONYM_PREFIX) or is_of(log, user)]
                counts = self._counts(log, here) if here else Counter[str]()
                if counts:
                    selections.append(UserSelection(log, counts))
        return selections

    def _counts(self, log: PartitionLog, users: Collection[str]) -> Counter[str]:
        source = self._ports.events()
        former = source.former(log)
        first_offset = 0 if former is None else former.first_offset
        own = LogPart(source, log, first_offset, source.position(log), never)
        return event_counts_of([*earlier_parts(former), own], users)

    async def repair(self, selections: Sequence[UserSelection]) -> SelectionReport:
        """Repair the users that were found; may be stopped at any point, and done again.

        Raises:
            RepairStuckError: the lake does not reach what the online store holds of some users.
            LakeUnavailableError, OnlineStoreError: call again; what was repaired stays.
        """
        room = asyncio.Semaphore(PARTITIONS_AT_ONCE)
        wrong: set[str] = set()
        states: dict[str, tuple[int, int]] = {}

        async def repair(selection: UserSelection) -> None:
            log = selection.log
            repair = PartitionRepair(log, FoldOrder.LOG, self._ports, users=selection.event_counts, wait_s=self._wait_s)
            self._repairs.append(repair)
            async with room:
                fence = (await self._ports.fences.read(log.topic)).get(log.partition)
                is_known = fence is not None and fence.epoch == log.log_epoch
                await repair.run(fence.next_offset if fence is not None and is_known else 0)
            done = repair.repaired()
            wrong.update(done.versions)
            replaced, agreed = states.get(log.topic, (0, 0))
            states[log.topic] = (replaced + len(done.versions), agreed + done.agreed_count)

        for outcome in await asyncio.gather(*map(repair, selections), return_exceptions=True):
            if outcome is not None:
                raise outcome
        everybody = dict.fromkeys(user for selection in selections for user in selection.event_counts)
        return SelectionReport(
            [user for user in everybody if user in wrong], [user for user in everybody if user not in wrong], states
        )
