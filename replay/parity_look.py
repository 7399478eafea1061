"""One look of parity: some users in all ways, each as of the version that the online store held at the read."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from feature_repo.fence import Fence, PartitionStatus
from features.errors import StateError
from features.state import decode, read_trailer
from replay.parity_ports import UNREADABLE, Held, LiveUser, ParityPlan, ParityPorts
from replay.parity_report import LIVE, Gap
from replay.parity_ways import LAKE, Folded, LivePosition, fold_to_live
from replay.sources import EventSource
from schemas.partitioner import partition_of
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog

USERS_PER_READ: Final = 500
POLL_S: Final = 0.2

_EMPTY: Final = LiveUser({})


class Look:
    """What all ways hold of some users.

    Attributes:
        live: by user; those whom the online store was asked for.
        tombstones: who was erased when it was read.
    """

    def __init__(self, ports: ParityPorts, plan: ParityPlan) -> None:
        self._ports = ports
        self._plan = plan
        self.live: dict[str, LiveUser] = {}
        self._fences: dict[str, Mapping[int, Fence]] = {}
        self._positions: dict[PartitionLog, LivePosition] = {}
        self._folded: dict[PartitionLog, dict[str, Folded]] = {}
        self._logs: dict[str, dict[str, PartitionLog]] = {topic: {} for topic in plan.topics}
        self.tombstones = Tombstones()

    def read(self, user_ids: Sequence[str], *, everybody: bool) -> Iterator[str]:
        """Read users in all ways; yield what is being done, in words.

        Args:
            everybody: take in those, too, of whom only a replay knows.
        """
        live, topics = self._ports.live, self._plan.topics
        # before the states: what lies below a fence is in them for sure
        self._fences = {topic: live.fences(topic) for topic in topics}
        for first in range(0, len(user_ids), USERS_PER_READ):
            yield f"live: {first:,} of {len(user_ids):,} users"
            self.live.update(live.read(user_ids[first : first + USERS_PER_READ], self._plan.instants_of))
        self.tombstones = self._ports.tombstones()
        after = {topic: live.fences(topic) for topic in topics}
        for log in self._logs_of(None if everybody else user_ids):
            fence = after[log.topic].get(log.partition)
            needed = fence.next_offset if fence is not None and fence.epoch == log.log_epoch else 0
            for source in self._ports.sources:
                yield f"{source.name}: {log.topic}-{log.partition}"
                self._await(source, log, needed)
            self._fold(log, None if everybody else user_ids)

    def users(self) -> list[str]:
        """Return everybody of whom any way knows."""
        found = set(self.live)
        for logs in self._logs.values():
            found.update(logs)
        return sorted(found)

    def held(self, topic: str, user_id: str) -> dict[str, Held]:
        """Return what each way holds of a user."""
        log = self.log_of(topic, user_id)
        held = {LIVE: self._live(topic, user_id, log)}
        for source in self._ports.sources:
            held[source.name] = self._replayed(source.name, topic, user_id, log)
        return held

    def log_of(self, topic: str, user_id: str) -> PartitionLog | None:
        """Return the partition of a user; None where neither the id nor any event tells it."""
        found = self._logs[topic].get(user_id)
        if found is None and not self._ports.has_pseudonyms:
            info = self._plan.topics[topic]
            return PartitionLog(info.log_epoch, topic, partition_of(user_id.encode(), info.partition_count))
        return found

    def begins(self, way: str, log: PartitionLog) -> str:
        """Tell where a way's part of a partition begins."""
        begins = self._folded[log][way].begins
        return "it holds nothing" if begins is None else f"from offset {begins.first_offset} on"

    def begins_at(self, way: str, log: PartitionLog) -> int:
        """Return the first offset that a way holds of a partition; 0 where it holds nothing."""
        begins = self._folded[log][way].begins
        return 0 if begins is None else begins.first_offset

    def applied_to(self, log: PartitionLog, user_id: str) -> int:
        """Return the offset before which live had applied the events of a user."""
        return self._positions[log].of(user_id)

    def _logs_of(self, user_ids: Sequence[str] | None) -> list[PartitionLog]:
        """Return the partitions that users may be in; None for everybody."""
        if user_ids is None or self._ports.has_pseudonyms:
            return [log for topic in self._plan.topics for log in self._plan.logs(topic)]
        found = {self.log_of(topic, user_id) for topic in self._plan.topics for user_id in user_ids}
        return sorted(log for log in found if log is not None)

    def _await(self, source: EventSource, log: PartitionLog, needed: int) -> None:
        """Wait until a source has got what live has; not longer than it gets anything."""
        ports = self._ports
        position = source.position(log)
        moved_s = ports.monotonic_s()
        while position < needed and ports.monotonic_s() - moved_s < self._plan.wait_s:
            ports.sleep(POLL_S)
            found = source.position(log)
            if found > position:
                position, moved_s = found, ports.monotonic_s()

    def _fold(self, log: PartitionLog, users: Collection[str] | None) -> None:
        sources = self._ports.sources
        live = self._positions[log] = self._live_position(log)
        left_out = self._ports.letters_only(log)
        self._folded[log] = {}
        for source in sources:
            folded = fold_to_live(
                source,
                log,
                live,
                users=users,
                tombstones=self.tombstones,
                left_out=() if source.name == LAKE else left_out,
            )
            self._folded[log][source.name] = folded
            self._logs[log.topic].update(dict.fromkeys(folded.states, log))

    def _live_position(self, log: PartitionLog) -> LivePosition:
        if self._state_of_fence(log) in {Gap.LOST, Gap.OTHER_LOG}:
            # live says nothing of this log: the replays are compared as far as all of them reach
            return LivePosition({}, min(source.position(log) for source in self._ports.sources))
        versions = {
            user_id: read_trailer(user.states[log.topic]).version
            for user_id, user in self.live.items()
            if log.topic in user.states and not user.problem
        }
        return LivePosition(versions, self._fences[log.topic][log.partition].next_offset)

    def _state_of_fence(self, log: PartitionLog) -> Gap | None:
        fence = self._fences[log.topic].get(log.partition)
        if fence is None:
            return Gap.LOST
        if fence.epoch != log.log_epoch:
            return Gap.OTHER_LOG
        return Gap.REBUILDING if fence.status is PartitionStatus.REBUILDING else None

    def _live(self, topic: str, user_id: str, log: PartitionLog | None) -> Held:
        user = self.live.get(user_id, _EMPTY)
        if user.problem:
            return Held(UNREADABLE)
        state = user.states.get(topic)
        if state is not None and decode(state).partial:
            return Held(None, Gap.REBUILDING)
        gap = None if log is None else self._state_of_fence(log)
        if gap is Gap.REBUILDING:
            return Held(state, gap if state is None else None)
        return Held(state, gap)

    def _replayed(self, way: str, topic: str, user_id: str, log: PartitionLog | None) -> Held:
        if log is None:
            is_whole = all(self._folded[other][way].is_whole for other in self._plan.logs(topic))
            return Held(None, None if is_whole else Gap.TOO_SHORT)
        folded = self._folded[log][way]
        if self._positions[log].of(user_id) > folded.end_offset:
            return Held(None, Gap.BEHIND)
        state = folded.states.get(user_id)
        is_enough = folded.is_whole or self._reaches(folded, topic, user_id)
        return Held(state, None if is_enough else Gap.TOO_SHORT)

    def _reaches(self, folded: Folded, topic: str, user_id: str) -> bool:
        """Tell whether a way that does not reach back to the beginning holds all that a user's state is made of."""
        others = [other for name, other in self._folded[folded.log].items() if name != folded.way]
        for other in others:
            if other.is_whole and folded.begins is not None:
                first = other.first_offsets.get(user_id)
                if first is None or first >= folded.begins.first_offset:
                    return True
        states = [self.live.get(user_id, _EMPTY).states.get(topic), *(other.states.get(user_id) for other in others)]
        try:
            return any(folded.covers(state, self._ports.tolerance_ms) for state in states if state is not None)
        except StateError:
            return False
