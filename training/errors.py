"""Errors of training.

TrainingError
├── LabelsError            labels cannot be used: it names the first one, and how many
├── SetExistsError         something lies where a set is to be written
├── DefinitionError        another definition version was asked for than this code computes
├── HistoryError           there is too little history to take a reference from
├── DriftBusyError         windows are being judged by somebody else
├── TooLittleDataError     what is there does not make a model: too few events, no products, one class
├── ModelRegistryError     the registry of models does not answer, or has no such version
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


class HistoryError(TrainingError):
    """There is too little history to take a reference of drift from."""


class DriftBusyError(TrainingError):
    """Windows are being judged, or a reference is being taken, by another process."""


class NotInLakeError(TrainingError):
    """The lake does not hold what a set needs."""


class TooLittleDataError(TrainingError):
    """What the lake holds of a range does not make a model."""


class ModelRegistryError(TrainingError):
    """The registry of models does not answer, or does not have what was asked for."""
