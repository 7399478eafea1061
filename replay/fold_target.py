"""The target that writes nothing: it folds and counts, to measure, and to see what a range holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from features.apply import fold
from features.state import Trailer, read_trailer, with_trailer
from replay.targets import Chunk, Part
from schemas.event import Event
from sinks.lake_reads import PartitionLog


class _Saved(msgspec.Struct, array_like=True):
    """What a lane goes on from; states by the name of the partition and the user."""

    counts: dict[str, int]
    users: list[str]
    states: dict[str, dict[str, bytes]]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Saved)


class FoldTarget:
    """Folds the events of a lane into states, in the order of the logs; implements `replay.targets.Target`.

    Memory grows with the users. An event before the range changes states and is not counted.
    """

    def __init__(self, lane: Sequence[PartitionLog]) -> None:
        self._states: dict[str, dict[str, bytes]] = {_name(log): {} for log in lane}
        self._counts: Counter[str] = Counter()
        self._users: set[str] = set()

    def restore(self, saved: bytes) -> None:
        """Go on from what `save` returned."""
        found = _DECODER.decode(saved)
        self._counts, self._users, self._states = Counter(found.counts), set(found.users), found.states

    def write(self, chunk: Chunk) -> None:
        """Fold the events of a chunk."""
        for part in chunk.parts:
            states = self._states[_name(part.log)]
            _fold(states, part, 0, part.warm_up_count)
            counts = _fold(states, part, part.warm_up_count, len(part.piece.events))
            self._counts.update(counts)
            self._users.update(event.user_id for event in part.piece.events[part.warm_up_count :])

    def save(self) -> bytes:
        """Return states and counts."""
        return _ENCODER.encode(_Saved(dict(self._counts), list(self._users), self._states))

    def counts(self) -> Mapping[str, int]:
        """Return how many events of the range were applied, duplicate and late, and of how many users they are."""
        return {"applied": 0, "duplicate": 0, "late": 0, **self._counts, "users": len(self._users)}

    def states(self, log: PartitionLog) -> Mapping[str, bytes]:
        """Return the states of a partition's users, built from nothing."""
        return {
            user_id: with_trailer(state, Trailer(0, 0, read_trailer(state).version))
            for user_id, state in self._states[_name(log)].items()
        }

    def close(self) -> None:
        """Do nothing: nothing is open."""


def _fold(states: dict[str, bytes], part: Part, first: int, end: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    logs: dict[str, list[tuple[int, Event]]] = {}
    piece = part.piece
    for entry in zip(piece.offsets[first:end], piece.events[first:end], strict=True):
        logs.setdefault(entry[1].user_id, []).append(entry)
    for user_id, log in logs.items():
        folded = fold(states.get(user_id), log)
        states[user_id] = folded.state
        outcomes.update(folded.outcomes)
    return outcomes


def _name(log: PartitionLog) -> str:
    return f"{log.topic}-{log.partition}"
