"""The target `topic`: the original bytes of a range in another topic, once, whatever stops the replay.

What is published and where the replay goes on is one Kafka transaction: the positions are committed, inside it, to a
consumer group of this run and lane. A replay that was killed begins by ending the transaction that it left open, asks
the group how far it had come, and drops what comes again. Consumers of the topic that read only what is committed
(`isolation.level=read_committed`) see each record once; others may also see those of a transaction that was given up.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from config.errors import ShopstreamError
from config.settings import Settings
from replay.errors import RangeError, ReplayError
from replay.targets import Chunk, RunInfo
from schemas.event import RETRAIN_TOPIC
from schemas.kafka_client import MESSAGE_BYTES_MAX, access_error, broker_unavailable, client_settings
from schemas.topics import ALL_TOPICS
from sinks.lake_reads import PartitionLog

_SERVED_MS: Final = 120_000  # a transaction that lives longer is given up by the broker
_QUEUE_FULL_S: Final = 0.1


class TopicTarget:
    """Publishes the events of a lane; implements `replay.targets.Target`.

    Raises:
        BrokerUnavailableError, BrokerAccessError: Kafka does not answer, or does not let us write.
    """

    def __init__(self, settings: Settings, run: RunInfo, lane: Sequence[PartitionLog]) -> None:
        from confluent_kafka import Consumer, Producer

        self._kafka = settings.require("kafka").kafka
        self._topic = run.to_topic
        name = f"{settings.worker.group_id}-replay-{run.run_id}-{run.begun_ms}-{lane[0].partition}"
        base = client_settings(self._kafka)
        self._group: Any = Consumer(base | {"group.id": name, "enable.auto.commit": False})
        self._producer: Any = Producer(
            base
            | {
                "transactional.id": name,
                "transaction.timeout.ms": _SERVED_MS,
                "partitioner": "murmur2_random",  # as the producers of events do it
                "compression.type": settings.producer.compression,
                "linger.ms": settings.producer.linger_ms,
                "message.max.bytes": MESSAGE_BYTES_MAX,
            }
        )
        self._counts = {"published": 0}
        self._refusal: Any = None
        self._is_open = False
        self._call(self._producer.init_transactions, self._kafka.timeout_s)
        self._positions = self._committed(lane)
        self._published_to = dict(self._positions)

    def restore(self, saved: bytes) -> None:
        """Take the count of before; positions were read from Kafka."""
        self._counts = msgspec.msgpack.decode(saved, type=dict[str, int])

    def write(self, chunk: Chunk) -> None:
        """Publish what this run has not published yet, in the merged order."""
        for entry in chunk.merged():
            self._counts["published"] += 1
            if entry.offset >= self._positions[entry.log]:
                self._begin()
                self._produce(entry.key, entry.value)
                self._published_to[entry.log] = entry.offset + 1
        self._producer.poll(0)

    def save(self) -> bytes:
        """Commit what was published together with the positions."""
        if self._is_open:
            from confluent_kafka import TopicPartition

            positions = [
                TopicPartition(log.topic, log.partition, position)
                for log, position in self._published_to.items()
                if position
            ]
            metadata = self._group.consumer_group_metadata()
            self._call(self._producer.send_offsets_to_transaction, positions, metadata, self._kafka.timeout_s)
            self._call(self._producer.commit_transaction, self._kafka.timeout_s)
            self._is_open = False
            self._positions = dict(self._published_to)
        return msgspec.msgpack.encode(self._counts)

    def counts(self) -> Mapping[str, int]:
        """Return how many records were published."""
        return dict(self._counts)

    def close(self) -> None:
        """Give up what was not saved."""
        try:
            if self._is_open:
                self._call(self._producer.abort_transaction, self._kafka.timeout_s)
        finally:
            self._group.close()

    def _begin(self) -> None:
        if not self._is_open:
            self._call(self._producer.begin_transaction)
            self._is_open = True

    def _produce(self, key: bytes | None, value: bytes | None) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
                break
            except BufferError:
                self._producer.poll(_QUEUE_FULL_S)
        if self._refusal is not None:
            raise self._failure(self._refusal)

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._refusal = error

    def _committed(self, lane: Sequence[PartitionLog]) -> dict[PartitionLog, int]:
        from confluent_kafka import TopicPartition

        asked = [TopicPartition(log.topic, log.partition) for log in lane]
        found = self._call(self._group.committed, asked, timeout=self._kafka.timeout_s)
        return {log: max(0, each.offset) for log, each in zip(lane, found, strict=True)}

    def _call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Ask Kafka; once more while it says that this may be tried again.

        Raises:
            ShopstreamError: it refuses, or does not answer in time.
        """
        from confluent_kafka import KafkaException
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

        def is_passing(error: BaseException) -> bool:
            return isinstance(error, KafkaException) and error.args[0].retriable()

        retrying = Retrying(
            retry=retry_if_exception(is_passing), stop=stop_after_delay(self._kafka.timeout_s), wait=wait_fixed(0.2),
            reraise=True,
        )  # fmt: skip
        try:
            return retrying(function, *arguments, **named)
        except KafkaException as error:
            raise self._failure(error.args[0]) from error

    def _failure(self, error: Any) -> ShopstreamError:
        from confluent_kafka import KafkaError

        refusal = access_error(error, self._kafka, f"to publish to {self._topic}")
        if refusal is not None:
            return refusal
        if error.code() in {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH}:  # noqa: SLF001 - its public name
            return ReplayError(
                f"Another process publishes this replay to {self._topic}.",
                hint="Let it finish, or stop it and go on with --resume.",
            )
        return broker_unavailable(self._kafka, error.str())


def require_topic(settings: Settings, name: str) -> None:
    """Check that a topic can be published to: one that is there, and that no worker of ours reads or writes.

    Raises:
        RangeError: it cannot; it says why.
        BrokerUnavailableError: Kafka does not answer.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    if name in {*ALL_TOPICS, RETRAIN_TOPIC}:
        raise RangeError(
            f"--to-topic {name} is what live reads or writes: its events would be there twice, or be no events.",
            hint="Name another topic.",
        )
    kafka = settings.require("kafka").kafka
    try:
        topics = AdminClient(client_settings(kafka)).list_topics(timeout=kafka.timeout_s).topics
    except KafkaException as error:
        raise broker_unavailable(kafka, error.args[0].str()) from error
    if name not in topics:
        raise RangeError(
            f"There is no topic {name!r} to publish to.",
            hint="Create it first: with as many partitions as it shall have, and message.timestamp.type=LogAppendTime "
            "if a worker is to read it.",
        )
