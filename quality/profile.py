"""What a window's data looks like: of each variable how its values are spread, in a form that can be added up.

A variable of numbers is the exact count of each value while there are few, as with most counts and sums of a session;
beyond that it is a KLL sketch (`datasketches`), whose ranks are exact up to `SKETCH_SIZE` values and within its error
after that. A variable of texts is the exact count of each, the rarest of very many as one. Missing values are counted.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from datasketches import kll_doubles_sketch

SKETCH_SIZE: Final = 65_535  # the greatest that there is; a sketch only takes what it holds
VALUES_MAX: Final = 256
CATEGORIES_MAX: Final = 10_000


class Numbers:
    """Values of a variable of numbers.

    Args:
        nulls: how many were missing.
        counts: how often each value came; None once there were too many.
        sketch: all of them, if `counts` is None.
    """

    def __init__(self, nulls: int = 0, counts: Mapping[float, int] | None = None, sketch: Any = None) -> None:
        self.nulls = nulls
        self.counts: dict[float, int] | None = None if sketch is not None else dict(counts or {})
        self.sketch = sketch

    @classmethod
    def of(cls, values: Any) -> "Numbers":
        """Profile numpy floats; NaN is missing. The order of the values does not matter."""
        present = values[~np.isnan(values)]
        found, counts = np.unique(present, return_counts=True)
        nulls = len(values) - len(present)
        if len(found) <= VALUES_MAX:
            return cls(nulls, dict(zip(found.tolist(), counts.tolist(), strict=True)))
        sketch = kll_doubles_sketch(SKETCH_SIZE)
        sketch.update(np.sort(present))
        return cls(nulls, sketch=sketch)

    @property
    def count(self) -> int:
        """How many values there are, missing ones not counted."""
        return sum(self.counts.values()) if self.counts is not None else int(self.sketch.n)

    @property
    def is_exact(self) -> bool:
        """Whether ranks are exact."""
        return self.counts is not None or not self.sketch.is_estimation_mode()

    def merged(self, other: "Numbers") -> "Numbers":
        """Return the profile of the values of both."""
        nulls = self.nulls + other.nulls
        if self.counts is not None and other.counts is not None:
            counts = Counter(self.counts) + Counter(other.counts)
            if len(counts) <= VALUES_MAX:
                return Numbers(nulls, counts)
        sketch = kll_doubles_sketch(SKETCH_SIZE)
        for each in (self, other):
            each.pour_into(sketch)
        return Numbers(nulls, sketch=sketch)

    def at_most(self, bounds: Sequence[float]) -> Any:
        """Return how many values are at most each bound, as numpy integers."""
        if not len(bounds) or not self.count:
            return np.zeros(len(bounds), np.int64)
        if self.counts is not None:
            values = np.array(sorted(self.counts))
            sums = np.concatenate([[0], np.cumsum([self.counts[value] for value in values.tolist()])])
            return sums[np.searchsorted(values, bounds, side="right")].astype(np.int64)
        ranks = np.array([self.sketch.get_rank(float(bound), True) for bound in bounds])  # noqa: FBT003 - datasketches'
        return np.rint(ranks * self.sketch.n).astype(np.int64)

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        """Return the least value that each share of the values is at most; none if there are no values."""
        if not self.count:
            return []
        if self.counts is None:
            return [float(value) for value in self.sketch.get_quantiles(list(ranks), True)]  # noqa: FBT003
        values = sorted(self.counts)
        sums = np.cumsum([self.counts[value] for value in values])
        places = np.searchsorted(sums, np.asarray(ranks) * sums[-1] - 1e-9)
        return [values[min(int(place), len(values) - 1)] for place in places]

    def extremes(self) -> tuple[float, float] | None:
        """Return the smallest and the greatest value; None if there are no values."""
        if not self.count:
            return None
        if self.counts is not None:
            return min(self.counts), max(self.counts)
        return float(self.sketch.get_min_value()), float(self.sketch.get_max_value())

    def pour_into(self, sketch: Any) -> None:
        """Add the values to a sketch."""
        if self.counts is None:
            sketch.merge(self.sketch)
        else:
            values = sorted(self.counts)
            sketch.update(np.repeat(np.array(values, float), [self.counts[value] for value in values]))

    def packed(self) -> tuple[Any, ...]:
        """Return kind, nulls and content, as msgpack can hold them."""
        if self.counts is None:
            return ("k", self.nulls, self.sketch.serialize())
        values = sorted(self.counts)
        return ("n", self.nulls, values, [self.counts[value] for value in values])


class Categories:
    """Values of a variable of texts.

    Args:
        nulls: how many were missing.
        counts: how often each came, of at most `CATEGORIES_MAX`.
        others: how many more values there were, of rarer ones.
    """

    def __init__(self, nulls: int = 0, counts: Mapping[str, int] | None = None, others: int = 0) -> None:
        ranked = sorted((counts or {}).items(), key=lambda item: (-item[1], item[0]))
        self.nulls = nulls
        self.counts = dict(ranked[:CATEGORIES_MAX])
        self.others = others + sum(count for _, count in ranked[CATEGORIES_MAX:])

    @classmethod
    def of(cls, values: Iterable[str | None]) -> "Categories":
        """Profile texts; None is missing."""
        counts = Counter(values)
        nulls = counts.pop(None, 0)
        return cls(nulls, {str(value): count for value, count in counts.items()})

    @property
    def count(self) -> int:
        """How many values there are, missing ones not counted."""
        return sum(self.counts.values()) + self.others

    def merged(self, other: "Categories") -> "Categories":
        """Return the profile of the values of both."""
        counts = Counter(self.counts) + Counter(other.counts)
        return Categories(self.nulls + other.nulls, counts, self.others + other.others)

    def packed(self) -> tuple[Any, ...]:
        """Return kind, nulls and content, as msgpack can hold them."""
        return ("c", self.nulls, list(self.counts), list(self.counts.values()), self.others)


class Profile:
    """Variables of one set of rows.

    Args:
        rows: how many rows.
        variables: by name; one may be left out of some sets of rows.
    """

    def __init__(self, rows: int = 0, variables: "Mapping[str, Numbers | Categories] | None" = None) -> None:
        self.rows = rows
        self.variables: dict[str, Numbers | Categories] = dict(variables or {})

    def merged(self, other: "Profile") -> "Profile":
        """Return the profile of the rows of both.

        Raises:
            TypeError: a variable is of numbers in one and of texts in the other.
        """
        variables = {**self.variables, **other.variables}
        for name in self.variables.keys() & other.variables.keys():
            variables[name] = _merged(name, self.variables[name], other.variables[name])
        return Profile(self.rows + other.rows, variables)

    def to_bytes(self) -> bytes:
        """Return it as bytes, the same for the same profile."""
        packed = [(name, self.variables[name].packed()) for name in sorted(self.variables)]
        return zlib.compress(msgspec.msgpack.encode((self.rows, packed)))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Profile":
        """Return what `to_bytes` made bytes of."""
        rows, packed = msgspec.msgpack.decode(zlib.decompress(blob))
        return cls(rows, {name: _unpacked(*parts) for name, parts in packed})


def merged(profiles: Iterable[Profile]) -> Profile:
    """Return the profile of the rows of all."""
    total = Profile()
    for profile in profiles:
        total = total.merged(profile)
    return total


def _merged(name: str, first: Numbers | Categories, second: Numbers | Categories) -> Numbers | Categories:
    if isinstance(first, Numbers) and isinstance(second, Numbers):
        return first.merged(second)
    if isinstance(first, Categories) and isinstance(second, Categories):
        return first.merged(second)
    raise TypeError(f"{name} is of numbers in one profile and of texts in the other")


def _unpacked(kind: str, nulls: int, values: Any, *more: Any) -> Numbers | Categories:
    if kind == "k":
        return Numbers(nulls, sketch=kll_doubles_sketch.deserialize(values))
    counts, *others = more
    if kind == "n":
        return Numbers(nulls, dict(zip(values, counts, strict=True)))
    return Categories(nulls, dict(zip(values, counts, strict=True)), *others)
