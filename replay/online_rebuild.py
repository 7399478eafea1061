"""Repairs in the online store, for code without a loop of its own."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from config.settings import Settings
from feature_repo.fence import FenceStore
from feature_repo.opening import open_feature_store
from feature_repo.states import StateStore
from replay.repair import FoldOrder, RepairPorts, repair_users
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog
from sinks.lake_root import lake_of
from sinks.online import OnlineSink
from streams.adapters import FeastStates
from streams.clock import SystemClock

if TYPE_CHECKING:
    from feast import FeatureStore


class OnlineRebuild:
    """Rebuilds users in event-time order; connects when it is first called. A context: it closes what it opened.

    Args:
        tombstones: reads what was erased and must not come back; blocking.
        wait_s: how long to wait, without any progress, for the lake to reach what the online store holds.
    """

    def __init__(self, settings: Settings, tombstones: Callable[[], Tombstones], *, wait_s: float) -> None:
        self._settings = settings
        self._tombstones = tombstones
        self._wait_s = wait_s
        self._runner = asyncio.Runner()
        self._store: FeatureStore | None = None

    def __call__(self, log: PartitionLog, users: frozenset[str]) -> int:
        """Repair users of one partition; return how many states changed. Blocking; may be repeated.

        Raises:
            RepairStuckError: the lake does not reach what the online store holds of some users.
            OnlineStoreError, LakeUnavailableError: a service does not answer.
        """
        return self._runner.run(self._repair(log, users))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._runner:
            if self._store is not None:
                self._runner.run(self._store.close())

    async def _repair(self, log: PartitionLog, users: frozenset[str]) -> int:
        if self._store is None:
            self._store = open_feature_store(self._settings)
        store = self._store
        ports = RepairPorts(
            lake=lake_of(self._settings),
            online=FeastStates(StateStore(store), OnlineSink(store)),
            fences=FenceStore.beside(store),
            clock=SystemClock(),
            tombstones=lambda: asyncio.to_thread(self._tombstones),
        )
        repaired = await repair_users(log, FoldOrder.EVENT_TIME, ports, users=users, wait_s=self._wait_s)
        return len(repaired.versions)
