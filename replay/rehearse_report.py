"""What a rehearsal of a schema found: by the way in which it takes effect, and in all."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from replay.rehearse_compare import Compared, Example
from schemas.rules import Problem


class Way(StrEnum):
    """How a new schema takes effect."""

    READ = "read"
    WRITTEN = "written"
    LEFT_OUT = "left out"


@dataclass(slots=True)
class WayReport:
    """What happens on one way.

    Attributes:
        is_warning: it only happens if producers do as they need not; it does not count as a difference.
        refused: records that become dead letters, by reason; `refusal` says why the first one does.
        users_by_feature: users whose value changes.
        examples: of each feature that changes, the first.
    """

    way: Way
    is_warning: bool = False
    refused: Counter[str] = field(default_factory=Counter)
    refusal: str = ""
    changed_users: int = 0
    users_by_feature: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Example] = field(default_factory=dict)

    @property
    def differs(self) -> bool:
        """Whether any feature changes, or any record is refused."""
        return bool(self.users_by_feature) or bool(self.refused)

    def refuse(self, problem: Problem) -> None:
        """Count a record that is refused."""
        self.refused[problem.reason.value] += 1
        self.refusal = self.refusal or problem.detail

    def add(self, compared: Compared) -> None:
        """Count a user whose features change."""
        self.changed_users += bool(compared)
        for feature, example in compared.items():
            self.users_by_feature[feature] += 1
            self.examples.setdefault(feature, example)

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "way": self.way.value,
            "is_warning": self.is_warning,
            "refused": dict(self.refused),
            "refusal": self.refusal,
            "changed_users": self.changed_users,
            "features": {
                feature: {"users": users, "example": self.examples[feature]._asdict()}
                for feature, users in self.users_by_feature.most_common()
            },
        }


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The result.

    Attributes:
        event_count, user_count: that were replayed.
        first_ms, last_ms: append times of the first and the last of them.
        notices: what was assumed, and what no replay can see, in words.
    """

    event_count: int
    user_count: int
    first_ms: int
    last_ms: int
    ways: tuple[WayReport, ...]
    notices: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the schema changes features, or what becomes a dead letter."""
        return any(way.differs and not way.is_warning for way in self.ways)

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        changed: dict[str, int] = {}
        for way in self.ways:
            if not way.is_warning:
                for feature, users in way.users_by_feature.items():
                    changed[feature] = max(users, changed.get(feature, 0))
        return {
            "events": self.event_count,
            "users": self.user_count,
            "from_ms": self.first_ms,
            "to_ms": self.last_ms,
            "features_changed": changed,
            "ways": [way.payload() for way in self.ways],
            "notices": list(self.notices),
        }
