"""The features of one user, from what was recorded and from what it becomes: at the end of each day of the log."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from features.apply import fold
from features.catalog import FEATURES
from features.finalize import finalize
from features.state import TopicState, decode
from schemas.event import Event

DAY_MS: Final = 86_400_000

Pair = tuple[int, Event, Event | None]


class Example(NamedTuple):
    """One value that changes.

    Attributes:
        as_of_ms: the instant that both hold for: the user's newest event then.
    """

    user_id: str
    as_of_ms: int
    old: Any
    new: Any


Compared = Mapping[str, Example]


def compare_user(topics: Mapping[str, Sequence[Pair]]) -> Compared:
    """Return the features that change, each with the first example.

    Args:
        topics: of each topic, in the order of its log: append time, the event as it is, and as it becomes; None where
            it is refused.
    """
    days = sorted({append_ms // DAY_MS for pairs in topics.values() for append_ms, _, _ in pairs})
    folds = {topic: (_Fold(), _Fold()) for topic in topics}
    found: dict[str, Example] = {}
    for day in days:
        user_id = ""
        for topic, pairs in topics.items():
            today = [(old, new) for append_ms, old, new in pairs if append_ms // DAY_MS == day]
            was, becomes = folds[topic]
            was.take([old for old, _ in today])
            becomes.take([new for _, new in today if new is not None])
            user_id = today[0][0].user_id if today else user_id
        before = finalize({topic: was.state for topic, (was, _) in folds.items()}, None)
        as_of_ms: Any = before["as_of_ms"]
        after = finalize({topic: becomes.state for topic, (_, becomes) in folds.items()}, as_of_ms)
        for feature in FEATURES:
            old, new = before[feature.name], after[feature.name]
            if old != new:
                found.setdefault(feature.name, Example(user_id, as_of_ms, old, new))
    return found


class _Fold:
    """A fold of one topic; places stand for offsets."""

    def __init__(self) -> None:
        self._blob: bytes | None = None
        self._next = 0

    def take(self, events: Sequence[Event]) -> None:
        if events:
            self._blob = fold(self._blob, [(self._next + n, event) for n, event in enumerate(events)]).state
            self._next += len(events)

    @property
    def state(self) -> TopicState | None:
        return None if self._blob is None else decode(self._blob)
