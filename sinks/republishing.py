"""Publishing records again, each with the position of its dead letter in a header, and finding those by it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from config.errors import ShopstreamError
from config.settings import Settings
from schemas.kafka_client import MESSAGE_BYTES_MAX, access_error, broker_unavailable, client_settings
from sinks.letter_reads import LogPosition

POSITION_HEADER: Final = "shopstream-redriven-from"
ATTEMPT_HEADER: Final = "shopstream-redrive-attempt"
RECORDS_AT_ONCE: Final = 500
_POLL_S: Final = 0.2


class Outgoing(NamedTuple):
    """One record to publish again.

    Attributes:
        letter: whose bytes they are.
        partition: where its key belongs.
    """

    letter: LogPosition
    attempt: int
    partition: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """What Kafka answered.

    Attributes:
        offsets: where each letter was stored; a letter that is absent was refused, or no answer came.
        error: the first refusal; empty if there was none.
    """

    offsets: Mapping[LogPosition, int] = field(default_factory=dict)
    error: str = ""


def position_header(letter: LogPosition) -> bytes:
    """Return the header's value; the topic's id is part of it, since the topic may be created again."""
    return f"{letter.topic_id}/{letter}".encode()


class EventLog:
    """The event topics, for redrive. One thread may use it at a time."""

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.require("kafka").kafka
        self._compression = settings.producer.compression
        self._producer: Any = None

    def ends(self, topic: str, partitions: Collection[int]) -> dict[int, int]:
        """Return the next offset of some partitions.

        Raises:
            BrokerUnavailableError, BrokerAccessError: Kafka does not answer, or does not let us read.
        """
        with self._consumer() as consumer:
            return {partition: self._bounds(consumer, topic, partition)[1] for partition in sorted(partitions)}

    def publish(self, records: Sequence[Outgoing]) -> Stored:
        """Publish records to their letters' topics; blocking, until Kafka has answered for each or time is over.

        Raises:
            BrokerUnavailableError: Kafka does not answer at all.
        """
        from confluent_kafka import KafkaException

        offsets: dict[LogPosition, int] = {}
        errors: list[str] = []
        producer = self._connected()
        try:
            for record in records:
                producer.produce(
                    record.letter.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers={
                        POSITION_HEADER: position_header(record.letter),
                        ATTEMPT_HEADER: str(record.attempt).encode(),
                    },
                    on_delivery=_noting(record.letter, offsets, errors),
                )
                producer.poll(0)
            left = producer.flush(2 * self._kafka.timeout_s)
        except (KafkaException, BufferError) as error:
            errors.append(str(error))
            left = producer.flush(2 * self._kafka.timeout_s)
        if left:
            errors.append(f"no answer within {2 * self._kafka.timeout_s:g} s")
            producer.purge()
            producer.flush(1.0)
        return Stored(offsets, errors[0] if errors else "")

    def find(
        self, topic: str, searches: Mapping[int, int], letters: Collection[LogPosition]
    ) -> dict[LogPosition, tuple[int, int]]:
        """Look for records that were published again.

        Args:
            searches: the offset to begin at, by partition; each is read up to its present end.
            letters: whose records are looked for.

        Returns:
            Partition and offset of the first record of each letter that is there.

        Raises:
            BrokerUnavailableError: Kafka does not answer.
        """
        wanted = {position_header(letter): letter for letter in letters}
        found: dict[LogPosition, tuple[int, int]] = {}
        with self._consumer() as consumer:
            for partition, first in sorted(searches.items()):
                for message in self._read(consumer, topic, partition, first):
                    header = dict(message.headers() or ()).get(POSITION_HEADER)
                    letter = wanted.get(header) if header is not None else None
                    if letter is not None:
                        found.setdefault(letter, (partition, message.offset()))
        return found

    def close(self) -> None:
        """Drop the connection; everything that `publish` was given is settled by then."""
        self._producer = None

    def _read(self, consumer: Any, topic: str, partition: int, first: int) -> Iterator[Any]:
        from confluent_kafka import KafkaError, TopicPartition

        earliest, end = self._bounds(consumer, topic, partition)
        if max(first, earliest) >= end:
            return
        consumer.assign([TopicPartition(topic, partition, max(first, earliest))])
        at_end = False
        while not at_end:
            for message in consumer.consume(RECORDS_AT_ONCE, timeout=_POLL_S):
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    raise self._failure(error)
                if error is not None or message.offset() >= end:
                    at_end = True
                else:
                    yield message

    def _bounds(self, consumer: Any, topic: str, partition: int) -> tuple[int, int]:
        from confluent_kafka import KafkaException, TopicPartition

        try:
            earliest, end = consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=self._kafka.timeout_s
            )
        except KafkaException as error:
            raise self._failure(error.args[0]) from error
        return int(earliest), int(end)

    def _failure(self, error: Any) -> ShopstreamError:
        refusal = access_error(error, self._kafka, "to read the event topics")
        return refusal or broker_unavailable(self._kafka, error.str())

    @contextmanager
    def _consumer(self) -> Iterator[Any]:
        from confluent_kafka import Consumer

        consumer = Consumer(
            client_settings(self._kafka)
            | {
                "group.id": "shopstream-dlq",  # the client demands a name; it is never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.queue.backoff.ms": 20,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def _connected(self) -> Any:
        from confluent_kafka import Producer

        if self._producer is None:
            self._producer = Producer(
                client_settings(self._kafka)
                | {
                    "enable.idempotence": True,
                    "acks": "all",
                    "compression.type": self._compression,
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "message.timeout.ms": round(self._kafka.timeout_s * 1000),
                }
            )
        return self._producer


def _noting(letter: LogPosition, offsets: dict[LogPosition, int], errors: list[str]) -> Any:
    def note(error: Any, message: Any) -> None:
        if error is None:
            offsets[letter] = message.offset()
        else:
            errors.append(error.str())

    return note
