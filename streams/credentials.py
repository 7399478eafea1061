"""What the worker's consumer shows to Kafka, and what it means when Kafka refuses it."""

import logging
from typing import Any

import faust
from aiokafka import errors as kafka_errors

from config.security import tls_context
from config.services import KafkaSettings
from schemas.errors import BrokerAccessError
from schemas.kafka_client import rights_error

_RIGHTS = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
)

CONNECTION_LOGGER = "aiokafka.conn"


def without_login(record: logging.LogRecord) -> bool:
    """Drop the log records that would hold a password: aiokafka logs each request at debug level, the login too."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any("Sasl" in type(argument).__name__ for argument in arguments)


def broker_credentials(settings: KafkaSettings) -> Any:
    """Return what `faust.App(broker_credentials=...)` takes; None for a broker without TLS and login."""
    context = tls_context(settings) if settings.is_encrypted else None
    if settings.uses_sasl:
        logging.getLogger(CONNECTION_LOGGER).addFilter(without_login)
        return faust.SASLCredentials(
            username=settings.username,
            password=settings.password.get_secret_value(),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def refusal(error: BaseException | None, settings: KafkaSettings) -> BrokerAccessError | None:
    """Say in our words that Kafka took a right away while the consumer ran; None if the error is of another kind."""
    if not isinstance(error, _RIGHTS):
        return None
    kind = "use the consumer group" if isinstance(error, kafka_errors.GroupAuthorizationFailedError) else "read topic"
    named = ", ".join(str(part) for part in error.args)
    return rights_error(settings, f"to {kind} {named}")
