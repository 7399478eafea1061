"""Errors of the stream worker.

StreamError
├── SinkFailedError        a sink did not take a batch after all tries; the loop stops, nothing is committed
├── StatesLostError        the online store no longer holds what it had acknowledged
├── LogEpochError          the topic is not the log that the stored states were folded from
├── CommitPendingError     a commit to Kafka stayed without an answer
└── StalledError           there is lag, and nothing was processed for too long

ProbingError               the process that decodes suspicious records did not do its work; it is repeated
"""

from collections.abc import Collection
from typing import Self

from config.errors import ShopstreamError


class StreamError(ShopstreamError):
    """Root of what can stop a worker."""


class SinkFailedError(StreamError):
    """A sink did not take a batch after all tries; the partition's data waits in Kafka."""


class StatesLostError(StreamError):
    """The online store was emptied or restored from an older copy while the worker ran."""

    @classmethod
    def of(cls, topic: str, partitions: Collection[int]) -> Self:
        """Name the partitions that were lost."""
        named = ", ".join(f"{topic}-{partition}" for partition in sorted(partitions))
        return cls(
            f"The online store has lost what it held for {named}: it was emptied or restored from an older copy.",
            hint="Start the worker again: it catches up from the older copy, or marks the partitions REBUILDING.",
        )


class LogEpochError(StreamError):
    """The topic was recreated or got more partitions: its offsets mean another log now."""

    @classmethod
    def of(cls, topic: str, *, was: str, now: str) -> Self:
        """Say which log it was, and which it is (log epochs)."""
        return cls(
            f"Topic {topic} is another log than the one its stored states were folded from: "
            f"epoch was {was}, is {now} (recreated, or its partition count changed).",
            hint="Its offsets cannot be compared with the old ones, and nothing of it was applied. Move the states to "
            f"it with `shopstream replay --into online --from-epoch={was}`, see "
            "docs/how-to/move-to-more-partitions.md; then start the worker.",
        )


class CommitPendingError(StreamError):
    """Kafka did not answer a commit in time."""


class StalledError(StreamError):
    """No progress in spite of lag."""


class ProbingError(ShopstreamError):
    """Suspicious records could not be tried in another process; it is repeated."""
