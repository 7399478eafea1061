"""A small client for people who publish events: typed, idempotent, partitioned as Kafka's Java client does it."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from config.settings import Settings
from schemas.encoder import Encoder
from schemas.errors import DeliveryError
from schemas.event import EVENT_TOPICS, Event
from schemas.kafka_client import MESSAGE_BYTES_MAX, Refusals, broker_unavailable, client_settings, cluster_metadata
from schemas.registry import RegistryClient

_QUEUE_FULL_WAIT_S = 0.05


class Delivery(NamedTuple):
    """The fate of one message.

    Attributes:
        partition: where it was stored; -1 if it was not.
        offset: its offset; -1 if it was not stored.
        append_time_ms: the broker's LogAppendTime, integer milliseconds UTC; -1 if it was not stored.
        error: why it was not stored; None if it was.
    """

    topic: str
    partition: int
    offset: int
    append_time_ms: int
    error: str | None


OnDelivery = Callable[[Delivery], None]


class EventProducer:
    """Publishes events. One thread may use it at a time; callbacks run inside `send`, `flush` and `close`.

    Our schemas must be registered: nothing is registered on the way.

    Raises:
        UnknownSubjectError: a schema is not registered.
        RegistryUnavailableError: the schema registry does not answer.
        BrokerUnavailableError: Kafka does not answer within `kafka.timeout_s`.
        BrokerAccessError, RegistryAccessError: one of them does not let us in.
    """

    def __init__(self, settings: Settings) -> None:
        from confluent_kafka import Producer

        settings.require("kafka", "registry")
        self._settings = settings
        registry = RegistryClient(settings.registry)
        try:
            self._encoder = Encoder.registered(registry, EVENT_TOPICS)
        finally:
            registry.close()
        self._failed_count = 0
        self._first_failure = ""
        refusals = Refusals(settings.kafka)
        self._producer: Any = Producer(
            client_settings(settings.kafka, refusals)
            | {
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",  # librdkafka's default is CRC32: one user would then have two logs
                "compression.type": settings.producer.compression,
                "linger.ms": settings.producer.linger_ms,
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "on_delivery": self._note_failure,
            }
        )
        cluster_metadata(self._producer, settings.kafka, refusals)

    def send(self, topic: str, event: Event, on_delivery: OnDelivery | None = None) -> None:
        """Hand over one event, keyed by its user. Rules are not checked here: `schemas.models` does that.

        Waits while the queue is full. The callback is called once, from a later `send`, `flush` or `close`.

        Raises:
            EncodeError: a value does not fit the schema of the topic.
            BrokerUnavailableError: the queue stayed full for `kafka.timeout_s`.
        """
        self.send_raw(topic, event.user_id.encode(), self._encoder.event(topic, event), None, on_delivery)

    def send_raw(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Hand over any bytes, to the key's partition unless one is given: for tests and tools.

        Raises:
            BrokerUnavailableError: the queue stayed full for `kafka.timeout_s`.
            DeliveryError: it is larger than any topic takes.
        """
        from confluent_kafka import KafkaException

        options: dict[str, Any] = {} if partition is None else {"partition": partition}
        if on_delivery is not None:
            options["on_delivery"] = _reporting(on_delivery)
        try:
            self._produce(topic, key, value, options)
        except KafkaException as error:
            raise DeliveryError(f"A message for {topic} was refused ({error.args[0].str()}).") from error
        self._producer.poll(0)

    def encode(self, topic: str, event: Event) -> bytes:
        """Return the framed bytes that `send` would publish.

        Raises:
            EncodeError: a value does not fit the schema of the topic.
        """
        return self._encoder.event(topic, event)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Run the callbacks of what was delivered, waiting for the first for at most `timeout_s`."""
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Wait until everything handed over was stored or refused.

        Returns:
            How many messages are still on their way when the time is over.

        Raises:
            DeliveryError: messages without a callback of their own were not stored.
        """
        left = int(self._producer.flush(timeout_s))
        if self._failed_count:
            count, first = self._failed_count, self._first_failure
            self._failed_count = 0
            raise DeliveryError(f"Kafka did not store {count} messages; the first: {first}.")
        return left

    def close(self) -> None:
        """Flush; safe to call twice.

        Raises:
            DeliveryError: messages were not stored, or are still on their way after `kafka.timeout_s`.
        """
        left = self.flush(self._settings.kafka.timeout_s)
        if left:
            self._producer.purge()
            self._producer.flush(1.0)
            raise DeliveryError(f"{left} messages were not stored within {self._settings.kafka.timeout_s:g} s.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _produce(self, topic: str, key: bytes | None, value: bytes | None, options: dict[str, Any]) -> None:
        deadline = None
        while True:
            try:
                self._producer.produce(topic, value, key, **options)
            except BufferError:
                now = time.monotonic()
                deadline = now + self._settings.kafka.timeout_s if deadline is None else deadline
                if now >= deadline:
                    raise broker_unavailable(self._settings.kafka, "the producer's queue stays full") from None
                self._producer.poll(_QUEUE_FULL_WAIT_S)
            else:
                return

    def _note_failure(self, error: Any, message: Any) -> None:
        if error is not None:
            self._first_failure = self._first_failure if self._failed_count else f"{message.topic()}: {error.str()}"
            self._failed_count += 1


def _reporting(on_delivery: OnDelivery) -> Callable[[Any, Any], None]:
    def report(error: Any, message: Any) -> None:
        if error is None:
            on_delivery(Delivery(message.topic(), message.partition(), message.offset(), message.timestamp()[1], None))
        else:
            on_delivery(Delivery(message.topic(), -1, -1, -1, error.str()))

    return report
