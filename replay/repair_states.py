"""What a repair offers in place of what is stored."""

from typing import Protocol

from feature_repo.fence import Fence
from feature_repo.states import StoredState
from features.state import TRAILER_BYTES, Trailer, read_trailer, with_trailer
from sinks.repairs import RepairNote


class RepairFences(Protocol):
    """How far live has come, and the brake for users that never pause."""

    async def read(self, topic: str) -> dict[int, Fence]:
        """Return the fences of a topic's partitions."""
        ...

    async def hold(self, topic: str, partition: int, *, until_ms: int) -> None:
        """Ask the worker to push nothing to a partition until then; 0 to let it go on."""
        ...


def note_of(user_id: str, state: bytes) -> RepairNote:
    """Return the note of a state that is about to be offered."""
    generation, _, version = read_trailer(state)
    return RepairNote(user_id, generation, version)


def is_same(folded: bytes, stored: bytes) -> bool:
    """Tell whether two states hold the same of the same log, however they came about."""
    return (
        folded[:-TRAILER_BYTES] == stored[:-TRAILER_BYTES]
        and read_trailer(folded).version == read_trailer(stored).version
    )


def repair_of(folded: bytes, found: StoredState | None) -> bytes:
    """Return a folded state as what is to replace the stored one: built from nothing, one generation above it."""
    generation = 1 + (read_trailer(found.state).generation if found is not None else 0)
    return with_trailer(folded, Trailer(generation, 0, read_trailer(folded).version))
