"""Erases a user from the online store, beside running workers.

With the states goes a mark, in the same instant: under a keyed hash of the user, the version that each state had. A
worker that still holds the state in memory finds it gone, and learns from the mark that nothing was lost: the user's
log ends there. Marks are dropped once the lake's table `erasures` says the same.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from config.definition import VERSIONS_BESIDE
from feature_repo.errors import OnlineStoreError
from feature_repo.layout import KeyTemplate, view_fields
from feature_repo.scripts import Row, RowScript
from feature_repo.stored_users import stored_users
from features.catalog import VIEWS, views_of

if TYPE_CHECKING:
    from feast import FeatureStore

ANY_VERSION: Final = 2**64 - 1

_VERSION_BYTES: Final = 8


class Mark(NamedTuple):
    """How far the state of an erased user had come.

    Attributes:
        subject: keyed hash of the user.
        version: last applied offset + 1; the user's log ends there.
    """

    subject: str
    topic: str
    topic_id: str
    partition: int
    version: int


class ErasedStates:
    """Erases states of one project, and keeps the marks.

    Args:
        store: an open feature store (`feature_repo.opening.open_feature_store`).
    """

    def __init__(self, store: "FeatureStore") -> None:
        self._connections = store.provider.online_store.connections(store.config.online_store)
        self._template = KeyTemplate.of(store.project)
        self._marks_key = f"{store.project}:erased".encode()
        self._script = RowScript(Path(__file__).with_name("erase_user.lua"))

    def erase(self, user_id: str, up_to: Sequence[Mark]) -> dict[str, int]:
        """Erase the states of a user, of every definition version, and leave a mark of each; idempotent, blocking.

        Args:
            user_id: as it is stored.
            up_to: at most one per topic; a state whose version is greater than that of the mark stays. With
                `ANY_VERSION` for every topic all that there is of the user goes.

        Returns:
            The version of what was erased, by topic; of two definition versions the greater.

        Raises:
            OnlineStoreError: Redis does not answer, or is a cluster, where two keys cannot be changed in one instant.
        """
        if self._connections.is_cluster:
            raise OnlineStoreError("Users cannot be erased from a Redis Cluster.", hint="Use a single Redis.")
        erases_all = [mark.version for mark in up_to] == [ANY_VERSION] * len(VIEWS)
        each = [(mark, definition) for mark in up_to for definition in VERSIONS_BESIDE]
        arguments = [b"all" if erases_all else b"some", *(argument for one in each for argument in _arguments(*one))]
        rows = [Row(self._template.key(user_id), ()), Row(self._marks_key, ())]
        answers = self._script.run(self._connections, arguments, rows)
        erased: dict[str, int] = {}
        for (mark, _), version in zip(each, itertools.chain.from_iterable(answers), strict=True):
            if version:
                erased[mark.topic] = max(int.from_bytes(version, "big"), erased.get(mark.topic, 0))
        return erased

    def versions(self, user_id: str) -> dict[str, int]:
        """Return the version of each state of a user, by topic; of two definition versions the greater; blocking.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        fields = [
            (topic, view_fields(view.view).state)
            for definition in VERSIONS_BESIDE
            for topic, view in views_of(definition).items()
        ]
        with self._connections.explained():
            values = self._connections.blocking().hmget(self._template.key(user_id), [field for _, field in fields])
        found: dict[str, int] = {}
        for (topic, _), value in zip(fields, values, strict=True):
            if value:
                found[topic] = max(int.from_bytes(value[-_VERSION_BYTES:], "big"), found.get(topic, 0))
        return found

    def users(self) -> Iterator[list[str]]:
        """Yield every user of the project who has a state, as stored, some at a time; blocking.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        return stored_users(self._connections, self._template)

    async def marks(self) -> list[Mark]:
        """Return all marks.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        with self._connections.explained():
            stored = await self._connections.asynchronous().hgetall(self._marks_key)
        return _marks(stored)

    def marks_of(self, subject: str) -> list[Mark]:
        """Return the marks of one user; blocking.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        with self._connections.explained():
            stored = self._connections.blocking().hgetall(self._marks_key)
        return [mark for mark in _marks(stored) if mark.subject == subject]

    def drop_marks(self, marks: Sequence[Mark]) -> None:
        """Forget marks; blocking.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        if marks:
            with self._connections.explained():
                self._connections.blocking().hdel(self._marks_key, *(_field(mark) for mark in marks))

    def close(self) -> None:
        """Close the connection."""
        self._connections.close_blocking()


def _arguments(mark: Mark, definition: int) -> tuple[bytes, ...]:
    fields = view_fields(views_of(definition)[mark.topic].view)
    return fields.state, fields.timestamp, _field(mark), mark.version.to_bytes(_VERSION_BYTES, "big")


def _field(mark: Mark) -> bytes:
    return f"{mark.subject}:{mark.topic}:{mark.topic_id}:{mark.partition}".encode()


def _marks(stored: Mapping[bytes, bytes]) -> list[Mark]:
    marks = []
    for field, version in stored.items():
        subject, topic, topic_id, partition = field.decode().split(":")  # none of these may hold a colon
        marks.append(Mark(subject, topic, topic_id, int(partition), int.from_bytes(version, "big")))
    return marks
