"""Errors of the feature repository.

FeatureRepoError             root
├── OnlineStoreError         Redis does not answer, is full, or refuses what was asked of it
│   ├── OnlineStoreAccessError   it refuses us, or we its certificate: trying again cannot help
│   └── StateBytesError      bytes in the online store, or on their way to it, are not a state
├── OfflineStoreError        labels cannot be joined, or Feast asked for what the offline store does not do
├── DefinitionVersionError   a definition version is none that this can be done with
├── AmbiguousStateError      features were asked for in a way that confuses the states of both topics
└── RegistryError            the Feast registry cannot be read or written
    ├── RegistryConflictError    another process applied definitions meanwhile
    └── NotAppliedError      the registry does not hold our definitions yet
"""

from config.errors import AccessDeniedError, ShopstreamError


class FeatureRepoError(ShopstreamError):
    """Something of the feature repository failed."""


class OnlineStoreError(FeatureRepoError):
    """Redis does not answer, is full, or refuses what was asked of it."""


class OnlineStoreAccessError(OnlineStoreError, AccessDeniedError):
    """Redis refuses our login, certificate or rights, or shows a certificate that we do not trust."""


class StateBytesError(OnlineStoreError):
    """Bytes in the online store, or on their way to it, are not a state.

    Args:
        view: the feature view they belong to.
        users: whose they are.
        where: `stored` or `pushed`.
    """

    def __init__(self, view: str, users: tuple[str, ...], *, where: str) -> None:
        self.view = view
        self.users = users
        named = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
        super().__init__(
            f"What is {where} in {view} for {named} is not a state.",
            hint="Nothing was overwritten. Replay these users to write their states again."
            if where == "stored"
            else "Push the bytes of features.state.encode.",
        )


class OfflineStoreError(FeatureRepoError):
    """Labels cannot be joined with the log of states, or Feast asked for what the offline store does not do."""


class DefinitionVersionError(FeatureRepoError):
    """A definition version does not exist (any more), or is none that this can be done with."""


class AmbiguousStateError(FeatureRepoError):
    """Features were asked for in a way that confuses the states of both topics."""


class RegistryError(FeatureRepoError):
    """The Feast registry cannot be read or written."""


class RegistryConflictError(RegistryError):
    """Another process changed the Feast registry since it was read here."""


class NotAppliedError(RegistryError):
    """The registry does not hold our definitions."""
