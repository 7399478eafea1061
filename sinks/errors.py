"""Errors of the sinks.

SinkError                      root: nothing may be committed past what failed; the same call may be repeated
├── LakeUnavailableError       a Delta table cannot be read or written
│   └── LakeMismatchError      a table holds other columns than this release writes
├── LakeBusyError              other upkeep of the lake is under way
├── LakePinnedError            a lake that is read as of an earlier moment cannot be written
├── LakeNotLocalError          what is asked for needs a lake in a local folder
├── LakeVersionError           a version of a table is not there, or not any more
├── ReferenceFileError         a file of ids cannot be loaded as a reference table
├── NoEventsError              the lake holds no events of the days that were asked for
├── LetterNotPublishedError    dead letters were not acknowledged by Kafka
├── RedriveRunningError        another redrive is under way
├── NotRedrivenError           letters were not published again: run the redrive once more
├── OutboxError                the folder of what waits to be delivered cannot be used
├── NotDeliveredError          a receiver did not take a delivery: it waits and is tried again
├── DeliveryRefusedError       a receiver will never take a delivery
├── RetrainingUnknownError     there is no request for a retraining of that id
├── RetrainingRunningError     the retraining is being run by somebody else
└── RetrainingNotDueError      the retraining was suppressed, has been run, or another one is under way
"""

from config.errors import ShopstreamError


class SinkError(ShopstreamError):
    """A sink did not take everything. Repeating the call is safe: what was taken is recognised."""


class LakeUnavailableError(SinkError):
    """A Delta table cannot be read or written.

    Args:
        path: of the table.
        why: what the system or the Delta library said.
        hint: what to do next.
    """

    def __init__(self, path: object, why: str, *, hint: str) -> None:
        super().__init__(f"The lake's table at {path} cannot be used: {why}.", hint=hint)
        self.path = path


class LakeMismatchError(LakeUnavailableError):
    """A table holds other columns than this release writes."""


class LakePinnedError(SinkError):
    """A lake that is read as of an earlier moment cannot be written.

    Args:
        place: the lake or the table.
        pin: as of when it is read.
    """

    def __init__(self, place: str, pin: str) -> None:
        super().__init__(
            f"Nothing can be written to {place}: it is read as of an earlier moment ({pin}).",
            hint="Leave out --lake-version and --lake-time.",
        )


class LakeNotLocalError(SinkError):
    """What is asked for needs a lake in a local folder.

    Args:
        place: the lake.
        what: that needs it, as the subject of a sentence.
    """

    def __init__(self, place: str, what: str) -> None:
        super().__init__(
            f"{what} needs a lake in a local folder, and lake.path is {place}.",
            hint="See docs/how-to/keep-the-lake-on-s3.md for what works there.",
        )


class LakeVersionError(SinkError):
    """A version of a table is not there, or not any more; the message names the oldest that can be read."""


class ReferenceFileError(SinkError):
    """A file of products, categories or users cannot be loaded; the table is as it was."""


class NoEventsError(SinkError):
    """The lake holds no events of the days that were asked for.

    Args:
        days: that were asked for; empty for any.
        held: days that the lake holds.
    """

    def __init__(self, days: str = "", held: str = "") -> None:
        super().__init__(
            f"The lake holds no events of {days}; it has those of {held}." if days else "The lake holds no events yet.",
            hint="Choose days that it has events of; nothing was changed."
            if days
            else "Run a worker, or set lake.path to the lake that is meant; nothing was changed.",
        )


class LetterNotPublishedError(SinkError):
    """Kafka did not acknowledge every dead letter."""


class LakeBusyError(SinkError):
    """Other upkeep of the lake is under way: a second run would do the same work twice.

    Args:
        lake: where it is.
    """

    def __init__(self, lake: object) -> None:
        super().__init__(
            f"Another `shopstream lake maintain`, `lake sessions`, `lake erase` or `dlq redrive` is at work on {lake}.",
            hint="Wait until it has ended; nothing was changed.",
        )


class RedriveRunningError(SinkError):
    """Another redrive of this lake is under way, or was meanwhile: this one did nothing with the letters at hand."""


class NotRedrivenError(SinkError):
    """Kafka did not say of every letter that it stored it again; the next redrive looks first which it has."""


class OutboxError(SinkError):
    """The folder of what waits to be delivered cannot be read or written; what it holds is not lost."""


class NotDeliveredError(SinkError):
    """A receiver did not take a delivery: it stays in the outbox and is tried again.

    Args:
        message: what happened, and where.
        hint: what the reader can do.
        is_passing: whether it may go away within seconds, so that trying again at once makes sense.
    """

    def __init__(self, message: str, *, hint: str = "", is_passing: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.is_passing = is_passing


class DeliveryRefusedError(SinkError):
    """A receiver answered that it will never take a delivery as it is."""


class RetrainingUnknownError(SinkError):
    """There is no request for a retraining of that id."""


class RetrainingRunningError(SinkError):
    """The retraining of a request is being run by another process."""


class RetrainingNotDueError(SinkError):
    """A request for a retraining is not to be run: it was suppressed, has been run, or another one is under way."""
