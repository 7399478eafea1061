"""What data is compared with: counts on frozen bins, of windows of the same hour of the week where history has them.

A shop's Monday morning differs from its Saturday night without any drift. With two weeks of history a window is
compared with those of the same hour of the week; with two days, of the same hour of the day; else with all windows.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from quality.profile import Profile, merged
from quality.scores import Bins

HOUR_MS: Final = 3_600_000
_DAY_H, _WEEK_H = 24, 168
_MONDAY_H: Final = 72  # the epoch began on a Thursday
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ALL_WINDOWS: Final = -1


class Level(StrEnum):
    """Which windows are alike."""

    HOUR_OF_WEEK = "hour_of_week"
    HOUR_OF_DAY = "hour_of_day"
    ALL = "all"

    def stratum(self, start_ms: int) -> int:
        """Return the number of the windows that are like one that begins then."""
        hour_of_week = (start_ms // HOUR_MS + _MONDAY_H) % _WEEK_H
        if self is Level.HOUR_OF_WEEK:
            return hour_of_week
        return hour_of_week % _DAY_H if self is Level.HOUR_OF_DAY else ALL_WINDOWS

    def words(self, stratum: int) -> str:
        """Say which windows those are."""
        if stratum == ALL_WINDOWS:
            return "all windows of the reference"
        day, hour = divmod(stratum, _DAY_H)
        at = f"{hour:02d}:00 UTC"
        return f"{_DAYS[day]}s {at}" if self is Level.HOUR_OF_WEEK else f"all days {at}"


class Window(NamedTuple):
    """A stretch of event time and what its data looks like."""

    start_ms: int
    end_ms: int
    profile: Profile


@dataclass(slots=True)
class Stratum:
    """Counts of windows that are alike.

    Attributes:
        windows: how many of them hold each variable.
        counts: of each variable, how many values lie in each fine bin.
        nulls: of each variable, how many values were missing.
    """

    windows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    nulls: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Stratum", sign: int = 1) -> None:
        """Add what another one counts, or take it out again with `sign` -1."""
        for name, counts in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + sign * counts
            self.windows[name] = self.windows.get(name, 0) + sign * other.windows[name]
            self.nulls[name] = self.nulls.get(name, 0) + sign * other.nulls[name]

    def without(self, others: Iterable["Stratum"]) -> "Stratum":
        """Return it without windows that it holds."""
        left = Stratum(dict(self.windows), dict(self.counts), dict(self.nulls))
        for other in others:
            left.add(other, -1)
        return left

    def null_share(self, name: str) -> float:
        """Return the share of missing values of a variable."""
        rows = int(self.counts[name].sum()) + self.nulls[name]
        return self.nulls[name] / rows if rows else 0.0


class Reference:
    """What windows are compared with.

    Args:
        level: which windows are alike.
        bins: of each variable.
        strata: by number, `ALL_WINDOWS` among them.
    """

    def __init__(self, level: Level, bins: Mapping[str, Bins], strata: Mapping[int, Stratum]) -> None:
        self.level = level
        self.bins = dict(bins)
        self.strata = dict(strata)

    @classmethod
    def of(cls, windows: Sequence[Window]) -> "Reference":
        """Take the reference from windows of history; a variable without a value there is left out."""
        profile = merged(window.profile for window in windows)
        windows_of = Counter(name for window in windows for name in window.profile.variables)
        frozen = {
            name: Bins.of(variable, variable.count / windows_of[name]) for name, variable in profile.variables.items()
        }
        bins = {name: found for name, found in frozen.items() if found is not None}
        made = cls(level_of(windows), bins, {})
        for window in windows:
            counted = made.counted(window.profile)
            for number in {made.level.stratum(window.start_ms), ALL_WINDOWS}:
                made.strata.setdefault(number, Stratum()).add(counted)
        return made

    def counted(self, profile: Profile) -> Stratum:
        """Count one window on the bins of this reference."""
        found = Stratum()
        for name, bins in self.bins.items():
            variable = profile.variables.get(name)
            if variable is not None:
                found.windows[name] = 1
                found.counts[name] = bins.counted(variable)
                found.nulls[name] = variable.nulls
        return found

    def number(self, start_ms: int) -> int:
        """Return the number of the stratum that a window beginning then is compared with."""
        number = self.level.stratum(start_ms)
        return number if number in self.strata else ALL_WINDOWS

    def has_alike(self, start_ms: int) -> bool:
        """Tell whether windows are known that are like one that begins then."""
        return self.level.stratum(start_ms) in self.strata

    def to_bytes(self) -> bytes:
        """Return it as bytes."""
        strata = [
            (number, [(name, each.windows[name], each.nulls[name], each.counts[name].tolist()) for name in each.counts])
            for number, each in sorted(self.strata.items())
        ]
        bins = {name: found.document() for name, found in sorted(self.bins.items())}
        return zlib.compress(msgspec.msgpack.encode((self.level.value, bins, strata)))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Reference":
        """Return what `to_bytes` made bytes of."""
        level, bins, strata = msgspec.msgpack.decode(zlib.decompress(blob))
        found = {}
        for number, variables in strata:
            found[number] = Stratum()
            for name, windows, nulls, counts in variables:
                found[number].windows[name], found[number].nulls[name] = windows, nulls
                found[number].counts[name] = np.array(counts, np.int64)
        return cls(Level(level), {name: Bins.from_document(each) for name, each in bins.items()}, found)


def level_of(windows: Sequence[Window]) -> Level:
    """Return the finest level at which most strata hold at least two windows."""
    for level in (Level.HOUR_OF_WEEK, Level.HOUR_OF_DAY):
        cycle_ms = HOUR_MS * (_WEEK_H if level is Level.HOUR_OF_WEEK else _DAY_H)
        spanned_ms = max(window.end_ms for window in windows) - min(window.start_ms for window in windows)
        strata = [level.stratum(window.start_ms) for window in windows]
        alone = sum(strata.count(number) == 1 for number in set(strata))
        if spanned_ms >= 2 * cycle_ms and 2 * alone <= len(set(strata)):
            return level
    return Level.ALL
