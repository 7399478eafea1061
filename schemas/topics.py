"""The topics: created with the broker's own timestamps, and checked, since results depend on it."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import tenacity

from config.services import KafkaSettings
from config.settings import Settings
from schemas.errors import TopicError, TopicMissingError, TopicNotSeenError
from schemas.event import DEAD_LETTERS_TOPIC, EVENT_TOPICS
from schemas.kafka_client import (
    MESSAGE_BYTES_MAX,
    Refusals,
    access_error,
    client_settings,
    cluster_metadata,
    rights_error,
)

logger = logging.getLogger(__name__)

ALL_TOPICS: Final = (*EVENT_TOPICS, DEAD_LETTERS_TOPIC)
TIMESTAMP_TYPE: Final = "LogAppendTime"
OTHER_PARTITIONS: Final = 1  # of topics that are no events: few messages, and in one order


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic as the broker has it.

    Attributes:
        topic_id: the broker's id of this very topic; a topic that is deleted and created again has another.
        timestamp_type: `LogAppendTime` or `CreateTime`.
        operations: what we may do with it, in the names of Kafka's ACLs; None if the broker does not tell.
    """

    topic: str
    topic_id: str
    partition_count: int
    timestamp_type: str
    operations: frozenset[str] | None = None

    @property
    def log_epoch(self) -> str:
        """What an offset is relative to: offsets of different epochs are never compared."""
        return f"{self.topic_id}:{self.partition_count}"


def ensure_topics(settings: Settings, topics: Sequence[str] = ALL_TOPICS) -> dict[str, TopicInfo]:
    """Create the topics that are missing and check the others; idempotent, and safe to run in two processes at once.

    Args:
        topics: those that every deployment has, or others of ours.

    Raises:
        BrokerUnavailableError: no answer within `kafka.timeout_s`.
        BrokerAccessError: the broker does not let us in, or not do this.
        TopicError: a topic could not be created, or one that exists keeps the producer's timestamps.
    """
    admin = _Admin.connect(settings)
    # a broker learns of what was created or deleted a moment ago a little later than the controller
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TopicNotSeenError),
        stop=tenacity.stop_after_delay(settings.kafka.timeout_s),
        wait=tenacity.wait_exponential(multiplier=0.02, max=0.5),
        reraise=True,
    ):
        with attempt:
            missing = _missing(admin, topics)
            if missing:
                _create(admin, missing)
            found = _describe(admin, topics)
    verify_topics(found)
    return found


def describe_topics(settings: Settings) -> dict[str, TopicInfo]:
    """Return the event topics and the dead letter topic as they are.

    Raises:
        BrokerUnavailableError: no answer within `kafka.timeout_s`.
        BrokerAccessError: the broker does not let us in, or not do this.
        TopicError: one of them does not exist.
    """
    admin = _Admin.connect(settings)
    missing = _missing(admin, ALL_TOPICS)
    if missing:
        with contextlib.suppress(TopicNotSeenError):
            _describe(admin, missing)  # one that is only hidden from us is told as such
        raise TopicMissingError(
            f"Kafka at {settings.kafka.bootstrap_servers} has no topic {' and no topic '.join(missing)}.",
            hint="Run `shopstream schema register`, which creates them.",
        )
    return _describe(admin, ALL_TOPICS)


def check_rights(settings: Settings, topics: Mapping[str, TopicInfo], wanted: Mapping[str, str]) -> None:
    """Check that we may do with the topics what we are about to do.

    Args:
        wanted: `READ` or `WRITE` by topic.

    Raises:
        BrokerAccessError: one may not be done; a broker that does not tell is believed to allow it.
    """
    for topic, operation in wanted.items():
        allowed = topics[topic].operations
        if allowed is not None and not allowed & {operation, "ALL"}:
            raise rights_error(settings.kafka, f"to {operation.lower()} topic {topic}")


def check_group_rights(settings: Settings) -> None:
    """Check that we may be a member of the worker's consumer group.

    Raises:
        BrokerAccessError: we may not.
    """
    from confluent_kafka import KafkaException

    admin, group = _Admin.connect(settings), settings.worker.group_id
    doing = f"to be in the consumer group {group}"
    try:
        asked = admin.client.describe_consumer_groups(
            [group], include_authorized_operations=True, request_timeout=settings.kafka.timeout_s
        )
        allowed = asked[group].result().authorized_operations
    except KafkaException as error:
        refusal = access_error(error.args[0], settings.kafka, doing)
        if refusal is not None:
            raise refusal from error
        logger.info("the rights to group %s are not known yet: %s", group, _reason(error))  # it is being loaded
        return
    if allowed and not {"READ", "ALL"} & {operation.name for operation in allowed}:
        raise rights_error(settings.kafka, doing)


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


class _Admin(NamedTuple):
    """An open connection for questions about topics, with whom to ask why it does not work."""

    client: Any
    settings: KafkaSettings
    refusals: Refusals

    @classmethod
    def connect(cls, settings: Settings) -> "_Admin":
        from confluent_kafka.admin import AdminClient

        kafka = settings.require("kafka").kafka
        refusals = Refusals(kafka)
        return cls(AdminClient(client_settings(kafka, refusals)), kafka, refusals)


def _missing(admin: _Admin, topics: Sequence[str]) -> list[str]:
    """Return which of the topics do not exist, or are hidden from us; the first request, so it tells what is wrong."""
    existing = cluster_metadata(admin.client, admin.settings, admin.refusals).topics
    return [topic for topic in topics if topic not in existing]


def _create(admin: _Admin, topics: Sequence[str]) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    settings = admin.settings
    wanted = [
        NewTopic(
            topic,
            num_partitions=settings.partitions if topic in EVENT_TOPICS else OTHER_PARTITIONS,
            replication_factor=settings.replication_factor,
            config={"message.timestamp.type": TIMESTAMP_TYPE, "max.message.bytes": str(MESSAGE_BYTES_MAX)},
        )
        for topic in topics
    ]
    timeout_s = settings.timeout_s
    created = admin.client.create_topics(wanted, operation_timeout=timeout_s, request_timeout=timeout_s)
    for topic, future in created.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another process was faster
            refusal = access_error(error.args[0], settings, f"to create topic {topic}, or to see it")
            raise refusal or TopicError(
                f"Kafka did not create topic {topic} ({_reason(error)}).",
                hint="Check kafka.partitions and kafka.replication_factor.",
            ) from error


def _describe(admin: _Admin, topics: Sequence[str]) -> dict[str, TopicInfo]:
    from confluent_kafka import KafkaError, KafkaException, TopicCollection
    from confluent_kafka.admin import ConfigResource, ResourceType

    timeout_s = admin.settings.timeout_s
    described = admin.client.describe_topics(
        TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=timeout_s
    )
    resources = {topic: ConfigResource(ResourceType.TOPIC, topic) for topic in topics}
    configured = admin.client.describe_configs(list(resources.values()), request_timeout=timeout_s)
    found = {}
    for topic in topics:
        try:
            description = described[topic].result()
            config = configured[resources[topic]].result()
        except KafkaException as error:
            refusal = access_error(error.args[0], admin.settings, f"to describe topic {topic} and its configuration")
            is_unknown = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            raise refusal or (TopicNotSeenError if is_unknown else TopicError)(
                f"Kafka did not describe topic {topic} ({_reason(error)}).", hint="Try again."
            ) from error
        found[topic] = TopicInfo(
            topic=topic,
            # as Kafka's own tools print it: the client's standard base64 has a slash, which no file name can hold
            topic_id=str(description.topic_id).replace("+", "-").replace("/", "_"),
            partition_count=len(description.partitions),
            timestamp_type=config["message.timestamp.type"].value,
            operations=frozenset(operation.name for operation in description.authorized_operations or ()) or None,
        )
    return found


def _reason(error: Exception) -> str:
    return str(error.args[0].str()) if error.args and hasattr(error.args[0], "str") else str(error)
