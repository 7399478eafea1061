"""Errors of replay.

ReplayError
├── RepairStuckError     the lake does not reach what the online store holds
└── LakeTooShortError    the lake does not reach back far enough for complete values
"""

from config.errors import ShopstreamError


class ReplayError(ShopstreamError):
    """A replay could not be done, or not completely."""


class RepairStuckError(ReplayError):
    """The lake does not reach what the online store holds; who was repaired stays so."""


class LakeTooShortError(ReplayError):
    """What the lake holds begins too late for complete values."""
