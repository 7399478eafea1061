"""Do users still click what is recommended to them? ADWIN over click-through, in the order of the answers.

ADWIN (Bifet and Gavalda, 2007) keeps a window that it shortens when its older and its newer part differ by more than
chance explains; so it needs no threshold of click-through, and notices slow falls as well as sudden ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from river.drift import ADWIN


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
        after: click-through of the part that ADWIN kept.
        impressions: how many it kept.
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
    found = []
    for impression in impressions:
        before = detector.estimation
        detector.update(float(impression.is_clicked))
        after = detector.estimation
        if detector.drift_detected and after < before * (1 - least):
            found.append(Fall(impression.at_ms, before, after, int(detector.width)))
    return found
