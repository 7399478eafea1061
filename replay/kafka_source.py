"""Reading a partition's log from Kafka again: bounded, beside every consumer group, with the worker's own rules."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from config.errors import ShopstreamError
from config.settings import Settings
from replay.errors import NotRetainedError
from replay.sources import Former, LakeReach, LakeSource, LogEntry, Piece, entries_of
from schemas.codec import Codec, SchemaSource
from schemas.dead_letter import DeadLetter
from schemas.event import Event, Record
from schemas.kafka_client import access_error, broker_unavailable, client_settings
from schemas.privacy import Pseudonyms
from schemas.registry import RegistryClient
from sinks.lake_reads import PartitionLog
from sinks.lake_root import lake_of
from sinks.log_moves import read_log_moves
from sinks.repairs import corrected_versions
from streams.adapters import CodecDecoder
from streams.privacy import PseudonymDecoder

RECORDS_AT_ONCE: Final = 10_000
_POLL_S: Final = 0.05  # the client waits it out at the end of every bounded read
_FOR_EVER_S: Final = 10.0**9  # a run asks once for each schema


def replay_group(settings: Settings) -> str:
    """Return the name of the consumer group of replays; nothing is ever committed to the worker's."""
    return f"{settings.worker.group_id}-replay"


class KafkaSource:
    """Reads the topics themselves; implements `replay.sources.EventSource`.

    Each read has a consumer of its own, which joins no group and commits nothing. One thread may use it at a time.

    Args:
        schemas: where schemas are asked for; the registry of the settings by default.

    Attributes:
        letter_count: records read so far that are no events.
    """

    name: Final = "kafka"

    def __init__(self, settings: Settings, schemas: SchemaSource | None = None) -> None:
        self._settings = settings.require("kafka")
        source = RegistryClient(settings.require("registry").registry) if schemas is None else schemas
        self._codec = Codec(
            source,
            limits=settings.events,
            unknown_id_ttl_s=_FOR_EVER_S,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )
        self._pseudonyms = Pseudonyms.in_use(settings.privacy)
        decoder = CodecDecoder(self._codec)
        self._decode = (
            decoder.decode if self._pseudonyms is None else PseudonymDecoder(decoder, self._pseudonyms).decode
        )
        self.letter_count = 0

    def position(self, log: PartitionLog) -> int:
        """Return the next offset that the partition will give; where the log ends if another took over from it."""
        ended = read_log_moves(lake_of(self._settings)).end_offset(log)
        if ended is not None:
            return ended
        with self._consumer() as consumer:
            return self._watermarks(consumer, log)[1]

    def reach(self, log: PartitionLog) -> LakeReach | None:
        """Return the oldest record that retention has left; None when there is none."""
        with self._consumer() as consumer:
            earliest, end = self._watermarks(consumer, log)
            for messages in self._batches(consumer, log, earliest, end):
                return LakeReach(messages[0].offset(), messages[0].timestamp()[1])
        return None

    def offset_at(self, log: PartitionLog, append_ms: int) -> int:
        """Return the first offset that was appended at this instant or later; `position` if there is none."""
        from confluent_kafka import KafkaException, TopicPartition

        with self._consumer() as consumer:
            end = self._watermarks(consumer, log)[1]
            try:
                asked = [TopicPartition(log.topic, log.partition, max(0, append_ms))]
                found = consumer.offsets_for_times(asked, timeout=self._settings.kafka.timeout_s)[0]
            except KafkaException as error:
                raise self._failure(error.args[0]) from error
        return found.offset if found.offset >= 0 else end

    def counts(self, log: PartitionLog, *, users: Collection[str] | None = None) -> Counter[str]:
        """Count the events of each user; reads the whole partition."""
        counts: Counter[str] = Counter()
        for piece in self._whole(log, self.position(log), users):
            counts.update(event.user_id for event in piece.events)
        return counts

    def corrected(self, log: PartitionLog) -> Mapping[str, int]:
        """Return the users that were repaired in event-time order, as the lake tells; nobody without a lake."""
        return corrected_versions(lake_of(self._settings), log)

    def former(self, log: PartitionLog) -> Former | None:
        """Return what the log follows; the log of a topic that is gone is read from the lake."""
        lake = lake_of(self._settings)
        before = read_log_moves(lake).before(log)
        if before is None:
            return None
        is_same_topic = all(earlier.topic_id == log.topic_id for earlier in before.former)
        return Former(before.first_offset, before.former, self if is_same_topic else LakeSource(lake))

    def in_log_order(self, log: PartitionLog, first_offset: int, end_offset: int) -> Iterator[list[LogEntry]]:
        """Yield what is retained of a stretch."""
        reach = self.reach(log)
        if reach is not None:
            for piece in self.read(log, max(first_offset, reach.first_offset), end_offset):
                yield entries_of(piece)

    def in_time_order(self, log: PartitionLog, end_offset: int, *, users: Collection[str]) -> Iterator[list[LogEntry]]:
        """Yield the events of some users by (event time, offset); reads the whole partition, holds theirs."""
        found: list[LogEntry] = []
        for piece in self._whole(log, end_offset, users):
            found += entries_of(piece)
        found.sort(key=lambda entry: (entry[1].event_time_ms, entry[0]))
        for first in range(0, len(found), RECORDS_AT_ONCE):
            yield found[first : first + RECORDS_AT_ONCE]

    def read(
        self,
        log: PartitionLog,
        first_offset: int,
        end_offset: int,
        *,
        users: Collection[str] | None = None,
        originals: bool = False,
    ) -> Iterator[Piece]:
        """Yield the events of a stretch; what the worker would make a dead letter is counted and left out.

        Raises:
            NotRetainedError: the stretch begins before what is retained, or retention overtakes the read.
            BrokerUnavailableError, BrokerAccessError: Kafka does not answer, or does not let us read.
            RegistryUnavailableError: a schema cannot be asked for.
        """
        if first_offset >= end_offset:
            return
        wanted = None if users is None else frozenset(users)
        keys = None if wanted is None or self._pseudonyms is not None else {user.encode() for user in wanted}
        partition_count = int(log.log_epoch.rpartition(":")[2])
        position = first_offset
        with self._consumer() as consumer:
            earliest, end = self._watermarks(consumer, log)
            if first_offset < earliest or end_offset > end:
                raise not_retained(log, (first_offset, end_offset), (earliest, end))
            for records in self._records(consumer, log, first_offset, end_offset):
                position = records[-1].offset + 1
                mine = records if keys is None else [record for record in records if record.key in keys]
                yield self._piece(mine, partition_count, position, wanted, originals=originals)
        if position < end_offset:
            yield Piece(end_offset, [], [], [], [], 0)  # the log ends in what is no record, a transaction's mark

    @contextmanager
    def tail(self, log: PartitionLog, first_offset: int) -> Iterator[Callable[[int], list[LogEntry]]]:
        """Follow a partition from an offset on, over one connection.

        Yields:
            What reads the events from where it stopped to before an offset, which must be there already.

        Raises:
            NotRetainedError: what follows is not retained.
            BrokerUnavailableError, BrokerAccessError: Kafka does not answer, or does not let us read.
        """
        from confluent_kafka import TopicPartition

        partition_count = int(log.log_epoch.rpartition(":")[2])
        position = first_offset

        def read_to(end_offset: int) -> list[LogEntry]:
            nonlocal position
            records: list[Record] = []
            while position < end_offset:
                message = consumer.poll(self._settings.kafka.timeout_s)
                if message is None:
                    raise broker_unavailable(self._settings.kafka, "it gives no records")
                if not self._is_end(message, log, (position, end_offset), consumer):
                    value = (message.timestamp()[1], message.key(), message.value())
                    records.append(Record(log.topic, log.partition, message.offset(), *value))
                    position = message.offset() + 1
                else:
                    position = max(position, message.offset())
            return entries_of(self._piece(records, partition_count, position, None, originals=False))

        with self._consumer() as consumer:
            consumer.assign([TopicPartition(log.topic, log.partition, first_offset)])
            yield read_to

    def _is_end(self, message: Any, log: PartitionLog, asked: tuple[int, int], consumer: Any) -> bool:
        """Tell whether a message is the end of the partition rather than a record.

        Raises:
            NotRetainedError, BrokerUnavailableError, BrokerAccessError: it is an error.
        """
        from confluent_kafka import KafkaError

        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            return True
        if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
            raise not_retained(log, asked, self._watermarks(consumer, log))
        raise self._failure(error)

    def _piece(
        self,
        records: list[Record],
        partition_count: int,
        end_offset: int,
        wanted: frozenset[str] | None,
        *,
        originals: bool,
    ) -> Piece:
        self._codec.resolve(self._codec.unresolved(records))
        kept: list[Record] = []
        events: list[Event] = []
        letter_count = 0
        decode = self._decode
        for record in records:
            decoded = decode(record, partition_count)
            if isinstance(decoded, DeadLetter):
                letter_count += 1
            elif wanted is None or decoded.event.user_id in wanted:
                kept.append(record)
                events.append(decoded.event)
        self.letter_count += letter_count
        return Piece(
            end_offset,
            [record.offset for record in kept],
            [record.append_time_ms for record in kept],
            events,
            [(record.key, record.value) for record in kept] if originals else [],
            letter_count,
        )

    def _whole(self, log: PartitionLog, end_offset: int, users: Collection[str] | None) -> Iterator[Piece]:
        reach = self.reach(log)
        if reach is not None:
            yield from self.read(log, reach.first_offset, end_offset, users=users)

    def _records(self, consumer: Any, log: PartitionLog, first: int, end: int) -> Iterator[list[Record]]:
        """Yield records in batches, none of them empty."""
        topic, partition = log.topic, log.partition
        for messages in self._batches(consumer, log, first, end):
            yield [
                Record(topic, partition, message.offset(), message.timestamp()[1], message.key(), message.value())
                for message in messages
            ]

    def _batches(self, consumer: Any, log: PartitionLog, first: int, end: int) -> Iterator[list[Any]]:
        """Yield messages that are records of a stretch, in batches, none of them empty."""
        from confluent_kafka import TopicPartition

        if first >= end:
            return
        consumer.assign([TopicPartition(log.topic, log.partition, first)])
        silent_since_s = time.monotonic()
        while True:
            messages = consumer.consume(RECORDS_AT_ONCE, timeout=_POLL_S)
            if messages:
                silent_since_s = time.monotonic()
            elif time.monotonic() - silent_since_s > self._settings.kafka.timeout_s:
                raise broker_unavailable(self._settings.kafka, "it gives no records")
            found = [message for message in messages if message.error() is None]
            is_end = len(found) < len(messages)  # what is no record is the end, or an error
            if is_end:
                for message in messages:
                    self._is_end(message, log, (first, end), consumer)
            if found and found[-1].offset() >= end - 1:
                is_end = True
                found = [message for message in found if message.offset() < end]
            if found:
                yield found
            if is_end:
                return

    def _watermarks(self, consumer: Any, log: PartitionLog) -> tuple[int, int]:
        from confluent_kafka import KafkaException, TopicPartition

        try:
            earliest, end = consumer.get_watermark_offsets(
                TopicPartition(log.topic, log.partition), timeout=self._settings.kafka.timeout_s
            )
        except KafkaException as error:
            raise self._failure(error.args[0]) from error
        return int(earliest), int(end)

    def _failure(self, error: Any) -> ShopstreamError:
        refusal = access_error(error, self._settings.kafka, "to read the event topics")
        return refusal or broker_unavailable(self._settings.kafka, error.str())

    @contextmanager
    def _consumer(self) -> Iterator[Any]:
        from confluent_kafka import Consumer

        consumer = Consumer(
            client_settings(self._settings.kafka)
            | {
                "group.id": replay_group(self._settings),  # the client demands a name; it is never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",  # what retention takes away meanwhile is told, not skipped
                "isolation.level": "read_uncommitted",  # as the worker reads
                "check.crcs": False,
                "fetch.queue.backoff.ms": 20,
                "queued.min.messages": 50_000,
                "queued.max.messages.kbytes": 32_768,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()


def not_retained(log: PartitionLog, asked: tuple[int, int], held: tuple[int, int]) -> NotRetainedError:
    """Return the error for a stretch of which Kafka holds only a part; all are (first offset, end offset)."""
    return NotRetainedError(
        f"{log.topic}-{log.partition}: Kafka retains the offsets {held[0]} to before {held[1]}, and {asked[0]} to "
        f"before {asked[1]} were asked for.",
        hint="Begin later, or read it from the lake: --source lake.",
    )
