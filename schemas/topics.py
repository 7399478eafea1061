"""The topics: created with the broker's own timestamps, and checked, since results depend on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tenacity

from config.settings import Settings
from schemas.errors import TopicError, TopicNotSeenError
from schemas.event import DEAD_LETTERS_TOPIC, EVENT_TOPICS
from schemas.kafka_client import MESSAGE_BYTES_MAX, broker_unavailable, client_settings

ALL_TOPICS: Final = (*EVENT_TOPICS, DEAD_LETTERS_TOPIC)
TIMESTAMP_TYPE: Final = "LogAppendTime"
DEAD_LETTER_PARTITIONS: Final = 1


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic as the broker has it.

    Attributes:
        topic_id: the broker's id of this very topic; a topic that is deleted and created again has another.
        timestamp_type: `LogAppendTime` or `CreateTime`.
    """

    topic: str
    topic_id: str
    partition_count: int
    timestamp_type: str

    @property
    def log_epoch(self) -> str:
        """What an offset is relative to: offsets of different epochs are never compared."""
        return f"{self.topic_id}:{self.partition_count}"


def ensure_topics(settings: Settings) -> dict[str, TopicInfo]:
    """Create the topics that are missing and check the others; idempotent, and safe to run in two processes at once.

    Raises:
        BrokerUnavailableError: no answer within `kafka.timeout_s`.
        TopicError: a topic could not be created, or one that exists keeps the producer's timestamps.
    """
    admin = _admin(settings)
    # a broker learns of what was created or deleted a moment ago a little later than the controller
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TopicNotSeenError),
        stop=tenacity.stop_after_delay(settings.kafka.timeout_s),
        wait=tenacity.wait_exponential(multiplier=0.02, max=0.5),
        reraise=True,
    ):
        with attempt:
            existing = _existing(admin, settings)
            missing = [topic for topic in ALL_TOPICS if topic not in existing]
            if missing:
                _create(admin, settings, missing)
            found = _describe(admin, settings, ALL_TOPICS)
    verify_topics(found)
    return found


def describe_topics(settings: Settings) -> dict[str, TopicInfo]:
    """Return the event topics and the dead letter topic as they are.

    Raises:
        BrokerUnavailableError: no answer within `kafka.timeout_s`.
        TopicError: one of them does not exist.
    """
    admin = _admin(settings)
    missing = [topic for topic in ALL_TOPICS if topic not in _existing(admin, settings)]
    if missing:
        raise TopicError(
            f"Kafka at {settings.kafka.bootstrap_servers} has no topic {' and no topic '.join(missing)}.",
            hint="Run `shopstream schema register`, which creates them.",
        )
    return _describe(admin, settings, ALL_TOPICS)


def verify_topics(topics: Mapping[str, TopicInfo]) -> None:
    """Refuse event topics whose timestamps are the producer's.

    Raises:
        TopicError: one is; the hint is the command that mends it.
    """
    for info in topics.values():
        if info.topic in EVENT_TOPICS and info.timestamp_type != TIMESTAMP_TYPE:
            raise TopicError(
                f"Topic {info.topic} keeps the producer's timestamps (message.timestamp.type={info.timestamp_type}); "
                f"lateness and replay need the broker's ({TIMESTAMP_TYPE}).",
                hint="Run `kafka-configs.sh --bootstrap-server HOST:PORT --alter --entity-type topics --entity-name "
                f"{info.topic} --add-config message.timestamp.type={TIMESTAMP_TYPE}`; records already there keep their "
                "timestamps, so begin with a new topic if they matter.",
            )


def _admin(settings: Settings) -> Any:
    from confluent_kafka.admin import AdminClient

    return AdminClient(client_settings(settings.require("kafka").kafka))


def _existing(admin: Any, settings: Settings) -> frozenset[str]:
    """Return the names of all topics; the one request whose failure means that there is no broker."""
    from confluent_kafka import KafkaException

    try:
        return frozenset(admin.list_topics(timeout=settings.kafka.timeout_s).topics)
    except KafkaException as error:
        raise broker_unavailable(settings.kafka, _reason(error)) from error


def _create(admin: Any, settings: Settings, topics: Sequence[str]) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    wanted = [
        NewTopic(
            topic,
            num_partitions=settings.kafka.partitions if topic in EVENT_TOPICS else DEAD_LETTER_PARTITIONS,
            replication_factor=settings.kafka.replication_factor,
            config={"message.timestamp.type": TIMESTAMP_TYPE, "max.message.bytes": str(MESSAGE_BYTES_MAX)},
        )
        for topic in topics
    ]
    timeout_s = settings.kafka.timeout_s
    for topic, future in admin.create_topics(wanted, operation_timeout=timeout_s, request_timeout=timeout_s).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another process was faster
            raise TopicError(
                f"Kafka did not create topic {topic} ({_reason(error)}).",
                hint="Check kafka.partitions and kafka.replication_factor, and the right to create topics.",
            ) from error


def _describe(admin: Any, settings: Settings, topics: Sequence[str]) -> dict[str, TopicInfo]:
    from confluent_kafka import KafkaError, KafkaException, TopicCollection
    from confluent_kafka.admin import ConfigResource, ResourceType

    timeout_s = settings.kafka.timeout_s
    described = admin.describe_topics(TopicCollection(list(topics)), request_timeout=timeout_s)
    resources = {topic: ConfigResource(ResourceType.TOPIC, topic) for topic in topics}
    configured = admin.describe_configs(list(resources.values()), request_timeout=timeout_s)
    found = {}
    for topic in topics:
        try:
            description = described[topic].result()
            config = configured[resources[topic]].result()
        except KafkaException as error:
            is_unknown = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            raise (TopicNotSeenError if is_unknown else TopicError)(
                f"Kafka did not describe topic {topic} ({_reason(error)}).",
                hint="Try again; if it stays so, check the right to describe topics.",
            ) from error
        found[topic] = TopicInfo(
            topic=topic,
            # as Kafka's own tools print it: the client's standard base64 has a slash, which no file name can hold
            topic_id=str(description.topic_id).replace("+", "-").replace("/", "_"),
            partition_count=len(description.partitions),
            timestamp_type=config["message.timestamp.type"].value,
        )
    return found


def _reason(error: Exception) -> str:
    return str(error.args[0].str()) if error.args and hasattr(error.args[0], "str") else str(error)
