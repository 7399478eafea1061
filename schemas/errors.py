"""Errors of the event contract.

SchemasError
├── RegistryUnavailableError     the schema registry does not answer: wait, and try again
├── RegistryAccessError          it refuses us, or we its certificate: trying again cannot help
├── RegistryRefusedError         the schema registry answered no
│   ├── UnknownSchemaIdError     it has no schema of that id
│   ├── UnknownSubjectError      it has no such subject, or not that schema under it
│   └── IncompatibleSchemaError  the schema cannot replace the registered ones
├── UnsafeSchemaError            a schema that we will not decode with
├── UnresolvedSchemaError        `decode` before `resolve`: a mistake of the caller
├── EncodeError                  an event that its schema cannot hold
├── BrokerUnavailableError       Kafka does not answer
├── BrokerAccessError            it refuses us, or we its certificate: trying again cannot help
├── TopicError                   a topic is missing or is not what the system needs
│   ├── TopicMissingError        there is none of that name
│   └── TopicNotSeenError        it exists, but not for the broker that was asked
└── DeliveryError                events were handed over but not stored by the broker
"""

from config.errors import AccessDeniedError, ShopstreamError


class SchemasError(ShopstreamError):
    """Root of this package's errors."""


class RegistryUnavailableError(SchemasError):
    """The schema registry did not answer, or failed itself (5xx, 429): nothing is known about the schema."""


class RegistryAccessError(SchemasError, AccessDeniedError):
    """The schema registry refuses our login, certificate or rights, or shows a certificate that we do not trust."""


class RegistryRefusedError(SchemasError):
    """The schema registry answered, and refused."""


class UnknownSchemaIdError(RegistryRefusedError):
    """The schema registry has no schema of this id (404)."""

    def __init__(self, schema_id: int) -> None:
        super().__init__(f"The schema registry has no schema with id {schema_id}.")
        self.schema_id = schema_id


class UnknownSubjectError(RegistryRefusedError):
    """The schema registry has no such subject, or not this schema under it (404)."""


class IncompatibleSchemaError(RegistryRefusedError):
    """The schema cannot read what was written with the registered ones (409)."""


class UnsafeSchemaError(SchemasError):
    """A schema that is not Avro, or that would let a few bytes cost unbounded time or memory."""


class UnresolvedSchemaError(SchemasError):
    """`Codec.decode` met a schema id that was never given to `Codec.resolve`."""


class EncodeError(SchemasError):
    """An event holds a value that its Avro schema has no room for."""


class BrokerUnavailableError(SchemasError):
    """No Kafka broker answered in time."""


class BrokerAccessError(SchemasError, AccessDeniedError):
    """Kafka refuses our login, certificate or rights, or shows a certificate that we do not trust."""


class TopicError(SchemasError):
    """A topic is missing, could not be created, or has settings that would make results wrong."""


class TopicMissingError(TopicError):
    """The broker that answered has no topic of that name."""


class TopicNotSeenError(TopicError):
    """The broker that answered does not know the topic: it does not exist, or was created a moment ago."""


class DeliveryError(SchemasError):
    """The broker did not store some events that were sent."""
