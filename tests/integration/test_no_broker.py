"""Kafka that does not answer: one sentence, nothing on stderr."""

import socket
from collections.abc import Callable

import pytest

from config.errors import SettingsError
from config.services import KafkaSettings
from config.settings import Settings
from schemas.errors import BrokerUnavailableError, TopicError
from schemas.event import CLICKS_TOPIC, DEAD_LETTERS_TOPIC
from schemas.topics import TopicInfo, describe_topics, ensure_topics, verify_topics


@pytest.fixture
def nobody() -> KafkaSettings:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", timeout_s=0.3)


@pytest.mark.parametrize("call", [ensure_topics, describe_topics])
def test_no_broker(
    call: Callable[[Settings], object], nobody: KafkaSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BrokerUnavailableError, match=r"Kafka at 127\.0\.0\.1:\d+ does not answer") as raised:
        call(Settings(kafka=nobody))
    assert "stack up" in raised.value.hint
    assert capfd.readouterr() == ("", "")


def test_no_address() -> None:
    with pytest.raises(SettingsError, match="No address is set for kafka"):
        ensure_topics(Settings(kafka=KafkaSettings(bootstrap_servers="")))


def test_a_topic_with_the_producers_timestamps_is_refused_with_the_cure() -> None:
    with pytest.raises(TopicError, match=r"shop\.clicks\.v1 keeps the producer's timestamps") as raised:
        verify_topics({CLICKS_TOPIC: TopicInfo(CLICKS_TOPIC, "id", 4, "CreateTime")})
    assert "--add-config message.timestamp.type=LogAppendTime" in raised.value.hint


def test_the_dead_letter_topic_may_have_any_timestamps() -> None:
    verify_topics({DEAD_LETTERS_TOPIC: TopicInfo(DEAD_LETTERS_TOPIC, "id", 1, "CreateTime")})


def test_a_log_epoch_is_the_topics_id_and_partitions() -> None:
    assert TopicInfo(CLICKS_TOPIC, "aB-_", 4, "LogAppendTime").log_epoch == "aB-_:4"
