"""The schema registry, through its Confluent-compatible API."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from config.security import UNSET, tls_refusal
from config.services import RegistrySettings
from schemas.encoder import subject_of
from schemas.errors import (
    IncompatibleSchemaError,
    RegistryAccessError,
    RegistryRefusedError,
    RegistryUnavailableError,
    UnknownSchemaIdError,
    UnknownSubjectError,
)
from schemas.loading import own_schema

COMPATIBILITY: Final = "BACKWARD_TRANSITIVE"
SCHEMA_ID_MAX: Final = 2**31 - 1  # ids are signed in the API; a frame has room for twice as many

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_OVERLOADED: Final = frozenset({408, 429})
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_SERVER_ERROR: Final = 500

T = TypeVar("T")


class RegisteredVersion(NamedTuple):
    """One version of a subject."""

    subject: str
    version: int
    schema_id: int
    schema: str


class RegistryClient:
    """A client of one schema registry; safe to share between threads. It never retries: its caller decides how long.

    Raises (every method):
        RegistryUnavailableError: no answer within `timeout_s`, or the registry itself failed.
        RegistryAccessError: it refuses our login or certificate, or we its certificate.
        RegistryRefusedError: it answered no; the subclass tells why.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        self._address, self._user, password = settings.address  # a URL with a password would be logged by the client
        self._client: Any = SchemaRegistryClient(
            {
                "url": self._address,
                "timeout": settings.timeout_s,
                "max.retries": 0,
                "cache.latest.ttl.sec": 0,  # a cached `latest` would hide a version that somebody else registered
                **({"basic.auth.user.info": f"{self._user}:{password}"} if self._user or password else {}),
                **_certificates(settings),
            }
        )

    def fetch(self, schema_id: int) -> str:
        """Return the text of the schema with this id.

        Raises:
            UnknownSchemaIdError: there is none.
        """
        if schema_id > SCHEMA_ID_MAX:
            raise UnknownSchemaIdError(schema_id)
        try:
            schema: str | None = self._call(lambda: self._client.get_schema(schema_id)).schema_str
        except RegistryRefusedError as error:
            raise UnknownSchemaIdError(schema_id) from error
        return schema or ""

    def register(self, subject: str, schema: str) -> int:
        """Register a schema, or find that it is registered, and return its id. Idempotent.

        Raises:
            IncompatibleSchemaError: it cannot read what the registered versions wrote.
        """
        return int(self._call(lambda: self._client.register_schema(subject, _avro(schema))))

    def lookup(self, subject: str, schema: str) -> int:
        """Return the id of this very schema under the subject.

        Raises:
            UnknownSubjectError: it is not registered.
        """
        try:
            return int(self._call(lambda: self._client.lookup_schema(subject, _avro(schema))).schema_id)
        except UnknownSubjectError as error:
            raise UnknownSubjectError(
                f"The schema of this release is not registered under {subject} at {self._address}.",
                hint="Run `shopstream schema register` first.",
            ) from error

    def latest(self, subject: str) -> RegisteredVersion:
        """Return the newest version of a subject.

        Raises:
            UnknownSubjectError: it has none.
        """
        return _version(self._call(lambda: self._client.get_latest_version(subject)))

    def versions(self, subject: str) -> list[RegisteredVersion]:
        """Return every registered version of a subject, oldest first; empty if the subject is unknown."""
        try:
            numbers: Sequence[int] = self._call(lambda: self._client.get_versions(subject))
        except UnknownSubjectError:
            return []
        return [self._numbered(subject, number) for number in sorted(numbers)]

    def compatibility(self, subject: str | None = None) -> str:
        """Return the level that applies to a subject: its own, else the registry's; the latter without a subject."""
        try:
            return self._level(subject)
        except UnknownSubjectError:
            return self._level(None)

    def set_compatibility(self, subject: str, level: str = COMPATIBILITY) -> None:
        """Set the level of a subject, which need not exist yet."""
        self._call(lambda: self._client.set_compatibility(subject_name=subject, level=level))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _numbered(self, subject: str, number: int) -> RegisteredVersion:
        return _version(self._call(lambda: self._client.get_version(subject, number)))

    def _level(self, subject: str | None) -> str:
        answer = self._call(lambda: self._client.get_config(subject))
        return str(answer.compatibility_level or answer.compatibility)

    def _call(self, request: Callable[[], T]) -> T:
        from confluent_kafka.schema_registry.common._httpx_compat import (
            httpx,
        )  # httpx or its successor, as the client chose
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return request()
        except httpx.HTTPError as error:
            refusal = tls_refusal(error)
            if refusal is not None:
                raise RegistryAccessError(
                    f"The schema registry at {self._address} could not be connected to by TLS: {refusal}.",
                    hint="Check registry.ca_file, registry.certificate_file and registry.key_file, and the host name "
                    "in registry.url.",
                ) from error
            raise self._unavailable(f"does not answer ({type(error).__name__})") from error
        except SchemaRegistryError as error:
            raise self._refused(error.http_status_code, str(error.error_message)) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # an answer that is no registry's
            raise self._unavailable(
                f"gave an answer that is not a schema registry's ({type(error).__name__})"
            ) from error

    def _refused(
        self, status: int, message: str
    ) -> RegistryUnavailableError | RegistryAccessError | RegistryRefusedError:
        if status >= _SERVER_ERROR or status in _OVERLOADED:
            return self._unavailable(f"failed with HTTP {status} ({message})")
        who = f"user {self._user}" if self._user else "us, who gave no user"
        if status == _UNAUTHORIZED:
            return RegistryAccessError(
                f"The schema registry at {self._address} does not let in {who} (HTTP {status}).",
                hint="Check registry.username and registry.password.",
            )
        if status == _FORBIDDEN:
            return RegistryAccessError(
                f"The schema registry at {self._address} does not allow {who} what was asked (HTTP {status}).",
                hint="Grant the right, or check registry.username and registry.certificate_file.",
            )
        if status == _NOT_FOUND:
            return UnknownSubjectError(f"The schema registry does not know it: {message}")
        if status == _CONFLICT:
            return IncompatibleSchemaError(
                f"The schema registry refused the schema as incompatible: {message}",
                hint="Run `shopstream schema check FILE` to see what changed.",
            )
        return RegistryRefusedError(f"The schema registry refused (HTTP {status}): {message}")

    def _unavailable(self, what: str) -> RegistryUnavailableError:
        return RegistryUnavailableError(
            f"The schema registry at {self._address} {what}.",
            hint="Check registry.url, or start the embedded one with `shopstream stack up`.",
        )


def register_own_schemas(client: RegistryClient, topics: Sequence[str]) -> dict[str, int]:
    """Set BACKWARD_TRANSITIVE for each topic's subject and register the schemas of this release; idempotent.

    Returns:
        The schema id of each topic.

    Raises:
        IncompatibleSchemaError: an older or newer release has registered what this one cannot read.
        RegistryUnavailableError: no answer.
    """
    ids = {}
    for topic in topics:
        subject = subject_of(topic)
        client.set_compatibility(subject, COMPATIBILITY)
        ids[topic] = client.register(subject, own_schema(topic))
    return ids


def _avro(schema: str) -> Any:
    from confluent_kafka.schema_registry import Schema

    return Schema(schema, schema_type="AVRO")


def _version(found: Any) -> RegisteredVersion:
    return RegisteredVersion(found.subject, int(found.version), int(found.schema_id), found.schema.schema_str)


def _certificates(settings: RegistrySettings) -> dict[str, str]:
    files = {
        "ssl.ca.location": settings.ca_file,
        "ssl.certificate.location": settings.certificate_file,
        "ssl.key.location": settings.key_file,
    }
    options = {name: str(path) for name, path in files.items() if path != UNSET}
    if settings.key_password.get_secret_value():
        options["ssl.key.password"] = settings.key_password.get_secret_value()
    return options
