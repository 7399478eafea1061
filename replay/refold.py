"""Fold the raw events of the lake again, and compare the states with those that live has written.

Live and this are one function (`features.apply.fold`) over the same log, so their states agree byte for byte, but for
the version that each was built from, which tells how the log was cut into batches, and for the generation. Users whose
events came back late, and who were repaired therefore, are folded in event-time order up to that repair, and in log
order from there on: that is what the repair and then live have done.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from feature_repo.states import StoredState
from features.state import TRAILER_BYTES, read_trailer
from replay.lake_folds import FoldOrder, LakeFold
from replay.sources import LakeSource
from schemas.topics import TopicInfo
from sinks.lake_reads import PartitionLog

USERS_PER_LOAD = 500
DIFFERENCES_KEPT = 20


class States(Protocol):
    """Where live states are read."""

    async def load(self, topic: str, user_ids: list[str], /) -> Mapping[str, StoredState]:
        """Load the states of users; users without one are absent."""
        ...


@dataclass(frozen=True, slots=True)
class Agreement:
    """How live states compare with those folded from the lake.

    Attributes:
        state_count: states that were folded and compared.
        differing: how many differ.
        examples: topic and user of the first that do.
    """

    state_count: int
    differing: int
    examples: tuple[tuple[str, str], ...]


async def compare_with_live(lake: Path, topics: Mapping[str, TopicInfo], live: States) -> Agreement:
    """Fold every partition of some topics from the lake, and compare with the live states.

    The worker must have flushed all that it has applied: compare after it has stopped, or has caught up.

    Raises:
        LakeUnavailableError: the lake cannot be read.
        OnlineStoreError: the online store does not answer.
    """
    count, differing = 0, 0
    examples: list[tuple[str, str]] = []
    for topic, info in topics.items():
        for partition in range(info.partition_count):
            refold = LakeFold(LakeSource(lake), PartitionLog(info.log_epoch, topic, partition), FoldOrder.LOG)
            await asyncio.to_thread(refold.read_on)
            states = refold.states
            users = sorted(states)
            for first in range(0, len(users), USERS_PER_LOAD):
                chunk = users[first : first + USERS_PER_LOAD]
                stored = await live.load(topic, chunk)
                for user_id in chunk:
                    count += 1
                    if not _agree(states[user_id], stored.get(user_id)):
                        differing += 1
                        if len(examples) < DIFFERENCES_KEPT:
                            examples.append((topic, user_id))
    return Agreement(count, differing, tuple(examples))


def _agree(folded: bytes, stored: StoredState | None) -> bool:
    if stored is None:
        return False
    return (
        folded[:-TRAILER_BYTES] == stored.state[:-TRAILER_BYTES]
        and read_trailer(folded).version == read_trailer(stored.state).version
    )
