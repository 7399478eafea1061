"""Dead letters on a real broker, read back by a plain consumer."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.services import KafkaSettings
from config.settings import Settings
from schemas.encoder import PublishedLetter, read_letter
from schemas.errors import UnknownSubjectError
from schemas.event import CARTS_TOPIC, DEAD_LETTERS_TOPIC
from schemas.registry import RegistryClient, register_own_schemas
from schemas.topics import ALL_TOPICS
from sinks.dead_letters import DeadLetterTopic
from sinks.errors import LetterNotPublishedError
from tests.rows import letter

pytestmark = pytest.mark.stack


@pytest.fixture
def registered(settings: Settings, topics: tuple[str, ...]) -> Settings:
    client = RegistryClient(settings.registry)
    register_own_schemas(client, ALL_TOPICS)
    client.close()
    return settings


@pytest.fixture
def sink(registered: Settings) -> Iterator[DeadLetterTopic]:
    topic = DeadLetterTopic(registered)
    yield topic
    topic.close()


def stored(settings: Settings) -> list[tuple[bytes, PublishedLetter]]:
    """Read the whole topic, up to where it ends now."""
    from confluent_kafka import Consumer, TopicPartition

    consumer: Any = Consumer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "test", "enable.auto.commit": False}
    )
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(DEAD_LETTERS_TOPIC, 0), timeout=10)
        consumer.assign([TopicPartition(DEAD_LETTERS_TOPIC, 0, 0)])
        messages: list[Any] = []
        while len(messages) < end:
            messages += consumer.consume(end - len(messages), timeout=10)
        return [(message.key(), read_letter(message.value())) for message in messages]
    finally:
        consumer.close()


def test_letters_are_stored_when_the_call_returns(registered: Settings, sink: DeadLetterTopic) -> None:
    letters = [letter(offset, partition=3, topic=CARTS_TOPIC, value=b"v%d" % offset) for offset in range(1_200)]
    sink.write(letters)
    found = stored(registered)
    assert [published.letter for _, published in found] == letters
    assert found[7][0] == b"shop.carts.v1/3/7"


def test_a_large_value_is_cut_and_its_size_and_digest_are_kept(registered: Settings, sink: DeadLetterTopic) -> None:
    value = bytes(range(256)) * 8_192
    sink.write([letter(1, value=value), letter(2, value=None)])
    (_, large), (_, without) = stored(registered)
    assert large.letter.value == value[:65_536]
    assert (large.value_size_bytes, large.value_sha256) == (2_097_152, hashlib.sha256(value).hexdigest())
    assert (without.letter.value, without.value_size_bytes, without.value_sha256) == (None, None, None)


def test_a_letter_that_is_published_again_has_the_same_key(registered: Settings, sink: DeadLetterTopic) -> None:
    sink.write([letter(5)])
    sink.write([letter(5)])
    (first, _), (second, _) = stored(registered)
    assert first == second == b"shop.clicks.v1/0/5"


def test_no_letters_are_no_message(registered: Settings, sink: DeadLetterTopic) -> None:
    sink.write([])
    assert stored(registered) == []


def test_a_broker_that_does_not_answer_is_told_and_the_next_call_begins_afresh(
    registered: Settings, sink: DeadLetterTopic
) -> None:
    from stack.ports import free_port

    nowhere = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port(set())}", timeout_s=0.5)
    lost = DeadLetterTopic(registered.model_copy(update={"kafka": nowhere}))
    for _ in range(2):
        with pytest.raises(LetterNotPublishedError) as failure:
            lost.write([letter(1), letter(2)])
        assert "2 of 2 dead letters were not stored" in failure.value.message
        assert nowhere.bootstrap_servers in failure.value.message
    assert stored(registered) == []
    sink.write([letter(1)])
    assert len(stored(registered)) == 1


def test_a_letter_too_large_for_the_topic_is_told(registered: Settings) -> None:
    limits = registered.events.model_copy(update={"letter_value_bytes_max": 50_000_000})
    topic = DeadLetterTopic(registered.model_copy(update={"events": limits}))
    with pytest.raises(LetterNotPublishedError, match="could not be sent"):
        topic.write([letter(1, value=b"x" * 9_000_000)])


def test_the_schema_must_be_registered(settings: Settings, tmp_path: Path) -> None:
    empty = settings.registry.model_copy(update={"url": settings.registry.url.replace("/v7", "/v7/groups/none")})
    with pytest.raises(UnknownSubjectError):
        DeadLetterTopic(settings.model_copy(update={"registry": empty}))
