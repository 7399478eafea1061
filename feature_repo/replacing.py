"""Replaces states past the compare-and-set: for a topic that became another log, and for states no repair can replace.

Versions of two logs are not comparable. So what is replaced is the very state that was read: one that somebody has
changed since stays as it is.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from feature_repo.layout import KeyTemplate, frame_state, frame_timestamp, view_fields
from feature_repo.scripts import Row, RowScript
from feature_repo.stored_users import stored_users
from features.catalog import VIEWS
from features.state import TRAILER_BYTES

if TYPE_CHECKING:
    from feast import FeatureStore


class Replacement(NamedTuple):
    """A state in place of another.

    Attributes:
        user_id: as it is stored.
        read: the state that is to be replaced; None where there was none.
        state: the new one; None to remove what is there.
    """

    user_id: str
    read: bytes | None
    state: bytes | None


class StateReplacing:
    """The states of one project.

    Args:
        store: an open feature store (`feature_repo.opening.open_feature_store`).
    """

    def __init__(self, store: "FeatureStore") -> None:
        self._connections = store.provider.online_store.connections(store.config.online_store)
        self._template = KeyTemplate.of(store.project)
        self._script = RowScript(Path(__file__).with_name("replace_states.lua"))

    async def replace(self, topic: str, rows: Sequence[Replacement], servable_ms: int) -> frozenset[str]:
        """Replace states, each atomically; may be repeated.

        Returns:
            The users of whom another state was stored than the one that was read; theirs stays.

        Raises:
            OnlineStoreError: Redis does not answer, or is full; some may have been replaced.
        """
        if not rows:
            return frozenset()
        fields, timestamp = view_fields(VIEWS[topic].view), frame_timestamp(servable_ms)
        script_rows = [Row(self._template.key(row.user_id), _arguments(row, timestamp)) for row in rows]
        answers = await self._script.run_async(self._connections, (fields.state, fields.timestamp), script_rows)
        letters = b"".join(answers).decode()
        return frozenset(row.user_id for row, letter in zip(rows, letters, strict=True) if letter == "C")

    def users(self) -> Iterator[list[str]]:
        """Yield every user of the project, as stored, some at a time; blocking.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        return stored_users(self._connections, self._template)


def _arguments(row: Replacement, timestamp: bytes) -> tuple[bytes, ...]:
    read = b"" if row.read is None else row.read[-TRAILER_BYTES:]
    return read, b"" if row.state is None else frame_state(row.state), timestamp
