"""The topic of requests for retrainings: each as Avro, for whatever trains models elsewhere."""

from typing import Any, Final

import msgspec

from config.settings import Settings
from schemas.encoder import Encoder
from schemas.errors import BrokerUnavailableError, EncodeError, RegistryUnavailableError, SchemasError
from schemas.event import RETRAIN_TOPIC
from schemas.kafka_client import MESSAGE_BYTES_MAX, Refusals, access_error, client_settings
from schemas.registry import RegistryClient, register_own_schemas
from schemas.retraining import RetrainingEvent
from schemas.topics import ensure_topics
from sinks.errors import DeliveryRefusedError, NotDeliveredError
from sinks.outbox import Delivery

_MAY_PASS: Final = (BrokerUnavailableError, RegistryUnavailableError)


class RetrainTopic:
    """Publishes deliveries of kind `kafka`, whose payload is a `RetrainingEvent`; the key is the request's id.

    Topic and schema are there after the first: a deployment that never asks for a retraining needs neither.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, delivery: Delivery) -> None:
        """Publish it; blocking, until the brokers have stored it.

        Raises:
            NotDeliveredError: they have not, as far as we know.
            DeliveryRefusedError: it does not fit the schema, or not into a message.
        """
        try:
            request = msgspec.convert(dict(delivery.payload), RetrainingEvent)
            value = self._encoder().retraining(request)
        except (msgspec.ValidationError, EncodeError) as error:
            raise DeliveryRefusedError(f"{delivery.id} is no request for a retraining ({error}).") from error
        self._publish(request.request_id.encode(), value)

    def _encoder(self) -> Encoder:
        settings = self._settings.require("kafka", "registry")
        try:
            registry = RegistryClient(settings.registry)
            try:
                encoder = Encoder(register_own_schemas(registry, (RETRAIN_TOPIC,)))  # we are its producer
            finally:
                registry.close()
            ensure_topics(settings, (RETRAIN_TOPIC,))
        except SchemasError as error:
            raise NotDeliveredError(
                f"{RETRAIN_TOPIC} cannot be written to: {error.message}",
                hint=error.hint,
                is_passing=isinstance(error, _MAY_PASS),
            ) from error
        return encoder

    def _publish(self, key: bytes, value: bytes) -> None:
        from confluent_kafka import KafkaException, Producer

        kafka = self._settings.kafka
        options = {
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "compression.type": "zstd",
            "message.max.bytes": MESSAGE_BYTES_MAX,
            "message.timeout.ms": round(kafka.timeout_s * 1000),
        }
        outcomes: list[Any] = []  # an error, or None once it is stored
        producer = Producer(client_settings(kafka, Refusals(kafka)) | options)
        try:
            producer.produce(RETRAIN_TOPIC, value, key, on_delivery=lambda error, _message: outcomes.append(error))
            producer.flush(kafka.timeout_s + 1)
        except KafkaException as error:
            outcomes.append(error.args[0])
        if not outcomes:
            raise self._failed(f"no answer within {kafka.timeout_s:g} s")
        if outcomes[0] is not None:
            raise self._refused(outcomes[0], len(value))

    def _refused(self, error: Any, size_bytes: int) -> NotDeliveredError | DeliveryRefusedError:
        from confluent_kafka import KafkaError

        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return DeliveryRefusedError(f"The request takes {size_bytes} bytes, more than {RETRAIN_TOPIC} holds.")
        refusal = access_error(error, self._settings.kafka, f"to write topic {RETRAIN_TOPIC}")
        if refusal is not None:
            return NotDeliveredError(refusal.message, hint=refusal.hint, is_passing=False)
        return self._failed(error.str())

    def _failed(self, why: str) -> NotDeliveredError:
        return NotDeliveredError(
            f"{RETRAIN_TOPIC} was not written to, by Kafka at {self._settings.kafka.bootstrap_servers} ({why}).",
            hint="Check that the broker runs.",
        )
