"""The first step of the batch loop: records to events and dead letters, and what guards it against hostile ones."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from config.settings import WorkerSettings
from feature_repo.fence import PartitionStatus
from schemas.dead_letter import DeadLetter, Reason
from schemas.event import Record
from sinks.rows import RawRow
from streams.brake import Brake, Braked
from streams.erasures import ErasedUsers
from streams.folding import UserFold, by_user
from streams.ports import Batch, Clock, Decoder, Quarantine, TopicPartition
from streams.progress import PartitionProgress
from streams.retrying import AbandonedError, SinkRetry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """One batch on its way through the steps.

    Attributes:
        rows: its events, in log order.
        letters: its other records, in log order.
        folds: the events by user.
        erased_count: records of users who were erased since; they are in none of these.
    """

    batch: Batch
    rows: list[RawRow]
    letters: list[DeadLetter]
    folds: dict[str, UserFold]
    erased_count: int = 0

    @property
    def is_misrouted(self) -> bool:
        """Tell whether a key does not belong here: so it looks where partitions were added to a topic."""
        return any(letter.reason is Reason.MISROUTED for letter in self.letters)


class BatchDecoding:
    """Decodes batches, and stops a partition whose records fail.

    Args:
        settings: the brake, and how much is decoded carefully.
        retry: how often the schema registry is asked.
        erased: whose records are dropped when they come again.
        quarantine: finds records that end the process which decodes them; without it none is looked for.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        decoder: Decoder,
        *,
        retry: SinkRetry,
        clock: Clock,
        erased: ErasedUsers,
        quarantine: Quarantine | None = None,
    ) -> None:
        self._settings = settings
        self._decoder = decoder
        self._retry = retry
        self._clock = clock
        self._erased = erased
        self._quarantine = quarantine
        self._brakes: dict[TopicPartition, Brake] = {}
        self._closing = asyncio.Event()

    def open(self, partitions: Collection[TopicPartition]) -> None:
        """Begin with these partitions; one that was stopped is tried again."""
        settings = self._settings
        self._brakes = {tp: Brake(settings.brake_records, settings.brake_share) for tp in partitions}
        self._closing.clear()

    def rewound(self, partitions: Collection[TopicPartition]) -> None:
        """Begin anew with some of them, which are read again."""
        self._brakes |= {tp: Brake(self._settings.brake_records, self._settings.brake_share) for tp in partitions}

    def close(self) -> None:
        """Give up what is being looked for."""
        self._closing.set()

    async def decode(self, batch: Batch, progress: PartitionProgress) -> DecodedBatch | Braked:
        """Decode one batch, or tell why its partition must stop before it.

        Raises:
            AbandonedError: the partitions are being given away.
        """
        culprits: Mapping[int, str] = {}
        records: Sequence[Record] = batch.records
        if progress.is_careful and self._quarantine is not None:
            found = await self._culprits(self._quarantine, batch, progress)
            if isinstance(found, Braked):
                return found
            culprits = found
            records = [record for record in records if record.offset not in culprits] if culprits else records
        unresolved = self._decoder.unresolved(records)
        if unresolved:
            await self._retry("registry", lambda: self._decoder.resolve(unresolved), attempts=0)
        decoded = self._decode(batch, culprits, progress)
        return self._brakes[batch.tp].refuses(batch.records, decoded.letters) or decoded

    def _decode(self, batch: Batch, culprits: Mapping[int, str], progress: PartitionProgress) -> DecodedBatch:
        now_ms = self._clock.now_ms()
        rows: list[RawRow] = []
        letters: list[DeadLetter] = []
        for record in batch.records:
            if culprits and record.offset in culprits:
                letters.append(self._decoder.refused(record, culprits[record.offset]))
                continue
            result = self._decoder.decode(record, progress.log.partition_count)
            if isinstance(result, DeadLetter):
                letters.append(result)
            else:
                rows.append(RawRow(record, result.event, result.schema_id, now_ms))
        rows, letters, erased_count = self._erased.sift(progress, rows, letters)
        folds = by_user(rows, is_rebuilding=progress.status is PartitionStatus.REBUILDING)
        return DecodedBatch(batch, rows, letters, folds, erased_count)

    async def _culprits(
        self, quarantine: Quarantine, batch: Batch, progress: PartitionProgress
    ) -> Mapping[int, str] | Braked:
        """Have those records decoded elsewhere first that could have ended the workers before this one."""
        suspects = progress.suspects(batch.records)
        if not suspects:
            return {}
        logger.warning(
            "%s-%d: %d records from offset %d on are decoded by another process first, because workers died there",
            batch.tp.topic, batch.tp.partition, len(suspects), suspects[0].offset,
        )  # fmt: skip
        probing = asyncio.ensure_future(
            self._retry("probing", lambda: quarantine.culprits(suspects, progress.log.partition_count), attempts=0)
        )
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({probing, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not probing.done():
                raise AbandonedError
            culprits, vetted = probing.result()
        finally:
            probing.cancel()
            closing.cancel()
            await asyncio.gather(probing, closing, return_exceptions=True)
        for offset, detail in culprits.items():
            logger.error(
                "%s-%d: the record at offset %d is a dead letter and is not decoded here: %s",
                batch.tp.topic, batch.tp.partition, offset, detail,
            )  # fmt: skip
        if vetted < len(suspects):
            example = list(culprits.values())[-1]
            return Braked(
                batch.records[0].offset, vetted, len(culprits), ((Reason.UNDECODABLE, len(culprits)),), example
            )
        progress.vetted(suspects)
        return culprits
