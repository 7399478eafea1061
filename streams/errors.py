"""Errors of the stream worker.

StreamError
├── SinkFailedError        a sink did not take a batch after all tries; the loop stops, nothing is committed
    ├── StatesLostError        the online store no longer holds what it had acknowledged
├── LogEpochError          the topic is not the log that the stored states were folded from
├── CommitPendingError     a commit to Kafka stayed without an answer
└── StalledError           there is lag, and nothing was processed for too long
"""

from config.errors import ShopstreamError


class StreamError(ShopstreamError):
    """Root of what can stop a worker."""


class SinkFailedError(StreamError):
    """A sink did not take a batch after all tries; the partition's data waits in Kafka."""


class StatesLostError(StreamError):
    """The online store was emptied or restored from an older copy while the worker ran."""


class LogEpochError(StreamError):
    """The topic was recreated or got more partitions: its offsets mean another log now."""


class CommitPendingError(StreamError):
    """Kafka did not answer a commit in time."""


class StalledError(StreamError):
    """No progress in spite of lag."""
