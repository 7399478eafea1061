"""The target that writes nothing: it folds and counts, to measure, and to see what a range holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from features.apply import fold
from features.state import Trailer, read_trailer, with_trailer
from replay.targets import Chunk
from schemas.event import Event
from sinks.lake_reads import PartitionLog


class _Saved(msgspec.Struct, array_like=True):
    """What a lane goes on from; states by the name of the partition and the user."""

    counts: dict[str, int]
    users: list[str]
    states: dict[str, dict[str, bytes]]


Log = list[tuple[int, Event]]

EVENTS_AT_ONCE: Final = 65_536

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Saved)


class FoldTarget:
    """Folds the events of a lane into states, in the order of the logs; implements `replay.targets.Target`.

    Memory grows with the users. An event before the range changes states and is not counted. Events gather until there
    are many, because a state is decoded and encoded once for all of its user's: the counts lag behind by so many.
    """

    def __init__(self, lane: Sequence[PartitionLog]) -> None:
        self._states: dict[str, dict[str, bytes]] = {_name(log): {} for log in lane}
        self._warm_up: dict[str, dict[str, Log]] = {_name(log): {} for log in lane}
        self._gathered: dict[str, dict[str, Log]] = {_name(log): {} for log in lane}
        self._gathered_count = 0
        self._counts: Counter[str] = Counter()
        self._users: set[str] = set()

    def restore(self, saved: bytes) -> None:
        """Go on from what `save` returned."""
        found = _DECODER.decode(saved)
        self._counts, self._users, self._states = Counter(found.counts), set(found.users), found.states

    def write(self, chunk: Chunk) -> None:
        """Take the events of a chunk."""
        for part in chunk.parts:
            name, piece = _name(part.log), part.piece
            entries = list(zip(piece.offsets, piece.events, strict=True))
            _gather(self._warm_up[name], entries[: part.warm_up_count])
            _gather(self._gathered[name], entries[part.warm_up_count :])
            self._gathered_count += len(entries)
        if self._gathered_count >= EVENTS_AT_ONCE:
            self._fold()

    def save(self) -> bytes:
        """Return states and counts."""
        self._fold()
        return _ENCODER.encode(_Saved(dict(self._counts), list(self._users), self._states))

    def counts(self) -> Mapping[str, int]:
        """Return how many events of the range were applied, duplicate and late, and of how many users they are."""
        return {"applied": 0, "duplicate": 0, "late": 0, **self._counts, "users": len(self._users)}

    def states(self, log: PartitionLog) -> Mapping[str, bytes]:
        """Return the states of a partition's users, built from nothing."""
        self._fold()
        return {
            user_id: with_trailer(state, Trailer(0, 0, read_trailer(state).version))
            for user_id, state in self._states[_name(log)].items()
        }

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _fold(self) -> None:
        for name, states in self._states.items():
            _fold(states, self._warm_up[name])  # the log of a partition has it before the range
            self._users.update(self._gathered[name])
            self._counts.update(_fold(states, self._gathered[name]))
        self._gathered_count = 0


def _gather(logs: dict[str, Log], entries: Log) -> None:
    for entry in entries:
        user_id = entry[1].user_id
        if user_id in logs:
            logs[user_id].append(entry)
        else:
            logs[user_id] = [entry]


def _fold(states: dict[str, bytes], logs: dict[str, Log]) -> Counter[str]:
    """Fold what was gathered, and drop it; return what became of it."""
    outcomes: Counter[str] = Counter()
    for user_id, log in logs.items():
        folded = fold(states.get(user_id), log)
        states[user_id] = folded.state
        outcomes.update(folded.outcomes)
    logs.clear()
    return outcomes


def _name(log: PartitionLog) -> str:
    return f"{log.topic}-{log.partition}"
