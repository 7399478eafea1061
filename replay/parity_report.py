"""What parity found: how much was compared, what could not be, and the differences with the events behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

LIVE: Final = "live"


class Gap(StrEnum):
    """Why a way cannot tell of a user; its text follows the name of the way and partition."""

    TOO_SHORT = "begins too late to tell of them"
    BEHIND = "has not reached what the online store holds of them"
    REBUILDING = "has partial states, or none yet: the partition is being rebuilt"
    LOST = "was emptied, and no worker has started since"
    OTHER_LOG = "holds states of another log: the topic was created again, or got more partitions"

    @property
    def is_failure(self) -> bool:
        """Tell whether something is to be done about it; a way that begins too late is what retention leaves."""
        return self is not Gap.TOO_SHORT


class GapCount(NamedTuple):
    """How many users of one partition a way could not tell of.

    Attributes:
        since: where the way begins, for one that begins too late; empty for others.
    """

    way: str
    topic: str
    partition: int
    gap: Gap
    user_count: int
    since: str = ""

    def __str__(self) -> str:
        since = f" ({self.since})" if self.since else ""
        users = "1 user" if self.user_count == 1 else f"{self.user_count:,} users"
        return f"{self.way} of {self.topic}-{self.partition}{since} {self.gap.value}: {users}"


@dataclass(frozen=True, slots=True)
class Difference:
    """One state or one feature that is not the same in all ways.

    Attributes:
        topic: of a state; None for a feature.
        feature: its name; None for a state.
        as_of_ms: the first instant at which it differs; None for a state.
        values: what each way gives: of a state its version and a hash; of a way that cannot tell, nothing is here.
    """

    topic: str | None
    feature: str | None
    as_of_ms: int | None
    values: Mapping[str, Any]

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"topic": self.topic, "feature": self.feature, "as_of_ms": self.as_of_ms, "values": dict(self.values)}


@dataclass(frozen=True, slots=True)
class EventSeen:
    """One event of a user whose content differs.

    Attributes:
        outcome: what became of it in the fold: applied, duplicate or late; or that it was left out, and why.
        ways: the replays that hold it.
        is_named: it is behind the difference.
    """

    topic: str
    partition: int
    offset: int
    event_time_ms: int
    kind: str
    event_id: str
    product_id: str | None
    outcome: str
    ways: tuple[str, ...]
    is_named: bool

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class UserDifference:
    """One user whose content differs.

    Attributes:
        agreeing: ways that give the same, one group after the other.
        causes: what would explain it, in sentences; empty when nothing was found, or it was not looked for.
        events: those behind it, and some around them.
    """

    user_id: str
    differences: Sequence[Difference]
    agreeing: Sequence[tuple[str, ...]]
    causes: Sequence[str] = ()
    events: Sequence[EventSeen] = ()

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "user_id": self.user_id,
            "agreeing": [list(group) for group in self.agreeing],
            "differences": [difference.payload() for difference in self.differences],
            "causes": list(self.causes),
            "events": [event.payload() for event in self.events],
        }


@dataclass(frozen=True, slots=True)
class WayReport:
    """What one way gave.

    Attributes:
        state_count: states that were compared.
        total: hash of all that was compared: equal totals are equal contents.
        hashes: by topic and by feature.
    """

    state_count: int
    total: str
    hashes: Mapping[str, str]

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"states": self.state_count, "hash": self.total, "hashes": dict(self.hashes)}


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The result.

    Attributes:
        user_count: users of whom anything was compared.
        state_count: states that two ways at least could tell of.
        value_count: values of features at instants that two ways at least could tell of.
        ways: by name; hashes are of the users that all ways could tell of.
        gaps: what could not be compared.
        differing: the users whose content differs, by id; the first of them with causes and events.
    """

    user_count: int
    state_count: int
    value_count: int
    ways: Mapping[str, WayReport]
    gaps: Sequence[GapCount] = ()
    differing: Sequence[UserDifference] = field(default_factory=tuple)

    @property
    def difference_count(self) -> int:
        """How many states and features differ, each counted once per user."""
        return sum(len(user.differences) for user in self.differing)

    @property
    def failures(self) -> list[str]:
        """Why the comparison is not what was asked for, in sentences; empty if nothing is to be done about it."""
        told = [str(count) for count in self.gaps if count.gap.is_failure]
        return told if self.state_count or told else ["nothing was found that two ways could tell of"]

    def payload(self, users_max: int) -> dict[str, Any]:
        """Return the JSON form, with so many users at most."""
        return {
            "users": self.user_count,
            "states": self.state_count,
            "values": self.value_count,
            "ways": {name: way.payload() for name, way in self.ways.items()},
            "incomplete": [str(count) for count in self.gaps],
            "failures": self.failures,
            "users_differing": len(self.differing),
            "first_differing": [user.payload() for user in self.differing[:users_max]],
            "differences": self.difference_count,
        }
