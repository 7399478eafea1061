"""Which state wins: the compare-and-set of the online store, as a pure function.

A state carries its generation, the version it was built from and its own version. Comparing versions alone would lose
events: when a partition moves A -> B -> A, worker A's stale cache builds a *greater* version that lacks what B applied.
So a state may replace only the very state that it was built from. A repair replaces what it was not built from, so it
is built from nothing: it holds the whole log up to its version. A state that a stale cache built on an *earlier* repair
has a greater generation than what an emptied store was given since, but it was built from something, and is refused.

| stored                                                      | outcome                                     |
|-------------------------------------------------------------|---------------------------------------------|
| none, and the new one was built from none                   | written                                     |
| same generation, and the version that it was built from     | written                                     |
| same generation, version >= the new one                     | already included: nothing to do             |
| smaller generation, version <=, and the new one was built   | written                                     |
| from none: a repair                                         |                                             |
| anything else                                               | conflict: load, apply again, push again     |
"""

from enum import StrEnum

from features.errors import VersionConflictError
from features.state import Trailer

__all__ = ["VersionConflictError", "WriteOutcome", "decide"]


class WriteOutcome(StrEnum):
    """What becomes of one state that is offered to the online store."""

    WRITTEN = "written"
    ALREADY_INCLUDED = "already_included"
    CONFLICT = "conflict"


def decide(stored: Trailer | None, new: Trailer) -> WriteOutcome:
    """Decide on one row, by the table above. The script that runs inside Redis is held to this function by a test.

    Args:
        stored: trailer of what the store holds, None when it holds nothing.
        new: trailer of what is to be written.
    """
    if stored is None:
        return WriteOutcome.WRITTEN if new.built_from == 0 else WriteOutcome.CONFLICT
    if stored.generation == new.generation:
        if stored.version == new.built_from:
            return WriteOutcome.WRITTEN
        return WriteOutcome.ALREADY_INCLUDED if stored.version >= new.version else WriteOutcome.CONFLICT
    is_repair = stored.generation < new.generation and new.built_from == 0
    return WriteOutcome.WRITTEN if is_repair and stored.version <= new.version else WriteOutcome.CONFLICT
