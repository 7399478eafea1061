"""Errors of the embedded stack.

ShopstreamError
└── StackError                    root of this package
    ├── ArtifactUnavailableError  a file of the stack is neither cached nor can be downloaded
    ├── ChecksumMismatchError     a downloaded file is not the one whose checksum is pinned
    ├── PortInUseError            a port that was asked for belongs to someone else
    ├── ServiceStartError         a service ended, or did not answer, while it was started
    ├── ServiceStopError          a process is still there after SIGKILL
    └── StackInterruptedError     a signal ended `up`; what it had started is stopped
"""

from config.errors import ShopstreamError


class StackError(ShopstreamError):
    """The embedded stack cannot do what was asked."""


class ArtifactUnavailableError(StackError):
    """A file of the stack is neither in the cache nor can it be downloaded."""


class ChecksumMismatchError(StackError):
    """A downloaded file differs from the one whose SHA-256 is pinned; it is not used."""


class PortInUseError(StackError):
    """A port that was asked for is taken by another process."""


class ServiceStartError(StackError):
    """A service ended, or did not answer in time, while it was started."""


class ServiceStopError(StackError):
    """A process of the stack could not be stopped."""


class StackInterruptedError(StackError):
    """A signal ended `up`; the processes it had started are stopped."""
