"""What Faust is given to log in with, and what it must not log."""

import logging
from pathlib import Path

import faust
import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError, TopicAuthorizationFailedError
from aiokafka.protocol.admin import SaslAuthenticateRequest

from config.services import KafkaSettings
from streams.credentials import CONNECTION_LOGGER, broker_credentials, refusal
from tests.secured import CANARY, Certificates

LOGIN = {"sasl_mechanism": "SCRAM-SHA-256", "username": "u", "password": CANARY}


def test_a_broker_without_security_needs_none() -> None:
    assert broker_credentials(KafkaSettings()) is None


def test_login_and_certificates_go_to_the_consumer(tmp_path: Path) -> None:
    ca = Certificates.make(tmp_path).ca
    login = broker_credentials(KafkaSettings.model_validate({**LOGIN, "security_protocol": "SASL_SSL", "ca_file": ca}))
    assert isinstance(login, faust.SASLCredentials)
    assert (login.protocol.value, login.mechanism.value) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (login.username, login.password) == ("u", CANARY)
    assert login.ssl_context is not None
    assert login.ssl_context.check_hostname
    assert CANARY not in repr(login)
    plain = broker_credentials(KafkaSettings.model_validate({**LOGIN, "security_protocol": "SASL_PLAINTEXT"}))
    assert plain.ssl_context is None
    encrypted = broker_credentials(KafkaSettings(security_protocol="SSL", ca_file=ca))
    assert isinstance(encrypted, faust.SSLCredentials)


def test_the_login_itself_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    broker_credentials(KafkaSettings.model_validate({**LOGIN, "security_protocol": "SASL_PLAINTEXT"}))
    logger = logging.getLogger(CONNECTION_LOGGER)
    with caplog.at_level(logging.DEBUG, logger=CONNECTION_LOGGER):
        logger.debug("Request to %s:%d %d: %s", "h", 1, 2, SaslAuthenticateRequest(f"\0u\0{CANARY}".encode()))
        logger.debug("Request to %s:%d %d: %s", "h", 1, 2, "Heartbeat")
    assert CANARY not in caplog.text
    assert "Heartbeat" in caplog.text


def test_a_right_that_was_taken_away_is_told_in_our_words() -> None:
    settings = KafkaSettings(bootstrap_servers="broker:9092")
    told = refusal(TopicAuthorizationFailedError("shop.clicks.v1"), settings)
    assert str(told).startswith("Kafka at broker:9092 does not allow anonymous users to read topic shop.clicks.v1.")
    assert "use the consumer group g" in str(refusal(GroupAuthorizationFailedError("g"), settings))
    assert refusal(KafkaConnectionError("gone"), settings) is None
