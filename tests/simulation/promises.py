"""What a run must keep, and what must be true of it according to its load alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from features.apply import fold
from features.state import TRAILER_BYTES, read_trailer
from streams.ports import TopicPartition
from tests.simulation.load import Fate, Load, Produced


class Promise(StrEnum):
    """Each promise of docs/explanation/guarantees.md that the simulation looks at."""

    ACCOUNTED = "every record is in raw_events or in dead_letters"
    ONCE = "the lake holds each position once, as it was read"
    STATES = "states equal the fold of the log"
    FEATURES = "features equal the oracle's"
    COMMITS = "a commit never passes what the sinks hold"
    FENCES = "a fence never passes the states"
    FORWARD = "no older state replaces a newer one"
    HISTORY = "feature_log holds each state that stayed, once"
    LOADED = "a state is built only on what was loaded since its partition was assigned"
    COUNTS = "the outcomes add up to what was read"
    TOLD = "readers of lost states are told REBUILDING"
    HALTS = "a halted topic gets raw rows and nothing else, and no other waits for it"
    PARITY = "live, a replay of the log and a replay of the lake give the same"
    QUIET = "the run comes to rest, everything committed"
    EXPECTED = "nothing fails in an unexpected way"


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and how."""

    promise: Promise
    detail: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}"


class Truth:
    """Each state of each user, folded event by event from the load."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.uncertain = load.uncertain_users()
        self.final: dict[tuple[str, str], bytes] = {}
        self._bodies: dict[tuple[str, str, int], bytes] = {}
        for (topic, user), log in load.by_user().items():
            state: bytes | None = None
            for entry in log:
                state = fold(state, [entry]).state
                self._bodies[topic, user, entry[0] + 1] = state[:-TRAILER_BYTES]
                self.final[topic, user] = state
        self.by_partition: dict[TopicPartition, list[Produced]] = {tp: [] for tp in load.partitions}
        for made in load.produced:
            self.by_partition[made.tp].append(made)

    def is_right(self, topic: str, user: str, state: bytes) -> bool:
        """Tell whether a state is the fold of the user's log up to its version; unknown for uncertain users: yes."""
        if (topic, user) in self.uncertain:
            return True
        return self._bodies.get((topic, user, read_trailer(state).version)) == state[:-TRAILER_BYTES]

    def between(self, tp: TopicPartition, first: int, end: int) -> Iterable[Produced]:
        """Return the records of a stretch of a partition."""
        return (made for made in self.by_partition[tp] if first <= made.record.offset < end)

    def sure_events(self, tp: TopicPartition, first: int, end: int) -> Iterable[tuple[str, int]]:
        """Return user and offset of the events of a stretch whose users are certain."""
        for made in self.between(tp, first, end):
            if (
                made.event is not None
                and made.fate is Fate.EVENT
                and (made.record.topic, made.event.user_id) not in self.uncertain
            ):
                yield made.event.user_id, made.record.offset
