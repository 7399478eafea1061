"""Errors of training.

TrainingError
├── LabelsError            labels cannot be used: it names the first one, and how many
├── SetExistsError         something lies where a set is to be written
├── DefinitionError        another definition version was asked for than this code computes
└── NotInLakeError         the lake does not hold what a set needs
"""

from config.errors import ShopstreamError


class TrainingError(ShopstreamError):
    """A training set could not be made; nothing was written."""


class LabelsError(TrainingError):
    """Labels cannot be used."""


class SetExistsError(TrainingError):
    """Something lies where a set is to be written."""


class DefinitionError(TrainingError):
    """Another definition version was asked for than this code computes."""


class NotInLakeError(TrainingError):
    """The lake does not hold what a set needs."""
