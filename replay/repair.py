"""Repairs: states of one partition's users built anew from the lake, beside a running worker.

A repair is a fold of all that the lake holds of a user, built from nothing, one generation above what is stored. The
online store takes it only where it holds no greater version (features/versioning.py), so an event that live has
applied is never undone: a user whose stored version the lake does not reach yet is offered again when it does.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from sinks.lake_reads import Stretch
from streams.ports import Clock, Fences, OnlineStates

IsErased = Callable[[str, int], bool]


class FoldOrder(StrEnum):
    """In which order a user's events are folded."""

    LOG = "log"
    EVENT_TIME = "event_time"


class PartitionLog(NamedTuple):
    """The log of one partition.

    Attributes:
        log_epoch: topic id and partition count; only rows of this epoch are folded.
    """

    log_epoch: str
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class RepairPorts:
    """What a repair reads and writes.

    Attributes:
        lake: folder of the lake.
        online: where states are loaded and pushed.
        fences: tells how far live has come; asks it to wait for a moment where a user never pauses.
    """

    lake: Path
    online: OnlineStates
    fences: Fences
    clock: Clock


@dataclass(frozen=True, slots=True)
class Repaired:
    """What one call did.

    Attributes:
        versions: the users whose state was replaced, and the version of the new one.
        agreed_count: users whose stored state was right already.
    """

    versions: Mapping[str, int]
    agreed_count: int


async def repair_users(
    log: PartitionLog,
    order: FoldOrder,
    ports: RepairPorts,
    *,
    users: Collection[str] | None = None,
    is_erased: IsErased = lambda _user_id, _offset: False,
    wait_s: float = 60.0,
) -> Repaired:
    """Give users of one partition the state that the lake folds to; safe beside a worker, and to stop and repeat.

    Args:
        order: LOG rebuilds what live has built; EVENT_TIME counts events that came back late, too.
        users: whom; None for all that the lake holds. Who has no event there is left alone.
        is_erased: tells of (user id, offset) whether the event was erased and must not come back.
        wait_s: how long to wait, without any progress, for the lake to reach what the online store holds.

    Raises:
        RepairStuckError: the lake does not reach what the online store holds of some users.
        LakeUnavailableError: the lake cannot be read or written.
        OnlineStoreError: the online store does not answer; what was repaired stays, so call again.
    """
    raise NotImplementedError
