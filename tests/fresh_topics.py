"""Topics that hold nothing: every test and every scenario begins with a log of its own."""

from config.settings import Settings
from tests.waiting import wait_until


def recreate_topics(settings: Settings) -> tuple[str, ...]:
    """Delete the event topics and the topic of dead letters, and create them anew: a new log epoch."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    from schemas.event import DEAD_LETTERS_TOPIC, EVENT_TOPICS
    from schemas.topics import ensure_topics

    names = (*EVENT_TOPICS, DEAD_LETTERS_TOPIC)
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for deletion in admin.delete_topics(list(names), operation_timeout=30).values():
        try:
            deletion.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    wait_until(
        lambda: not set(names) & set(admin.list_topics(timeout=30).topics), 60, "the topics of the last test stay"
    )
    ensure_topics(settings)
    return names
