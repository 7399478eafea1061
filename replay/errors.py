"""Errors of replay.

ReplayError
├── RepairStuckError     the lake does not reach what the online store holds
├── LakeTooShortError    the lake does not reach back far enough for complete values
├── LostAgainError       the online store lost a partition while it was being rebuilt
├── NothingStoredError   there is no partition that could be rebuilt
├── UnknownUsersError    of users who were named there is no event
├── NothingRecordedError the lake holds no event that a schema could be rehearsed on
├── NothingServedError   of users who were named no answer was kept
├── NoSuchLetterError    a dead letter that was named is not in the lake
├── NotReadYetError      no worker has read what was published again
├── RangeError           a range, or a topic or user of it, is none that can be replayed
├── NotRetainedError     a range begins before, or ends after, what its source holds
├── ReplayBegunError     a replay of this range was begun, and nobody said whether to go on
├── MoveRefusedError     a topic cannot be moved to its new log
├── MoveOvertakenError   another move of the topic has ended, or its fences were lost
├── ReplayRunningError   a replay of this range is under way
├── CatalogChangedError  a backfill goes on with another catalog of features than it began with
├── NoSuchDefinitionError    there is nothing of a definition version
├── NotCommittedError    the workers have not come past an erasure yet
└── StillHaltedError     a topic is halted, and the workers cannot come past an erasure
"""

from collections.abc import Sequence

from config.errors import ShopstreamError


class ReplayError(ShopstreamError):
    """A replay could not be done, or not completely."""


class RepairStuckError(ReplayError):
    """The lake does not reach what the online store holds; who was repaired stays so."""


class LakeTooShortError(ReplayError):
    """What the lake holds begins too late for complete values."""


class LostAgainError(ReplayError):
    """The online store lost a partition, or was restored from an older copy, while it was being rebuilt."""


class MoveRefusedError(ReplayError):
    """A topic cannot be moved to its new log, as things are."""


class MoveOvertakenError(ReplayError):
    """Another move of the topic has ended, or the online store lost its fences, while this one ran."""


class NothingStoredError(ReplayError):
    """Neither the online store nor the lake knows a partition."""


class UnknownUsersError(ReplayError):
    """Of users who were named there is no event.

    Args:
        users: as they are stored.
        source: `lake` or `kafka`.
    """

    def __init__(self, users: Sequence[str], source: str) -> None:
        shown = ", ".join(users[:5]) + (f" and {len(users) - 5:,} more" if len(users) > 5 else "")
        held = "the lake holds" if source == "lake" else "Kafka retains"
        super().__init__(
            f"{held[0].upper()}{held[1:]} no event of {shown}.",
            hint="Nothing was changed. Ids are compared exactly; the lake is up to a flush behind.",
        )


class NothingRecordedError(ReplayError):
    """The lake holds no event of a topic, in the time that was asked for, that a schema could be rehearsed on."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"The lake holds no event of {topic} that the schema could be rehearsed on.",
            hint="Give an earlier --from, or the settings of a lake that a worker has written.",
        )


class NothingServedError(ReplayError):
    """Of users who were named no answer was kept in the time that was asked for.

    Args:
        users: theirs, as they were given.
    """

    def __init__(self, users: Sequence[str]) -> None:
        shown = ", ".join(users[:5]) + (", …" if len(users) > 5 else "")
        super().__init__(
            f"No answer of {shown} was kept in that time.",
            hint="Readers keep the share serving.served_share of what they answer; `--from` may reach further back.",
        )


class NoSuchLetterError(ReplayError):
    """Dead letters that were named are not in the lake.

    Args:
        names: theirs, as they were given.
    """

    def __init__(self, names: Sequence[str]) -> None:
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        super().__init__(
            f"The lake holds no dead letter {shown}.",
            hint="`shopstream dlq list` shows those that there are; a worker writes them once per flush interval.",
        )


class NotReadYetError(ReplayError):
    """No worker has read, within the time given, what was published again."""


class StillHaltedError(ReplayError):
    """A topic is halted: workers hold back what is to be erased, until somebody resumes it."""

    def __init__(self, topics: Sequence[str]) -> None:
        super().__init__(
            f"{', '.join(topics)} is halted by a gate, so the workers do not come past the request.",
            hint="The request is noted. Resume it (`shopstream gates status`), or stop all workers; then run the same "
            "command again: it goes on from there.",
        )


class NotCommittedError(ReplayError):
    """Workers run, and have not committed everything before an erasure.

    Args:
        partitions: how many partitions are behind.
        records: how many records they have left.
    """

    def __init__(self, group_id: str, partitions: int, records: int, waited_s: float) -> None:
        super().__init__(
            f"The workers of {group_id} have {records:,} records of {partitions} partitions left before the request, "
            f"after {waited_s:g} s; what they have not written cannot be erased.",
            hint="The request is noted. See `shopstream status`; then run the same command again, with workers that "
            "keep up or with none: it goes on from there.",
        )


class RangeError(ReplayError):
    """A range, or a topic or user of it, is none that can be replayed."""


class NotRetainedError(ReplayError):
    """A range begins before, or ends after, what its source holds."""


class ReplayBegunError(ReplayError):
    """A replay of this range was begun or done, and nobody said whether to go on or to begin anew."""


class ReplayRunningError(ReplayError):
    """A replay of this range is under way."""


class NoSuchDefinitionError(ReplayError):
    """There is nothing of a definition version, or nothing any more.

    Args:
        held: the versions that there are.
        what: the beginning of the sentence that says so.
    """

    def __init__(self, version: int, held: Sequence[int], what: str) -> None:
        known = ", ".join(map(str, held))
        super().__init__(
            f"{what} definition version {version}; there {'are' if len(held) > 1 else 'is'} {known or 'none'}.",
            hint="`shopstream replay --into history` writes those of the version whose code it is run with.",
        )


class CatalogChangedError(ReplayError):
    """A backfill goes on with another catalog of features than it began with."""

    def __init__(self, began_with: str, now: str) -> None:
        super().__init__(
            f"This backfill was begun by code with {began_with}, and this code has {now}.",
            hint="Go on with that code, or add --restart to begin anew: rows that lack features are replaced.",
        )
