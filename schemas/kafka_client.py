"""What our librdkafka clients share: connection settings, quiet logs, and errors in words."""

import logging
from typing import Any, Final

from config.services import KafkaSettings
from schemas.errors import BrokerUnavailableError

LOGGER_NAME: Final = "shopstream.kafka"
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024


def client_settings(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of any client: its log prints nothing unless the program asks for it."""
    logger = logging.getLogger(LOGGER_NAME)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "shopstream",
        "socket.timeout.ms": round(settings.timeout_s * 1000),
        "logger": logger,
    }


def broker_unavailable(settings: KafkaSettings, why: str) -> BrokerUnavailableError:
    """Return the error for a broker that did not answer in time."""
    return BrokerUnavailableError(
        f"Kafka at {settings.bootstrap_servers} does not answer ({why}).",
        hint="Check kafka.bootstrap_servers, or start the embedded one with `shopstream stack up`.",
    )
