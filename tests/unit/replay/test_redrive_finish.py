"""The end of a redrive: the worker is waited for, affected users are rebuilt once, what is left is finished later."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from replay.errors import NotReadYetError, RepairStuckError
from replay.redrive_finish import FinishReport, RedriveFinish
from schemas.event import CLICKS_TOPIC
from schemas.topics import TopicInfo
from sinks.lake_reads import PartitionLog
from sinks.letter_reads import LogPosition
from sinks.redrives import Attempt, RedriveLog, read_attempts
from streams.ports import TopicPartition
from tests.fakes.streams import ManualClock
from tests.letters import EPOCH, NOW_MS, TOPICS, event, refused, value, write

TOPIC_ID = TOPICS[CLICKS_TOPIC].topic_id
GROUP = "features"


def attempt(offset: int, target: int | None, *, partition: int = 0, topic_id: str = TOPIC_ID) -> Attempt:
    letter = LogPosition(TOPIC_ID, CLICKS_TOPIC, 1, offset)
    return Attempt(letter, EPOCH, "misrouted", 1, letter, topic_id, partition, 0, NOW_MS, target)


class World:
    """A lake, a worker group that moves when it is looked at, and what was rebuilt."""

    def __init__(self, lake: Path) -> None:
        self.lake = lake
        self.clock = ManualClock(NOW_MS)
        self.committed = [100]
        self.rebuilt: list[tuple[PartitionLog, frozenset[str]]] = []
        self.stuck: set[int] = set()
        self.elsewhere = 0

    def positions(self) -> Mapping[TopicPartition, int | None]:
        now = self.committed.pop(0) if len(self.committed) > 1 else self.committed[0]
        self.elsewhere += 1  # a partition that nobody waits for moves on and on
        return {TopicPartition(CLICKS_TOPIC, 0): now, TopicPartition(CLICKS_TOPIC, 2): now} | {
            TopicPartition(CLICKS_TOPIC, 3): self.elsewhere
        }

    def rebuild(self, log: PartitionLog, users: frozenset[str]) -> int:
        if log.partition in self.stuck:
            raise RepairStuckError("The lake stays behind.")
        self.rebuilt.append((log, users))
        return len(users)

    def finish(self, topics: Mapping[str, TopicInfo] = TOPICS) -> FinishReport:
        with RedriveLog(self.lake) as log:
            return RedriveFinish(
                self.lake,
                topics,
                self.positions,
                self.rebuild,
                self.clock,
                group_id=GROUP,
                patience_s=10,
                pause=self.clock.pass_s,
            ).run(log)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def note(lake: Path, *attempts: Attempt) -> None:
    with RedriveLog(lake) as log:
        log.note(attempts)


def test_the_users_of_what_came_back_are_rebuilt_once(world: World) -> None:
    write(world.lake, events={5: event("u5"), 6: event("u6"), 7: event("u5")})
    note(world.lake, attempt(1, 5), attempt(2, 6), attempt(3, 7), attempt(4, None))
    report = world.finish()
    assert world.rebuilt == [(PartitionLog(EPOCH, CLICKS_TOPIC, 0), frozenset({"u5", "u6"}))]
    assert report == FinishReport(failed_again=0, gone=0, users={CLICKS_TOPIC: 2}, changed=2)
    finished = {letter.offset: each.is_finished for letter, each in read_attempts(world.lake).items()}
    assert finished == {1: True, 2: True, 3: True, 4: False}
    assert world.finish() == FinishReport(0, 0, {}, 0)
    assert len(world.rebuilt) == 1


def test_what_failed_again_rebuilds_nobody(world: World) -> None:
    write(world.lake, [refused(5, b"x", value(event("u5")))])
    note(world.lake, attempt(1, 5))
    assert world.finish() == FinishReport(failed_again=1, gone=0, users={}, changed=0)
    assert world.rebuilt == []
    assert world.finish().failed_again == 0


def test_what_retention_took_or_lies_in_a_topic_that_is_gone_is_told_and_left(world: World) -> None:
    note(world.lake, attempt(1, 5), attempt(2, 6, topic_id="gone"))
    assert world.finish() == FinishReport(failed_again=0, gone=2, users={}, changed=0)
    assert world.finish().gone == 0


def test_it_waits_as_long_as_the_group_moves(world: World) -> None:
    write(world.lake, events={50: event("u5")})
    note(world.lake, attempt(1, 50))
    world.committed = [*(number // 40 for number in range(52 * 40))]  # a step each 8 s
    assert world.finish().users == {CLICKS_TOPIC: 1}
    assert world.clock.elapsed_s > 10


def test_a_group_that_does_not_move_is_a_sentence_and_the_next_run_finishes(world: World) -> None:
    write(world.lake, events={50: event("u5")})
    note(world.lake, attempt(1, 50))
    world.committed = [50]
    with pytest.raises(NotReadYetError) as raised:
        world.finish()
    assert str(raised.value) == (
        "No worker of group features has committed anything of shop.clicks.v1-0 for 10 s, which must be read past "
        "offset 50 before its users can be rebuilt. What was published stays published. Start a worker, or see in "
        "`shopstream status` why the partition has stopped; then run `shopstream dlq redrive` again: it publishes "
        "nothing twice, and rebuilds what is left."
    )
    world.committed = [51]
    assert world.finish().users == {CLICKS_TOPIC: 1}


def test_a_rebuild_that_fails_keeps_what_was_done_before(world: World) -> None:
    write(world.lake, events={5: event("u5")})
    write(world.lake, [refused(99, b"x", None, partition=2)], events={5: event("u2")})
    note(world.lake, attempt(1, 5), attempt(2, 5, partition=2))
    world.stuck = {2}
    with pytest.raises(RepairStuckError):
        world.finish()
    world.stuck = set()
    assert world.finish().users == {CLICKS_TOPIC: 1}
    assert [log.partition for log, _ in world.rebuilt] == [0, 2]
