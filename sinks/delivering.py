"""The outbox of a deployment, with whoever takes what lies in it."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from config.settings import Settings
from sinks.airflow import AirflowSender
from sinks.outbox import Outbox, Send
from sinks.retrain_topic import RetrainTopic
from sinks.webhooks import WebhookSender

FOLDER: Final = "outbox"


def outbox_of(settings: Settings, *, attempts: int | None = None, kinds: Collection[str] | None = None) -> Outbox:
    """Return the outbox under `home`; nothing is created or connected to before there is a delivery.

    What waits for a receiver that is not set any more waits until it is.

    Args:
        attempts: tries in a row of one delivery; `alerts.attempts` if None.
        kinds: to be delivered; all if None.
    """
    senders: dict[str, Send] = {"kafka": RetrainTopic(settings)}
    if settings.alerts.webhook_url:
        senders["webhook"] = WebhookSender(settings.alerts)
    if settings.airflow.url:
        senders["airflow"] = AirflowSender(settings.airflow, timeout_s=settings.alerts.timeout_s)
    if kinds is not None:
        senders = {kind: send for kind, send in senders.items() if kind in kinds}
    folder = Path(settings.home).absolute() / FOLDER
    return Outbox(folder, senders, attempts=settings.alerts.attempts if attempts is None else attempts)
