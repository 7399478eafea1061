"""The settings of the three services that every process connects to: address, credentials, certificates."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from config.security import (
    UNSET,
    Address,
    CaFile,
    CertificateFile,
    KeyFile,
    KeyPassword,
    check_login,
    check_tls,
    contradiction,
    redis_url,
)


class Section(BaseModel):
    """One section of the settings: unknown keys are refused, and values never change."""

    # inputs are hidden because the text of an error, which `--debug` shows, would repeat passwords
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(Section):
    """The broker that holds the event topics."""

    bootstrap_servers: str = Field("", description="host:port of the brokers, separated by commas")
    partitions: int = Field(4, ge=1, le=1024, description="partitions of each event topic when we create it")
    replication_factor: int = Field(1, ge=1, description="replicas of each topic when we create it")
    timeout_s: float = Field(10.0, gt=0, description="how long an answer of the broker may take")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="SSL encrypts, SASL sends user and password"
    )
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; with a SASL_ protocol only"
    )
    username: str = Field("", description="SASL user")
    password: SecretStr = Field(SecretStr(""), description="its password")
    ca_file: CaFile = UNSET
    certificate_file: CertificateFile = UNSET
    key_file: KeyFile = UNSET
    key_password: KeyPassword = SecretStr("")

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is TLS."""
        return self.security_protocol.endswith("SSL")

    @property
    def uses_sasl(self) -> bool:
        """Whether user and password are sent."""
        return self.security_protocol.startswith("SASL")

    @model_validator(mode="after")
    def _check(self) -> Self:
        login = {
            "sasl_mechanism": self.sasl_mechanism,
            "username": self.username,
            "password": self.password.get_secret_value(),
        }
        given = [f"kafka.{name}" for name, value in login.items() if value]
        missing = [f"kafka.{name}" for name, value in login.items() if not value]
        protocol = f"kafka.security_protocol is {self.security_protocol}"
        if self.uses_sasl and missing:
            raise contradiction(
                f"{protocol}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
            )
        if given and not self.uses_sasl:
            raise contradiction(f"{given[0]} is set, but {protocol}, which sends no password: choose SASL_SSL")
        unused = "" if self.is_encrypted else f"{protocol}, which does not encrypt: choose SSL or SASL_SSL"
        check_tls("kafka", self, unused_because=unused)
        return self


class RegistrySettings(Section):
    """The Avro schema registry, Confluent API."""

    url: str = Field("", description="base URL of the Confluent-compatible API")
    timeout_s: float = Field(5.0, gt=0, description="how long an answer of the registry may take")
    unknown_id_ttl_s: float = Field(30.0, gt=0, description="how long a 404 for a schema id is remembered")
    username: str = Field("", description="user of HTTP basic authentication; it may be in the URL instead")
    password: SecretStr = Field(SecretStr(""), description="its password")
    ca_file: CaFile = UNSET
    certificate_file: CertificateFile = UNSET
    key_file: KeyFile = UNSET
    key_password: KeyPassword = SecretStr("")

    @property
    def address(self) -> Address:
        """The URL without its login, and the login."""
        return check_login("registry", self.username, self.password, self.url, ("http", "https"))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ":" in self.address.username:
            raise contradiction("registry.username holds a colon, which HTTP basic authentication cannot send")
        unused = "" if self.url.startswith("https://") else "registry.url does not begin with https://"
        check_tls("registry", self, unused_because=unused)
        return self


class RedisSettings(Section):
    """The online store."""

    url: SecretStr = Field(SecretStr(""), description="redis://[user:password@]host:port/db; rediss:// for TLS")
    timeout_s: float = Field(5.0, gt=0, description="how long an answer of Redis may take")
    username: str = Field("", description="ACL user; it may be in the URL instead")
    password: SecretStr = Field(SecretStr(""), description="its password, or that of the default user")
    ca_file: CaFile = UNSET
    certificate_file: CertificateFile = UNSET
    key_file: KeyFile = UNSET
    key_password: KeyPassword = SecretStr("")

    @property
    def address(self) -> Address:
        """The URL without its login, and the login."""
        return check_login(
            "redis", self.username, self.password, self.url.get_secret_value(), ("redis", "rediss", "unix")
        )

    @property
    def connection_url(self) -> SecretStr:
        """The one URL that tells a client all of this: address, login, certificates; empty without an address."""
        return SecretStr(redis_url(self.address, self) if self.url.get_secret_value() else "")

    @model_validator(mode="after")
    def _check(self) -> Self:
        is_tls = self.address.url.startswith("rediss://")
        check_tls("redis", self, unused_because="" if is_tls else "redis.url does not begin with rediss://")
        return self
