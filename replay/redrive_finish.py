"""The end of a redrive: what came back is late for live, so the users it belongs to are built anew from the lake.

First a worker must have read what was published; then each affected user is repaired in event-time order. What was
done is noted partition by partition, so a run that was cut short is finished by the next one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from replay.errors import NotReadYetError
from schemas.topics import TopicInfo
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake
from sinks.letter_reads import LogPosition, held_positions, users_at
from sinks.redrives import Attempt, RedriveLog
from sinks.tables import DEAD_LETTERS
from streams.ports import Clock, TopicPartition

POLL_S = 0.2


class Rebuild(Protocol):
    """Builds the states of some users anew."""

    def __call__(self, log: PartitionLog, users: frozenset[str]) -> int:
        """Repair users in event-time order; return how many states changed. Blocking; may be repeated."""
        ...


@dataclass(slots=True)
class FinishReport:
    """What was done after publishing.

    Attributes:
        failed_again: records that became letters again.
        gone: records that are neither events nor letters: retention or an erasure took them, or their topic is gone.
        users: whose features were rebuilt, by topic.
        changed: how many of their states were not right before.
    """

    failed_again: int
    gone: int
    users: dict[str, int]
    changed: int

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "failed_again": self.failed_again,
            "gone": self.gone,
            "users_rebuilt": self.users,
            "states_changed": self.changed,
        }


class RedriveFinish:
    """Waits for the worker, then rebuilds.

    Args:
        lake: folder of the lake.
        topics: the event topics as they are now, by name.
        committed: how far the worker group has committed, by partition; None before its first commit.
        group_id: its name, for people.
        patience_s: how long to wait while nothing is committed.
        pause: waits for so many seconds.
        progress: told a line per step.
    """

    def __init__(
        self,
        lake: Lake,
        topics: Mapping[str, TopicInfo],
        committed: Callable[[], Mapping[TopicPartition, int | None]],
        rebuild: Rebuild,
        clock: Clock,
        *,
        group_id: str,
        patience_s: float,
        pause: Callable[[float], None],
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._lake = lake
        self._topics = topics
        self._committed = committed
        self._rebuild = rebuild
        self._clock = clock
        self._group_id = group_id
        self._patience_s = patience_s
        self._pause = pause
        self._progress = progress

    def run(self, log: RedriveLog) -> FinishReport:
        """Finish everything that was ever published and not finished; blocking. To be repeated after any failure.

        Raises:
            NotReadYetError: no worker reads on.
            RepairStuckError: the lake does not reach what the online store holds.
            BrokerUnavailableError, OnlineStoreError, LakeUnavailableError: a service does not answer.
        """
        current = {info.topic_id for info in self._topics.values()}
        left: dict[LogPosition, Attempt] = {}
        gone: list[Attempt] = []
        for attempt in log.attempts.values():
            if attempt.target is None or attempt.is_finished:
                continue
            if attempt.target_topic_id in current:
                left[attempt.target] = attempt
            else:
                gone.append(attempt)
        self._wait(left)
        users = users_at(self._lake, left)
        failed = held_positions(self._lake, DEAD_LETTERS, left.keys() - users.keys())
        lost = left.keys() - users.keys() - failed
        report = FinishReport(len(failed), len(lost) + len(gone), {}, 0)
        log.finish([*gone, *(left[target] for target in sorted(failed | lost))], self._clock.now_ms())
        by_partition: dict[tuple[str, int], list[LogPosition]] = {}
        for target in sorted(users):
            by_partition.setdefault((target.topic, target.partition), []).append(target)
        for (topic, partition), targets in by_partition.items():
            affected = frozenset(users[target] for target in targets)
            self._progress(f"rebuilding {len(affected):,} users of {topic}-{partition} from the lake")
            report.changed += self._rebuild(PartitionLog(self._topics[topic].log_epoch, topic, partition), affected)
            log.finish([left[target] for target in targets], self._clock.now_ms())
            report.users[topic] = report.users.get(topic, 0) + len(affected)
        return report

    def _wait(self, targets: Mapping[LogPosition, Attempt]) -> None:
        """Wait until the group has committed past each of these, so that the lake says what became of it."""
        wanted: dict[TopicPartition, int] = {}
        for target in targets:
            tp = TopicPartition(target.topic, target.partition)
            wanted[tp] = max(target.offset, wanted.get(tp, -1))
        seen: Mapping[TopicPartition, int | None] = {}
        moved_s = told_s = self._clock.monotonic_s()
        while wanted:
            everywhere = self._committed()
            wanted = {tp: offset for tp, offset in wanted.items() if (everywhere.get(tp) or 0) <= offset}
            committed = {tp: everywhere.get(tp) for tp in wanted}  # others may move while these have stopped
            now_s = self._clock.monotonic_s()
            if committed != seen:
                seen, moved_s = committed, now_s
            if not wanted:
                return
            if now_s - moved_s >= self._patience_s:
                raise self._not_read(wanted)
            if now_s - told_s >= 2.0:
                told_s = now_s
                self._progress(f"waiting for the worker: {_behind(wanted, committed):,} records to go")
            self._pause(POLL_S)

    def _not_read(self, wanted: Mapping[TopicPartition, int]) -> NotReadYetError:
        tp, offset = next(iter(sorted(wanted.items())))
        return NotReadYetError(
            f"No worker of group {self._group_id} has committed anything of {tp.topic}-{tp.partition} for "
            f"{self._patience_s:g} s, which must be read past offset {offset} before its users can be rebuilt.",
            hint="What was published stays published. Start a worker, or see in `shopstream status` why the partition "
            "has stopped; then run `shopstream dlq redrive` again: it publishes nothing twice, and rebuilds what is "
            "left.",
        )


def _behind(wanted: Mapping[TopicPartition, int], committed: Mapping[TopicPartition, int | None]) -> int:
    return sum(offset + 1 - (committed.get(tp) or 0) for tp, offset in wanted.items())
