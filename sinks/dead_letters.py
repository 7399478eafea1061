"""The dead letter topic: each letter as Avro, where whoever runs the producer of the bad record can read it."""

from collections.abc import Sequence
from typing import Any, Final

from config.settings import Settings
from schemas.dead_letter import DeadLetter
from schemas.encoder import Encoder
from schemas.errors import EncodeError
from schemas.event import DEAD_LETTERS_TOPIC
from schemas.kafka_client import MESSAGE_BYTES_MAX, Refusals, access_error, client_settings
from schemas.registry import RegistryClient
from sinks.errors import LetterNotPublishedError

LETTERS_AT_ONCE: Final = 500


def letter_key(letter: DeadLetter) -> bytes:
    """Return the key of a letter's message: a letter that is published twice has one key."""
    return f"{letter.topic}/{letter.partition}/{letter.offset}".encode()


class DeadLetterTopic:
    """Publishes dead letters. One thread may use it at a time.

    Raises:
        UnknownSubjectError: the letter's schema is not registered.
        RegistryUnavailableError: the schema registry does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        settings.require("kafka", "registry")
        registry = RegistryClient(settings.registry)
        try:
            self._encoder = Encoder.registered(registry, (DEAD_LETTERS_TOPIC,))
        finally:
            registry.close()
        self._bytes_max = settings.events.letter_value_bytes_max
        self._kafka = settings.kafka
        self._refusals = Refusals(settings.kafka)
        self._producer: Any = None

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Publish letters; blocking, until the brokers have stored all of them.

        Keys and values are cut to `events.letter_value_bytes_max` bytes; the size and the SHA-256 of the whole value
        go with them. A call that failed may be repeated: readers know a letter by its key.

        Raises:
            LetterNotPublishedError: some were not acknowledged within `kafka.timeout_s`.
            BrokerAccessError: the broker does not let us in, or not write them.
        """
        for first in range(0, len(letters), LETTERS_AT_ONCE):
            self._publish(letters[first : first + LETTERS_AT_ONCE])

    def close(self) -> None:
        """Drop the connection; everything that `write` was given is stored by then."""
        self._producer = None

    def _publish(self, letters: Sequence[DeadLetter]) -> None:
        from confluent_kafka import KafkaException

        failures: list[Any] = []

        def on_delivery(error: Any, _message: Any) -> None:
            if error is not None:
                failures.append(error)

        try:
            producer = self._connected()
            for letter in letters:
                value = self._encoder.letter(letter, bytes_max=self._bytes_max)
                producer.produce(DEAD_LETTERS_TOPIC, value, letter_key(letter), on_delivery=on_delivery)
            left_count = producer.flush(self._kafka.timeout_s + 1)
        except (KafkaException, BufferError, EncodeError) as error:
            why = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise self._failed(f"{len(letters)} dead letters could not be sent ({why})") from error
        if failures or left_count:
            self._check_access(failures)
            why = failures[0].str() if failures else f"no answer within {self._kafka.timeout_s:g} s"
            raise self._failed(f"{len(failures) + left_count} of {len(letters)} dead letters were not stored ({why})")

    def _connected(self) -> Any:
        from confluent_kafka import Producer

        if self._producer is None:
            self._producer = Producer(
                client_settings(self._kafka, self._refusals)
                | {
                    "enable.idempotence": True,
                    "acks": "all",
                    "partitioner": "murmur2_random",
                    "compression.type": "zstd",
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "message.timeout.ms": round(self._kafka.timeout_s * 1000),
                }
            )
        return self._producer

    def _check_access(self, failures: Sequence[Any]) -> None:
        self._refusals.check()
        for error in failures:
            refusal = access_error(error, self._kafka, f"to write topic {DEAD_LETTERS_TOPIC}")
            if refusal is not None:
                raise refusal

    def _failed(self, what: str) -> LetterNotPublishedError:
        # What is left in the queue would come out during the next try, which sends the same letters again.
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
        return LetterNotPublishedError(
            f"{what} by Kafka at {self._kafka.bootstrap_servers}.",
            hint=f"Check that the broker runs and that the topic {DEAD_LETTERS_TOPIC} exists.",
        )
