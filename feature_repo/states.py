"""Reads states back for the worker, which keeps no other state than these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from features.catalog import VIEWS

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass(frozen=True, slots=True)
class StoredState:
    """A state as the online store holds it.

    Attributes:
        servable_ms: when it became readable, integer milliseconds UTC.
    """

    state: bytes
    servable_ms: int


class StateStore:
    """The states of both topics in the online store.

    Args:
        store: an open feature store (`feature_repo.opening.open_feature_store`).
    """

    def __init__(self, store: "FeatureStore") -> None:
        self._config = store.config
        self._online_store = store.provider.online_store

    async def load(self, topic: str, user_ids: Sequence[str]) -> dict[str, StoredState]:
        """Load the states of users in one round trip; users without a state are absent.

        Raises:
            StateBytesError: what is stored for some of them is not a state.
            OnlineStoreError: Redis does not answer.
        """
        if not user_ids:
            return {}
        states: dict[str, StoredState] = await self._online_store.read_states(self._config, VIEWS[topic].view, user_ids)
        return states
