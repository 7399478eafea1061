"""What a worker does about erased users: their events do not come back, and their erasure is no loss.

Everything here costs nothing until somebody is erased: then only what lies below the newest end of a log is looked at.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from feature_repo.erasing import ErasedStates
from features.state import read_trailer
from schemas.dead_letter import DeadLetter
from schemas.privacy import Pseudonyms
from sinks.erasures import ErasedLog, Tombstones, read_tombstones
from sinks.lake_root import Lake
from sinks.rows import RawRow
from streams.folding import UserFold
from streams.ports import ErasureSource, TopicPartition
from streams.progress import PartitionProgress

logger = logging.getLogger(__name__)

_NOBODY: Final = Tombstones()


class KnownErasures:
    """Implements `streams.ports.ErasureSource`: the lake's table, and marks of what is being erased just now.

    Args:
        lake: root of the lake.
        pseudonyms: with the key of the settings; None if there is no key.
    """

    def __init__(self, lake: Lake, states: ErasedStates, pseudonyms: Pseudonyms | None) -> None:
        self._lake = lake
        self._states = states
        self._pseudonyms = pseudonyms

    def check(self) -> None:
        """Check that the key of earlier erasures is at hand; blocking.

        Raises:
            LakeUnavailableError: the table cannot be read.
            SettingsError: it is not.
        """
        read_tombstones(self._lake, self._pseudonyms)

    async def read(self) -> Tombstones:
        """Return what was erased so far.

        Raises:
            LakeUnavailableError: the table cannot be read.
            OnlineStoreError: Redis does not answer.
            SettingsError: the key of the erasures is not at hand.
        """
        marks = await self._states.marks()  # first: a mark is dropped only after the table says the same
        tombstones = await asyncio.to_thread(read_tombstones, self._lake, self._pseudonyms)
        return tombstones.with_ends(
            (ErasedLog(mark.topic_id, mark.topic, mark.partition), mark.subject, mark.version) for mark in marks
        )


class ErasedUsers:
    """The erased users of the owned partitions.

    Args:
        source: where erasures are read; None where there are none.
        partitions: the owned partitions, shared with the loop.
    """

    def __init__(self, source: ErasureSource | None, partitions: Mapping[TopicPartition, PartitionProgress]) -> None:
        self._source = source
        self._partitions = partitions
        self._tombstones = _NOBODY

    async def refresh(self) -> None:
        """Learn who was erased so far.

        Raises:
            LakeUnavailableError: the table cannot be read.
            OnlineStoreError: Redis does not answer.
            SettingsError: the key of the erasures is not at hand.
        """
        if self._source is not None:
            self._tombstones = await self._source.read()

    def sift(
        self, progress: PartitionProgress, rows: list[RawRow], letters: list[DeadLetter]
    ) -> tuple[list[RawRow], list[DeadLetter], int]:
        """Return the events and letters that were not erased, and how many were."""
        tombstones = self._tombstones
        if not tombstones:
            return rows, letters, 0
        log = _log(progress)
        reach = tombstones.reach(log)
        kept_rows = rows
        if rows and rows[0].record.offset < reach:
            kept_rows = [row for row in rows if row.record.offset >= tombstones.end_of(row.event.user_id, log)]
        kept_letters = [letter for letter in letters if not tombstones.covers_letter(letter.key, letter.offset, log)]
        return kept_rows, kept_letters, len(rows) + len(letters) - len(kept_rows) - len(kept_letters)

    def begin_anew(self, topic: str, folds: Mapping[str, UserFold]) -> None:
        """Let users who were erased start from nothing where an older copy of the online store brought them back.

        What is stored of them is replaced as a repair would: it was never to be there.
        """
        if not self._tombstones:
            return
        for user_id, item in folds.items():
            item.generation = 0
            trailer = None if item.stored is None else read_trailer(item.stored.state)
            end = self._end_of(topic, user_id, item)
            if trailer is not None and end and trailer.version <= end:
                item.generation = trailer.generation + 1
                item.stored = None

    async def explain_loss(self, topic: str, user_id: str, item: UserFold) -> bool:
        """Tell whether a state is gone because its user was erased; then only the events after that stay in the fold.

        Raises:
            LakeUnavailableError: the table cannot be read.
            OnlineStoreError: Redis does not answer.
        """
        known = item.stored
        if known is None:
            return False
        await self.refresh()
        end = self._end_of(topic, user_id, item)
        if not end or read_trailer(known.state).version > end:
            return False
        kept = [(offset, event) for offset, event in item.log if offset >= end]
        item.erased_count += len(item.log) - len(kept)
        item.log = kept
        logger.info("%s-%d: a user was erased, and starts anew", topic, item.partition)
        return True

    def _end_of(self, topic: str, user_id: str, item: UserFold) -> int:
        progress = self._partitions[TopicPartition(topic, item.partition)]
        return self._tombstones.end_of(user_id, _log(progress))


def _log(progress: PartitionProgress) -> ErasedLog:
    return ErasedLog(progress.log.topic_id, progress.tp.topic, progress.tp.partition)
