"""Pseudonyms at ingest: wrappers around the decoder and the sinks, so that nothing behind them learns a user id.

The codec checks key and partition against the real id first. Then the event carries the pseudonym: states, lake rows
and letters are of that. The original key and value hold the real id, so they are kept nowhere.
"""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from schemas.codec import Decoded
from schemas.dead_letter import DeadLetter
from schemas.event import Record
from schemas.privacy import Pseudonyms, without_quotes
from sinks.rows import FlushReport, PartitionFlush, RawRow
from streams.ports import Decoder, Lake, Letters


class PseudonymDecoder:
    """Implements `streams.ports.Decoder`: events carry the pseudonym of their user."""

    def __init__(self, decoder: Decoder, pseudonyms: Pseudonyms) -> None:
        self._decode = decoder.decode
        self._pseudonym = pseudonyms.of
        self.unresolved = decoder.unresolved
        self.resolve = decoder.resolve
        self.refused = decoder.refused

    def decode(self, record: Record, partition_count: int) -> Decoded | DeadLetter:
        """Decode and check one record; never raises for bad input."""
        decoded = self._decode(record, partition_count)
        if isinstance(decoded, DeadLetter):
            return without_quotes(decoded)
        event = decoded.event
        return Decoded(msgspec.structs.replace(event, user_id=self._pseudonym(event.user_id)), decoded.schema_id)


class LakeWithoutOriginals:
    """Implements `streams.ports.Lake`: keys and values stay behind."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    async def write(self, flushes: Sequence[PartitionFlush]) -> FlushReport:
        """Append what the tables do not hold yet."""
        return await self._lake.write([_without_originals(flush) for flush in flushes])


class LettersWithoutOriginals:
    """Implements `streams.ports.Letters`: the same for the dead-letter topic."""

    def __init__(self, letters: Letters) -> None:
        self._letters = letters

    async def write(self, letters: Sequence[DeadLetter], /) -> None:
        """Publish letters; all are acknowledged on return."""
        await self._letters.write([_letter_without_original(letter) for letter in letters])


def _without_originals(flush: PartitionFlush) -> PartitionFlush:
    return replace(
        flush,
        raw=[_row_without_original(row) for row in flush.raw],
        letters=[_letter_without_original(letter) for letter in flush.letters],
    )


def _row_without_original(row: RawRow) -> RawRow:
    record = row.record
    kept = Record(record.topic, record.partition, record.offset, record.append_time_ms, None, None)
    return row._replace(record=kept)


def _letter_without_original(letter: DeadLetter) -> DeadLetter:
    size = None if letter.value is None else len(letter.value)
    return msgspec.structs.replace(letter, key=None, value=None, dropped_bytes=size)
