"""What our librdkafka clients share: connection settings, quiet logs, and errors in words."""

import logging
import re
import time
from collections.abc import Mapping
from typing import Any, Final

from config.security import UNSET
from config.services import KafkaSettings
from schemas.errors import BrokerAccessError, BrokerUnavailableError

LOGGER_NAME: Final = "shopstream.kafka"
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024

_FIRST_TRY_S: Final = 0.5
_ADDRESS = re.compile(r"^\S+: (?=\S)")
_DURATION = re.compile(r" \(after \d+ms in state \w+\)")
_TLS_REASON = re.compile(r"(?:SSL routines::|SSL_HANDSHAKE: )([^:(]+)")


class Refusals:
    """Hears what librdkafka reports in the background, and keeps the first report that no patience can mend.

    Give it to `client_settings`, and ask it when something takes long: librdkafka itself would try for ever.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._heard: BrokerAccessError | None = None

    def __call__(self, error: Any) -> None:
        """Take a report: librdkafka's `error_cb`."""
        self._heard = self._heard or access_error(error, self._settings)

    def check(self) -> None:
        """Raise what was heard.

        Raises:
            BrokerAccessError: the broker refuses us, or we its certificate.
        """
        if self._heard is not None:
            raise self._heard


def client_settings(settings: KafkaSettings, refusals: Refusals | None = None) -> dict[str, Any]:
    """Return the settings of any client: its log prints nothing unless the program asks for it."""
    logger = logging.getLogger(LOGGER_NAME)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "shopstream",
        "socket.timeout.ms": round(settings.timeout_s * 1000),
        "logger": logger,
        **({} if refusals is None else {"error_cb": refusals}),
        **_security(settings),
    }


def cluster_metadata(client: Any, settings: KafkaSettings, refusals: Refusals) -> Any:
    """Ask for the cluster's metadata: the first request of a client, whose failure tells what is wrong.

    Raises:
        BrokerAccessError: the broker refuses us, or we its certificate; told as soon as it is known.
        BrokerUnavailableError: no answer within `kafka.timeout_s`.
    """
    from confluent_kafka import KafkaException

    deadline_s = time.monotonic() + settings.timeout_s
    try_s = _FIRST_TRY_S
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            return client.list_topics(timeout=max(0.01, min(try_s, left_s)))
        except KafkaException as error:
            client.poll(0)  # this is when `refusals` hears
            refusals.check()
            if left_s <= try_s:
                raise broker_unavailable(settings, error.args[0].str()) from error
            try_s *= 2


def broker_unavailable(settings: KafkaSettings, why: str) -> BrokerUnavailableError:
    """Return the error for a broker that did not answer in time."""
    return BrokerUnavailableError(
        f"Kafka at {settings.bootstrap_servers} does not answer ({why}).",
        hint="Check kafka.bootstrap_servers and kafka.security_protocol, or start the embedded one with "
        "`shopstream stack up`.",
    )


def access_error(error: Any, settings: KafkaSettings, doing: str = "") -> BrokerAccessError | None:
    """Return the error for a refusal, from librdkafka's; None if it is of another kind.

    Args:
        doing: what was refused, for example `to read topic shop.clicks.v1`.
    """
    from confluent_kafka import KafkaError

    where, who = f"Kafka at {settings.bootstrap_servers}", _who(settings)
    said = _DURATION.sub("", _ADDRESS.sub("", error.str())).rstrip(". ")
    if error.code() in {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}:  # noqa: SLF001 - librdkafka's names
        return BrokerAccessError(
            f"{where} refused the login of {who}: {said}.",
            hint="Check kafka.username, kafka.password and kafka.sasl_mechanism.",
        )
    reason = _TLS_REASON.search(said)
    if error.code() == KafkaError._SSL or (reason and "alert" in said):  # noqa: SLF001
        return _tls_error(where, reason[1].strip() if reason else said)
    if error.code() in {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }:
        return rights_error(settings, doing or f"what was asked ({said})")
    return None


def rights_error(settings: KafkaSettings, what: str) -> BrokerAccessError:
    """Return the error for a right that is missing.

    Args:
        what: for example `to read topic shop.clicks.v1`.
    """
    return BrokerAccessError(
        f"Kafka at {settings.bootstrap_servers} does not allow {_who(settings)} {what}.",
        hint="Add the ACL: docs/how-to/secure-connections.md lists the least rights. Or check kafka.username.",
    )


def _tls_error(where: str, reason: str) -> BrokerAccessError:
    if "alert" in reason:
        return BrokerAccessError(
            f"{where} refused us in the TLS handshake: {reason}.",
            hint="Check kafka.certificate_file and kafka.key_file.",
        )
    return BrokerAccessError(
        f"{where} could not be connected to by TLS: {reason}.",
        hint="Check kafka.ca_file (the authority that signed its certificate), the host names in "
        "kafka.bootstrap_servers, and kafka.security_protocol.",
    )


def _who(settings: KafkaSettings) -> str:
    if settings.username:
        return f"user {settings.username}"
    return "our certificate" if settings.certificate_file != UNSET else "anonymous users"


def _security(settings: KafkaSettings) -> Mapping[str, str]:
    wanted: dict[str, str] = {"security.protocol": settings.security_protocol}
    if settings.uses_sasl:
        wanted |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.username,
            "sasl.password": settings.password.get_secret_value(),
        }
    files = {
        "ssl.ca.location": settings.ca_file,
        "ssl.certificate.location": settings.certificate_file,
        "ssl.key.location": settings.key_file,
    }
    wanted |= {name: str(path) for name, path in files.items() if path != UNSET}
    if settings.key_password.get_secret_value():
        wanted["ssl.key.password"] = settings.key_password.get_secret_value()
    return wanted
