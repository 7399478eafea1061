"""Do users still click what is recommended to them? ADWIN over click-through, in the order of the answers.

ADWIN (Bifet and Gavalda, 2007) looks for a place where what is before differs from what is after by more than chance
explains, so it needs no threshold of click-through. At the moment at which it finds one, hardly anything is known of
what is after, and river's begins anew. So a change is measured on what comes next, and small ones are added up: a slow
fall is one, too.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from river.drift import ADWIN

MEASURED_MIN: Final = 100
SURE: Final = 3.0  # standard errors


class Impression(NamedTuple):
    """An answer that a user was shown.

    Attributes:
        at_ms: for which instant it was.
        is_clicked: whether one of its products was clicked in time.
    """

    at_ms: int
    is_clicked: bool


@dataclass(frozen=True, slots=True)
class Fall:
    """A fall of click-through.

    Attributes:
        at_ms: of the impression at which it was noticed.
        before: click-through before.
        after: click-through since then, as far as it is known.
        impressions: that this is known from.
    """

    at_ms: int
    before: float
    after: float
    impressions: int


def falls(impressions: Iterable[Impression], *, delta: float, least: float) -> list[Fall]:
    """Return each fall of click-through, in order.

    Args:
        impressions: in the order of their instants.
        delta: of ADWIN, the chance of a false alarm that it allows itself.
        least: relative loss below which a fall does not matter.
    """
    detector = ADWIN(delta=delta)
    found: list[Fall] = []
    level: float | None = None  # before the first change that was not told yet
    is_measured = True
    for impression in impressions:
        before = float(detector.estimation)
        detector.update(float(impression.is_clicked))
        if detector.drift_detected:
            level, is_measured = before if level is None else level, False
            continue
        width = int(detector.width)
        if level is None or is_measured or width < MEASURED_MIN:
            continue
        after, error = float(detector.estimation), SURE * math.sqrt(level * (1 - level) / width)
        lowest = level * (1 - least)
        if after + error < lowest:
            found.append(Fall(impression.at_ms, level, after, width))
            level, is_measured = None, True
        elif after - error > lowest:
            is_measured = True
            level = None if after - error > level else level  # risen; else it may go on falling
    return found
