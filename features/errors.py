"""Errors of the features.

ShopstreamError
└── FeaturesError
    ├── StateError              bytes that are no state, or a state that cannot be used so
    └── VersionConflictError    states were written by another since they were loaded
"""

from config.errors import ShopstreamError


class FeaturesError(ShopstreamError):
    """Root of the errors of this package."""


class StateError(FeaturesError):
    """These bytes are no state of a layout that this release reads, or the state cannot be used in this way."""


class VersionConflictError(FeaturesError):
    """The online store holds other states than those that the refused ones were built from.

    Args:
        users: whose states were refused; every other row of the same write was written.
    """

    def __init__(self, users: tuple[str, ...]) -> None:
        shown = ", ".join(users[:5]) + (", …" if len(users) > 5 else "")
        super().__init__(
            f"The online store refused the states of {len(users)} user(s), because it holds others: {shown}.",
            hint="Load the stored states, apply the events again, and push the result.",
        )
        self.users = users
