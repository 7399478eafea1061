"""Compares two definition versions by what `feature_history` holds of both: the values after the same events.

Each version's values were computed by its own code. So a difference is one of definitions, and not of what the two
happened to have read by now.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from features.catalog import FEATURES
from replay.errors import NoSuchDefinitionError
from sinks.history_reads import held_users, held_versions, side_by_side
from sinks.lake_root import Lake

EXAMPLES_MAX: Final = 3

_NAMES: Final = tuple(feature.name for feature in FEATURES)


@dataclass(slots=True)
class FeatureDifference:
    """How one feature differs.

    Attributes:
        event_count: after so many events.
        users: of whom.
        examples: some of them, with the event and both values.
    """

    event_count: int = 0
    users: set[str] = field(default_factory=set)
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """Two definition versions side by side.

    Attributes:
        here, there: the version of this code, and the one that it is compared with.
        event_count: events that both have a row for.
        only_here, only_there: events that one of them has no row for.
        users: who was compared.
        lacking: features that no row of the other version has a value of: its catalog does not know them.
        differences: by feature, those that differ anywhere.
    """

    here: int
    there: int
    event_count: int = 0
    only_here: int = 0
    only_there: int = 0
    users: set[str] = field(default_factory=set)
    lacking: tuple[str, ...] = ()
    differences: dict[str, FeatureDifference] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether both versions have a row for every event."""
        return not self.only_here and not self.only_there

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "definition_version": self.here,
            "with": self.there,
            "events": self.event_count,
            "users": len(self.users),
            "only_here": self.only_here,
            "only_there": self.only_there,
            "complete": self.is_complete,
            "not_in_the_other": list(self.lacking),
            "differing_features": len(self.differences),
            "features": {
                name: {"events": found.event_count, "users": len(found.users), "examples": found.examples}
                for name, found in self.differences.items()
            },
        }


def compare_versions(lake: Lake, here: int, there: int, *, users_max: int | None = None) -> Comparison:
    """Compare what the history holds of two versions; memory grows with the users.

    Args:
        users_max: compare only so many users, always the same ones of a history; None for all.

    Raises:
        NoSuchDefinitionError: the history holds nothing of one of them.
        LakeUnavailableError: it cannot be read.
    """
    held = held_versions(lake)
    for version in (here, there):
        if version not in held:
            raise NoSuchDefinitionError(version, list(held), "feature_history holds no row of")
    users = None if users_max is None else _sample(held_users(lake, here), users_max)
    found = Comparison(here, there)
    known_there: set[str] = set()
    for stretch in side_by_side(lake, here, there, ("as_of_ms", *_NAMES), users=users):
        found.event_count += stretch.here.num_rows
        found.only_here += stretch.here_count - stretch.here.num_rows
        found.only_there += stretch.there_count - stretch.there.num_rows
        found.users.update(stretch.here.column("user_id").unique().to_pylist())
        for name in _NAMES:
            if stretch.there.column(name).null_count < stretch.there.num_rows:
                known_there.add(name)
            _compare(found, name, stretch)
    # one that is null wherever it was looked at, and not so here, is not defined there
    found.lacking = tuple(name for name in _NAMES if name in found.differences and name not in known_there)
    for name in found.lacking:
        del found.differences[name]
    return found


def _compare(found: Comparison, name: str, stretch: Any) -> None:
    here, there = (side.column(name).to_pylist() for side in (stretch.here, stretch.there))
    if here == there:
        return
    difference = found.differences.setdefault(name, FeatureDifference())
    users, offsets, instants = (stretch.here.column(each).to_pylist() for each in ("user_id", "offset", "as_of_ms"))
    for place, (value, other) in enumerate(zip(here, there, strict=True)):
        if value == other:
            continue
        difference.event_count += 1
        if len(difference.examples) < EXAMPLES_MAX and users[place] not in difference.users:
            example = {"user_id": users[place], **stretch.log._asdict(), "offset": offsets[place]}
            values: Mapping[str, Any] = {"here": value, "there": other}
            difference.examples.append({**example, "as_of_ms": instants[place], **values})
        difference.users.add(users[place])


def _sample(users: Collection[str], users_max: int) -> list[str]:
    return sorted(users, key=lambda user_id: blake2b(user_id.encode(), digest_size=8).digest())[:users_max]
