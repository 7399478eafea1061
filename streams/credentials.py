"""The Kafka credentials of the settings, as Faust hands them to its consumer."""

from typing import Any

import faust

from config.security import tls_context
from config.services import KafkaSettings


def broker_credentials(settings: KafkaSettings) -> Any:
    """Return what `faust.App(broker_credentials=...)` takes; None for a broker without TLS and login."""
    context = tls_context(settings) if settings.is_encrypted else None
    if settings.uses_sasl:
        return faust.SASLCredentials(
            username=settings.username,
            password=settings.password.get_secret_value(),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)
