"""The online sink: changed states through Feast's push sources."""

from collections.abc import Sequence
from typing import Any

from features.catalog import VIEWS


class OnlineSink:
    """Pushes states to the online store.

    Args:
        feature_store: a `feast.FeatureStore` whose registry holds our definitions.
    """

    def __init__(self, feature_store: Any) -> None:
        self._store = feature_store

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        """Write absolute states, one row per user.

        Args:
            topic: whose states they are.
            rows: (user id, state); each user at most once.
            servable_ms: when they become readable, integer milliseconds UTC; stored beside each state.

        Raises:
            VersionConflictError: names the users whose stored state was not what theirs was built from.
            OnlineStoreError: the store does not answer or is full; the same rows may be pushed again.
        """
        if rows:
            await self._store.push_async(VIEWS[topic].push_source, _frame(rows, servable_ms))


def _frame(rows: Sequence[tuple[str, bytes]], servable_ms: int) -> Any:
    import numpy as np
    import pandas as pd

    users, states = np.empty(len(rows), object), np.empty(len(rows), object)
    users[:] = [row[0] for row in rows]
    states[:] = [row[1] for row in rows]
    servable = np.full(len(rows), np.datetime64(servable_ms, "ms"))
    return pd.DataFrame({"user_id": users, "state": states, "event_timestamp": servable}, copy=False)
