"""Errors of serving.

ServingError
├── UnreadableStateError   what is stored for a user is not a state; its features would be wrong, not zero
├── RecommendationError    nothing can be recommended, or what was asked for is no question
│   └── NoModelError       no model serves, and none is known whose popular products could be shown
├── ModelRefusedError      a model cannot take the place that it was to take
├── RolloutError           a step of a model is not possible as things stand
│   └── RolloutBusyError   another process is moving a model
└── RebasingError          a model serves, but the reference of drift does not follow
"""

from config.errors import ShopstreamError


class ServingError(ShopstreamError):
    """Features could not be served."""


class UnreadableStateError(ServingError):
    """What is stored for some users is not a state.

    Args:
        status_by_user: what `state_status` says of each.
    """

    def __init__(self, status_by_user: dict[str, str]) -> None:
        self.status_by_user = status_by_user
        named = "; ".join(f"{user} ({status})" for user, status in list(status_by_user.items())[:5])
        super().__init__(
            f"The online store holds bytes that are not a state: {named}.",
            hint="Replay these users to write their states again.",
        )


class RecommendationError(ServingError):
    """Nothing can be recommended, or what was asked for is no question."""


class NoModelError(RecommendationError):
    """No model serves, and none is known whose popular products could be shown."""


class ModelRefusedError(ServingError):
    """A model cannot take the place that it was to take."""


class RolloutError(ServingError):
    """A step of a model is not possible as things stand; nothing was changed."""


class RolloutBusyError(RolloutError):
    """Another process is moving a model."""


class RebasingError(ServingError):
    """A model serves, but the reference of drift could not be moved to its data."""
