"""Until when Kafka itself keeps what was erased everywhere else."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from config.settings import Settings
from schemas.errors import BrokerUnavailableError
from schemas.kafka_client import access_error, client_settings

CHECK_INTERVAL_MS: Final = 300_000  # log.retention.check.interval.ms of a broker, as it comes

_NAMES: Final = ("retention.ms", "segment.ms", "cleanup.policy")


class LastCopy(NamedTuple):
    """What one topic keeps.

    Attributes:
        retention_ms: age at which a closed segment is deleted; None for never.
        gone_by_ms: when the last of it is deleted at the latest, integer milliseconds UTC; None for never.
    """

    topic: str
    retention_ms: int | None
    gone_by_ms: int | None


def last_copies(settings: Settings, topics: Sequence[str], now_ms: int) -> list[LastCopy]:
    """Ask Kafka until when the topics keep what was written until now.

    A record goes with its segment: that is closed `segment.ms` after its first record at the latest, and deleted
    `retention.ms` after its last.

    Raises:
        BrokerUnavailableError: Kafka does not answer, or does not tell.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

    admin = AdminClient(client_settings(settings.kafka))
    resources = {topic: ConfigResource(ResourceType.TOPIC, topic) for topic in topics}
    timeout_s = settings.kafka.timeout_s
    copies = []
    try:
        answers = admin.describe_configs(list(resources.values()), request_timeout=timeout_s)
        for topic, resource in resources.items():
            found = answers[resource].result(timeout_s)
            copies.append(_copy(topic, {name: found[name].value for name in _NAMES}, now_ms))
    except (KafkaException, TimeoutError) as error:
        answer = error.args[0] if isinstance(error, KafkaException) else None
        refusal = answer and access_error(answer, settings.kafka, "to see the configuration of the topics")
        raise refusal or BrokerUnavailableError(
            f"Kafka at {settings.kafka.bootstrap_servers} did not tell how long its topics keep records ({error}).",
            hint="Check it with `shopstream doctor`.",
        ) from error
    return copies


def _copy(topic: str, config: dict[str, Any], now_ms: int) -> LastCopy:
    retention_ms = int(config["retention.ms"])
    if retention_ms < 0 or "delete" not in config["cleanup.policy"]:
        return LastCopy(topic, None, None)
    return LastCopy(topic, retention_ms, now_ms + retention_ms + int(config["segment.ms"]) + CHECK_INTERVAL_MS)
