"""Tells a webhook what gates decide, and what people decide about them: through the outbox, so that none is lost."""

import hashlib
import logging
from typing import Final, Self

from config.settings import Settings
from sinks.delivering import outbox_of
from sinks.errors import OutboxError
from sinks.outbox import Delivery, Outbox
from sinks.outbox_sender import OutboxSender
from sinks.webhooks import webhook_payload
from streams.gating import GateNews

logger = logging.getLogger(__name__)

WEBHOOK: Final = "webhook"


class GateAlerts:
    """A teller of `streams.gating.WorkerGates`: each decision is one message of type `gate.<step>`.

    Args:
        outbox: keeps a message until it is taken.
        sender: flushes it, in a thread that begins with the first message.
    """

    def __init__(self, outbox: Outbox, sender: OutboxSender) -> None:
        self._outbox = outbox
        self._sender = sender

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """Return the alerts of a worker; None where no webhook is set."""
        if not settings.alerts.webhook_url:
            return None
        outbox = outbox_of(settings)
        return cls(outbox, OutboxSender(outbox))

    def start(self) -> None:
        """Deliver what an earlier worker has left; returns at once."""
        try:
            if self._outbox.waiting():
                self._sender.wake()
        except OutboxError as error:  # no reason to stop reading: the next message tries again
            logger.error("%s", error)  # noqa: TRY400 - the sentence is enough

    def __call__(self, news: GateNews) -> None:
        """Keep a message and have it delivered; it is on the disk when this returns. Again is harmless.

        Raises:
            OutboxError: it could not be written.
        """
        self._outbox.put(_delivery(news))
        self._sender.wake()

    def close(self) -> None:
        """Stop delivering; what waits stays on the disk."""
        self._sender.close()


def alert_once(settings: Settings, news: GateNews) -> None:
    """Keep a message where a webhook is set, and try once to deliver it; else it waits for a worker. Blocking.

    Raises:
        OutboxError: it could not be written.
    """
    if settings.alerts.webhook_url:
        outbox = outbox_of(settings, attempts=1, kinds=(WEBHOOK,))
        outbox.put(_delivery(news))
        outbox.flush()


def _delivery(news: GateNews) -> Delivery:
    decision = f"{news.topic}|{news.gate}|{news.step}|{news.at_ms}"
    digest = hashlib.blake2b(decision.encode(), digest_size=6).hexdigest()
    data = {
        "topic": news.topic,
        "gate": news.gate,
        "detail": news.detail,
        "evidence": dict(news.evidence),
        "at_ms": news.at_ms,
    }
    payload = webhook_payload(f"gate.{news.step}", news.at_ms, data)
    return Delivery(f"gate-{news.step}-{news.at_ms}-{digest}", WEBHOOK, payload, news.at_ms)
