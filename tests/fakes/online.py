"""The online store and its fences in memory, for tests of those who use them.

`tests/contract/` runs the same suite on these and on Redis through Feast.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from feature_repo.errors import OnlineStoreError, StateBytesError
from feature_repo.fence import Fence, FenceMove, Moved, PartitionStatus
from feature_repo.outcomes import report_outcomes
from feature_repo.replacing import Replacement
from feature_repo.states import StoredState
from features.catalog import VIEWS
from features.state import TRAILER_BYTES, read_trailer
from features.versioning import VersionConflictError, WriteOutcome, decide


class InMemoryStates:
    """States by topic and user: what `StateStore.load` and a push through Feast do together."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], StoredState] = {}

    async def load(self, topic: str, user_ids: Sequence[str]) -> dict[str, StoredState]:
        """Return what is stored; users without a state are absent."""
        found = {user: self.rows[topic, user] for user in user_ids if (topic, user) in self.rows}
        unreadable = tuple(user for user, row in found.items() if len(row.state) < TRAILER_BYTES)
        if unreadable:
            raise StateBytesError(VIEWS[topic].view, unreadable, where="stored")
        return found

    async def push(self, topic: str, rows: Sequence[tuple[str, bytes]], servable_ms: int) -> None:
        """Write each state if it was built from the one that is stored."""
        view = VIEWS[topic].view
        short = tuple(user for user, state in rows if len(state) < TRAILER_BYTES)
        if short:
            raise StateBytesError(view, short, where="pushed")
        told = [(user, self._write(topic, user, state, servable_ms)) for user, state in rows]
        report_outcomes({user: outcome for user, outcome in told if outcome is not None})
        unreadable = tuple(user for user, outcome in told if outcome is None)
        if unreadable:
            raise StateBytesError(view, unreadable, where="stored")
        conflicts = tuple(dict.fromkeys(user for user, outcome in told if outcome is WriteOutcome.CONFLICT))
        if conflicts:
            raise VersionConflictError(conflicts)

    async def replace(self, topic: str, rows: Sequence[Replacement], servable_ms: int) -> frozenset[str]:
        """Replace states whatever their version, each only if it is the one that was read."""
        changed = set()
        for user_id, read, state in rows:
            held = self.rows.get((topic, user_id))
            if (held and held.state[-TRAILER_BYTES:]) != (read and read[-TRAILER_BYTES:]):
                changed.add(user_id)
            elif state is None:
                self.rows.pop((topic, user_id), None)
            else:
                self.rows[topic, user_id] = StoredState(state, servable_ms)
        return frozenset(changed)

    def users(self) -> Iterator[list[str]]:
        """Yield every user who has a state."""
        yield sorted({user_id for _, user_id in self.rows})

    def put(self, topic: str, user_id: str, stored: bytes) -> None:
        """Store bytes as they are, past all checks."""
        self.rows[topic, user_id] = StoredState(stored, 0)

    def _write(self, topic: str, user: str, state: bytes, servable_ms: int) -> WriteOutcome | None:
        stored = self.rows.get((topic, user))
        if stored is not None and len(stored.state) < TRAILER_BYTES:
            return None
        outcome = decide(None if stored is None else read_trailer(stored.state), read_trailer(state))
        if outcome is WriteOutcome.WRITTEN:
            self.rows[topic, user] = StoredState(state, servable_ms)
        return outcome


class InMemoryFences:
    """Fences by topic and partition."""

    def __init__(self) -> None:
        self._fences: dict[str, dict[int, Fence]] = {}

    async def read(self, topic: str) -> dict[int, Fence]:
        """Return the fences of a topic by partition."""
        return dict(self.read_blocking(topic))

    def read_blocking(self, topic: str) -> Mapping[int, Fence]:
        """Do what `read` does, for code without a loop."""
        return self._fences.get(topic, {})

    async def advance(self, topic: str, partition: int, fence: Fence) -> None:
        """Move a fence forward within its epoch, or put one in place."""
        held = self._fences.setdefault(topic, {}).get(partition)
        if held is None or held.epoch != fence.epoch:
            self._fences[topic][partition] = replace(fence, halted_since_ms=self._halted_since_ms(topic, held))
        elif fence.next_offset > held.next_offset:
            self._fences[topic][partition] = replace(held, next_offset=fence.next_offset)

    async def place(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence where there is none."""
        placed = replace(fence, halted_since_ms=self._halted_since_ms(topic, None))
        self._fences.setdefault(topic, {}).setdefault(partition, placed)

    def _halted_since_ms(self, topic: str, held: Fence | None) -> int:
        fences = self._fences.get(topic, {}).values() if held is None else (held,)
        return max((fence.halted_since_ms for fence in fences), default=0)

    async def move(self, topic: str, moves: Mapping[int, FenceMove]) -> Moved:
        """Move fences from where they must stand, unless they are halted; return those that did not."""
        held = self._fences.setdefault(topic, {})
        lost = frozenset(partition for partition, move in moves.items() if move.is_lost(held.get(partition)))
        halted = frozenset(partition for partition in moves.keys() - lost if held[partition].is_halted)
        for partition, move in moves.items():
            if partition not in lost | halted and move.next_offset > held[partition].next_offset:
                held[partition] = replace(held[partition], next_offset=move.next_offset)
        return Moved(lost, halted)

    async def halt(self, topic: str, since_ms: int) -> int:
        """Halt all partitions of a topic that have a fence."""
        return self.halt_blocking(topic, since_ms)

    def halt_blocking(self, topic: str, since_ms: int) -> int:
        """Do what `halt` does, for code without a loop."""
        free = [number for number, fence in self._fences.get(topic, {}).items() if not fence.is_halted]
        for number in free:
            self._fences[topic][number] = replace(self._fences[topic][number], halted_since_ms=since_ms)
        return len(free)

    async def free(self, topic: str) -> int:
        """End the halt of a topic."""
        return self.free_blocking(topic)

    def free_blocking(self, topic: str) -> int:
        """Do what `free` does, for code without a loop."""
        halted = [number for number, fence in self._fences.get(topic, {}).items() if fence.is_halted]
        for number in halted:
            self._fences[topic][number] = replace(self._fences[topic][number], halted_since_ms=0)
        return len(halted)

    async def set_status(self, topic: str, partition: int, status: PartitionStatus, *, since_ms: int) -> None:
        """Change the status of a fence."""
        held = self._fences.get(topic, {}).get(partition)
        if held is None:
            raise OnlineStoreError(f"Partition {partition} of {topic} has no fence whose status could be set.")
        if held.status is not status:
            self._fences[topic][partition] = replace(held, status=status, since_ms=since_ms)

    async def hold(self, topic: str, partition: int, *, until_ms: int) -> None:
        """Ask the worker to push nothing to a partition until then."""
        held = self._fences.get(topic, {}).get(partition)
        if held is not None:
            self._fences[topic][partition] = replace(held, hold_until_ms=until_ms)

    async def replace(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence in place of whatever is there; a halt goes on."""
        held = self._fences.setdefault(topic, {}).get(partition)
        self._fences[topic][partition] = replace(fence, halted_since_ms=self._halted_since_ms(topic, held))

    async def succeed(self, topic: str, from_epoch: str, fences: Mapping[int, Fence]) -> bool:
        """Put the fences of a new log in place of those of the former one."""
        held = {fence.epoch for fence in self._fences.get(topic, {}).values()}
        to_epoch = next(iter(fences.values())).epoch
        if held - {from_epoch, to_epoch}:
            return False
        if held != {to_epoch}:
            since_ms = self._halted_since_ms(topic, None)
            self._fences[topic] = {number: replace(fence, halted_since_ms=since_ms) for number, fence in fences.items()}
        return True

    def lose(self) -> None:
        """Forget all, as an emptied Redis does."""
        self._fences.clear()
