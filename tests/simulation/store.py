"""Redis of one run: states and fences that share their fate, and a look at every write."""

from collections.abc import Callable, Mapping

from feature_repo.fence import Fence, FenceMove, Moved, PartitionStatus
from feature_repo.states import StoredState
from features.state import read_trailer
from features.versioning import WriteOutcome
from streams.ports import TopicPartition
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.simulation.promises import Promise, Truth

Violate = Callable[[Promise, str], None]
Copy = tuple[dict[tuple[str, str], StoredState], dict[str, dict[int, Fence]]]


class States(InMemoryStates):
    """States, each write of which must be right at once.

    Attributes:
        emptied: partitions that are told REBUILDING: states in them may lack what was before, until a rebuild.
        ever_emptied: the same, also of those that went back to an older whole copy since.
    """

    def __init__(self, truth: Truth, partition_of: Callable[[str, str], TopicPartition], violate: Violate) -> None:
        super().__init__()
        self._truth = truth
        self._partition_of = partition_of
        self._violate = violate
        self.emptied: set[TopicPartition] = set()
        self.ever_emptied: set[TopicPartition] = set()

    def _write(self, topic: str, user: str, state: bytes, servable_ms: int) -> WriteOutcome | None:
        before = self.rows.get((topic, user))
        outcome = super()._write(topic, user, state, servable_ms)
        if outcome is not WriteOutcome.WRITTEN:
            return outcome
        new = read_trailer(state)
        if before is not None:
            old = read_trailer(before.state)
            if (new.generation, new.version) <= (old.generation, old.version):
                self._violate(Promise.FORWARD, f"{topic} {user}: {old} was replaced by {new}")
        if self._partition_of(topic, user) not in self.emptied and not self._truth.is_right(topic, user, state):
            self._violate(Promise.STATES, f"{topic} {user}: what was stored as {new} is not the fold of its log")
        return outcome


class Fences(InMemoryFences):
    """Fences, below which all must be in the states."""

    def __init__(self, states: States, truth: Truth, violate: Violate) -> None:
        super().__init__()
        self._states = states
        self._truth = truth
        self._violate = violate

    async def advance(self, topic: str, partition: int, fence: Fence) -> None:
        """Move a fence forward, or put one in place."""
        held = self.read_blocking(topic).get(partition)
        await super().advance(topic, partition, fence)
        self._placed(TopicPartition(topic, partition), held, fence)

    async def place(self, topic: str, partition: int, fence: Fence) -> None:
        """Put a fence where there is none."""
        held = self.read_blocking(topic).get(partition)
        await super().place(topic, partition, fence)
        self._placed(TopicPartition(topic, partition), held, fence)

    def _placed(self, tp: TopicPartition, held: Fence | None, fence: Fence) -> None:
        if held is None and fence.status is PartitionStatus.REBUILDING:
            self._states.emptied.add(tp)
            self._states.ever_emptied.add(tp)
        elif held is None and fence.next_offset > 0:
            self._violate(Promise.TOLD, f"{tp.topic}-{tp.partition} has lost its states, and gets {fence}")
        self._look(tp, 0 if held is None else held.next_offset)

    async def move(self, topic: str, moves: Mapping[int, FenceMove]) -> Moved:
        """Move fences from where they must stand."""
        before = {partition: self._reached(topic, partition) for partition in moves}
        halted = {number for number, fence in self.read_blocking(topic).items() if fence.is_halted}
        moved = await super().move(topic, moves)
        for number in halted & moves.keys():
            if self._reached(topic, number) != before[number]:
                self._violate(Promise.HALTS, f"the fence of {topic}-{number} moves while it is halted")
        for partition, reached in before.items():
            self._look(TopicPartition(topic, partition), reached)
        return moved

    def reached(self, tp: TopicPartition) -> int:
        """Return where a fence stands."""
        return self._reached(*tp)

    def _reached(self, topic: str, partition: int) -> int:
        fence = self.read_blocking(topic).get(partition)
        return 0 if fence is None else fence.next_offset

    def _look(self, tp: TopicPartition, before: int) -> None:
        fence = self.read_blocking(tp.topic).get(tp.partition)
        if fence is None or fence.status is not PartitionStatus.LIVE:
            return
        for user, offset in self._truth.sure_events(tp, before, fence.next_offset):
            stored = self._states.rows.get((tp.topic, user))
            if stored is None or read_trailer(stored.state).version <= offset:
                self._violate(Promise.FENCES, f"{tp.topic}-{tp.partition}: {fence} but {user} lacks offset {offset}")
                return


class Store:
    """Both, with copies of them."""

    def __init__(
        self,
        truth: Truth,
        partition_of: Callable[[str, str], TopicPartition],
        violate: Violate,
    ) -> None:
        self.states = States(truth, partition_of, violate)
        self.fences = Fences(self.states, truth, violate)
        self._partition_of = partition_of
        self.was_lost = False

    def copy(self) -> Copy:
        """Return a copy of everything, of one instant."""
        return dict(self.states.rows), {topic: dict(fences) for topic, fences in self.fences._fences.items()}

    def may_lose(self, copy: Copy) -> bool:
        """Tell whether a loss can be noticed: nothing was pushed past a fence that stays where it is."""
        _, fences = copy
        for (topic, user), stored in self.states.rows.items():
            tp = self._partition_of(topic, user)
            reached = self.fences.reached(tp)
            copied = fences.get(topic, {}).get(tp.partition)
            unfenced = read_trailer(stored.state).version > reached
            if unfenced and copied is not None and copied.next_offset >= reached:
                return False
        return True

    def lose(self, copy: Copy) -> None:
        """Become that copy."""
        rows, fences = copy
        self.was_lost = True
        self.states.rows = dict(rows)
        self.fences._fences = {topic: dict(held) for topic, held in fences.items()}
        self.states.emptied = {
            TopicPartition(topic, partition)
            for topic, held in fences.items()
            for partition, fence in held.items()
            if fence.status is PartitionStatus.REBUILDING
        }
