"""Errors of the traffic sources.

ShopstreamError
└── TrafficError             root of this package
    ├── SampleFileError      a REES46 file cannot be read at all
    ├── ReferenceFolderError the files of what exists in the shop cannot be written
    └── SendError            the broker did not take what was sent
"""

from config.errors import ShopstreamError


class TrafficError(ShopstreamError):
    """A source of events, or the way to the broker, does not work."""


class SampleFileError(TrafficError):
    """The file is missing, unreadable, or not a REES46 export; a single odd row is reported instead."""


class ReferenceFolderError(TrafficError):
    """The folder for the files of what exists in a simulated shop cannot be written."""


class SendError(TrafficError):
    """The broker did not acknowledge everything before the deadline."""
