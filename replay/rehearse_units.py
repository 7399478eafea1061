"""Which unit a number is in, as its field's name and documentation tell; its type does not, and names may change."""

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


class Unit(NamedTuple):
    """What a number counts.

    Attributes:
        scale: how many of the family's smallest unit it is.
    """

    family: str
    name: str
    scale: int


_MINOR: Final = Unit("money", "minor units", 1)
_WHOLE: Final = Unit("money", "whole units", 100)
_US, _MS, _S = Unit("time", "microseconds", 1), Unit("time", "milliseconds", 1_000), Unit("time", "seconds", 1_000_000)

# The first that is found decides: a price in euro cents is not one in euros.
_OF_MONEY: Final = (
    (re.compile(r"\b(whole|major)\b"), _WHOLE),
    (re.compile(r"\b(minor|cents?|pence|pennies)\b"), _MINOR),
    (re.compile(r"\b(euros?|dollars?|pounds?)\b"), _WHOLE),
)
_OF_TIME: Final = (
    (re.compile(r"\b(us|micros|microseconds?)\b"), _US),
    (re.compile(r"\b(ms|millis|milliseconds?)\b"), _MS),
    (re.compile(r"\b(s|secs?|seconds?)\b"), _S),
)


@dataclass(frozen=True, slots=True)
class UnitChange:
    """A field that counts in another unit than before."""

    old_field: str
    new_field: str
    old: Unit
    new: Unit

    def to_new(self, value: float) -> float:
        """Convert a number as a producer of the new schema would write it."""
        return value * self.old.scale / self.new.scale

    def to_old(self, value: float) -> float:
        """Convert a number that was read as the new schema means it back to what the system counts in."""
        return value * self.new.scale / self.old.scale

    def words(self) -> str:
        """Say what changes."""
        return (
            f"{self.old_field}, in {self.old.name}, becomes {self.new_field}, in {self.new.name}, as its name or "
            "documentation tells: values were converted"
        )


def unit_change(old: dict[str, Any], new: dict[str, Any]) -> UnitChange | None:
    """Tell whether a field of a new schema counts in another unit than the one that it stands for.

    A price that no longer says in its name that it is in minor units, nor in its documentation, is taken for one in
    whole units.

    Args:
        old, new: as they are declared.
    """
    before, after = _unit(old), _unit(new)
    if before is None:
        return None
    if after is None and before is _MINOR and old["name"] != new["name"]:
        after = _WHOLE
    if after is None or after == before or after.family != before.family:
        return None
    return UnitChange(old["name"], new["name"], before, after)


def stem(name: str) -> str:
    """Return a field's name without the words for its unit: two fields of one stem are about one thing."""
    words = name.lower().split("_")
    return "_".join(word for word in words if _found(word, (*_OF_MONEY, *_OF_TIME)) is None)


def _unit(part: dict[str, Any]) -> Unit | None:
    # seconds and the like are in many a text that is not about the unit: of time only the name tells
    said, name = str(part.get("doc", "")).lower(), part["name"].lower().replace("_", " ")
    return _found(said, _OF_MONEY) or _found(name, (*_OF_MONEY, *_OF_TIME))


def _found(text: str, patterns: tuple[tuple[re.Pattern[str], Unit], ...]) -> Unit | None:
    return next((unit for pattern, unit in patterns if pattern.search(text)), None)
