"""A redrive on a real lake: nothing is published twice, wherever it is killed, and nothing is forgotten."""

import fcntl
from collections import Counter
from pathlib import Path

import pytest

from replay.dead_letter_fates import Fate, chain, read_fates
from replay.dead_letter_selection import PositionName, RedriveOptions
from replay.errors import NoSuchLetterError
from replay.redrive import Redrive
from replay.redrive_report import RedriveReport
from schemas.event import CLICKS_TOPIC
from schemas.partitioner import partition_of
from sinks.erasures import ErasedLog, Tombstones
from sinks.errors import NotRedrivenError, RedriveRunningError
from sinks.letter_reads import LetterFilter, LogPosition, letter_heads
from sinks.redrives import RedriveLog, read_attempts
from sinks.tables import DEAD_LETTERS
from tests.fakes.event_topics import KilledError, MemoryTopics
from tests.fakes.streams import ManualClock
from tests.letters import LATE_ID, NOW_MS, TOPICS, Registry, decoder, event, refused, value, write

USERS = ("u1", "u2", "u3", "u4", "u5")
TOPIC_ID = TOPICS[CLICKS_TOPIC].topic_id


class World:
    """A lake with five misrouted letters, and what a redrive needs besides."""

    def __init__(self, lake: Path) -> None:
        self.lake = lake
        self.topics = MemoryTopics()
        self.registry = Registry()
        self.pauses: list[float] = []
        self.tombstones = Tombstones()
        self.now_ms = NOW_MS
        write(lake, [refused(offset, b"wrong", value(event(user, user))) for offset, user in enumerate(USERS, 1)])

    def redrive(self) -> Redrive:
        return Redrive(
            self.lake,
            self.topics,
            decoder(self.registry, self.now_ms),
            TOPICS,
            ManualClock(self.now_ms),
            unknown_id_ttl_s=30,
            flush_interval_s=2,
            tombstones=lambda: self.tombstones,
            pause=self.pauses.append,
        )

    def run(self, options: RedriveOptions | None = None) -> RedriveReport:
        with RedriveLog(self.lake) as log:
            return self.redrive().run(log, options or RedriveOptions())

    def fates(self) -> Counter[Fate]:
        return Counter(told.fate for told in read_fates(self.lake, letter_heads(self.lake, LetterFilter())))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def position(offset: int) -> LogPosition:
    return LogPosition(TOPIC_ID, CLICKS_TOPIC, 0, offset)


def test_each_letter_is_published_once_with_its_bytes_under_its_user(world: World) -> None:
    assert world.run().published == len(USERS)
    records = [(record, partition) for (_, partition), log in world.topics.logs.items() for record in log]
    assert {record.letter for record, _ in records} == {position(offset) for offset in range(1, 6)}
    for record, partition in records:
        user = USERS[record.letter.offset - 1]
        assert (record.key, record.value) == (user.encode(), value(event(user, user)))
        assert partition == record.partition == partition_of(user.encode(), 4)
    assert world.run().published == 0
    assert len(world.topics.published()) == len(USERS)
    assert world.fates() == {Fate.IN_FLIGHT: len(USERS)}


def test_a_dry_run_publishes_and_writes_nothing(world: World) -> None:
    report = world.redrive().dry_run(RedriveOptions())
    assert {(reason, verdict.value): count for (reason, verdict), count in report.verdicts.items()} == {
        ("misrouted", "redrive"): 5
    }
    assert (world.topics.published(), read_attempts(world.lake), report.published) == ([], {}, 0)


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_death_around_publishing_is_mended_by_the_next_run(world: World, point: str) -> None:
    world.topics.dies = point
    with pytest.raises(KilledError):
        world.run()
    stored = 0 if point == "before" else len(USERS)
    dry = world.redrive().dry_run(RedriveOptions())
    assert (dry.recovered, len(world.topics.published())) == (stored, stored)
    report = world.run()
    assert (report.recovered, report.published) == (stored, len(USERS) - stored)
    assert Counter(world.topics.published()).most_common(1)[0][1] == 1
    assert len(world.topics.published()) == len(USERS)
    assert all(attempt.target is not None for attempt in read_attempts(world.lake).values())


@pytest.mark.parametrize("step", ["intend", "note"])
def test_a_death_before_a_step_is_written_is_mended_by_the_next_run(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(RedriveLog, step, lambda log, rows: die() if rows else None)
        with pytest.raises(KilledError):
            world.run()
    world.run()
    assert sorted(world.topics.published()) == [position(offset) for offset in range(1, 6)]


def test_what_kafka_does_not_answer_for_is_looked_for_by_the_next_run(world: World) -> None:
    world.topics.refuses = 2
    with pytest.raises(NotRedrivenError, match="2 of 5 letters"):
        world.run()
    report = world.run()
    assert (report.recovered, report.published) == (0, 2)
    assert sorted(world.topics.published()) == [position(offset) for offset in range(1, 6)]


def test_two_at_once_are_refused_with_a_sentence(world: World) -> None:
    with RedriveLog(world.lake), pytest.raises(RedriveRunningError, match="Another redrive of this lake is under way"):
        world.run()
    assert world.run().published == len(USERS)


def test_the_lake_refuses_a_second_writer_that_no_lock_kept_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as on a file system of several machines
    with RedriveLog(world.lake) as stale:
        assert world.run().published == len(USERS)
        with pytest.raises(RedriveRunningError, match="or the lake's answer was lost"):
            world.redrive().run(stale, RedriveOptions())
    assert len(world.topics.published()) == len(USERS)


def test_only_letters_that_were_there_at_the_beginning_are_handled(world: World) -> None:
    class Failing(MemoryTopics):
        def publish(self, records):  # type: ignore[no-untyped-def]
            stored = super().publish(records)
            for letter, offset in stored.offsets.items():  # the worker refuses each at once
                user = USERS[letter.offset - 1]
                again = refused(offset, b"wrong", value(event(user, user)), partition=3)
                write(world.lake, [again])
            return stored

    world.topics = Failing()
    assert world.run(RedriveOptions(wanted=LetterFilter(partition=0))).published == len(USERS)
    assert len(world.topics.published()) == len(USERS)


def test_filters_and_names_choose(world: World) -> None:
    named = RedriveOptions(named=(PositionName(CLICKS_TOPIC, 0, 3),))
    assert (world.run(named).published, world.topics.published()) == (1, [position(3)])
    assert world.run(RedriveOptions(wanted=LetterFilter(reason="undecodable"))).published == 0
    by_time = LetterFilter(from_ms=NOW_MS - 30_000 + 2, to_ms=NOW_MS - 30_000 + 5)
    assert world.run(RedriveOptions(wanted=by_time)).published == 2
    assert sorted(world.topics.published()) == [position(offset) for offset in (2, 3, 4)]
    with pytest.raises(NoSuchLetterError, match=r"no dead letter shop\.clicks\.v1/0/99"):
        world.run(RedriveOptions(named=(PositionName(CLICKS_TOPIC, 0, 99),)))


def test_a_letter_that_was_applied_where_it_lies_is_left_alone_and_its_user_is_rebuilt(world: World) -> None:
    write(world.lake, events={2: event("u2", "u2")})
    report = world.run()
    assert (report.published, position(2) in world.topics.published()) == (4, False)
    assert world.fates()[Fate.APPLIED] == 1
    adopted = read_attempts(world.lake)[position(2)]
    assert (adopted.target, adopted.is_finished) == (position(2), False)
    assert chain(position(2), read_attempts(world.lake)) == [adopted]
    assert world.run().published == 0


def test_a_letter_that_fails_again_has_the_history_of_the_first(world: World) -> None:
    only = RedriveOptions(named=(PositionName(CLICKS_TOPIC, 0, 1),))
    world.run(only)
    first = read_attempts(world.lake)[position(1)]
    assert first.target is not None
    again = refused(first.target.offset, b"wrong", value(event("u1", "u1")), partition=first.target.partition)
    write(world.lake, [again])
    assert world.fates()[Fate.FAILED_AGAIN] == 1
    named = PositionName(CLICKS_TOPIC, again.partition, again.offset)
    newest = LetterFilter(from_ms=again.append_time_ms)
    assert world.run(RedriveOptions(wanted=newest, attempts_max=1)).published == 0
    assert world.run(RedriveOptions(named=(named,), attempts_max=1)).published == 1
    history = chain(first.target, read_attempts(world.lake))
    assert [(attempt.letter, attempt.number, attempt.origin) for attempt in history] == [
        (position(1), 1, position(1)),
        (first.target, 2, position(1)),
    ]
    assert chain(position(1), read_attempts(world.lake)) == history


def test_it_waits_while_a_worker_may_believe_that_a_schema_is_unknown(world: World) -> None:
    letter = refused(9, b"u1", value(event(), LATE_ID))  # seen 20 s before now
    write(world.lake, [letter])
    world.registry.late = True
    world.run(RedriveOptions(wanted=LetterFilter(reason="unknown_schema")))
    assert world.pauses == [pytest.approx(30 - 20 + 2 + 5)]

    world.pauses.clear()
    world.now_ms += 60_000
    write(world.lake, [refused(10, b"u1", value(event(), LATE_ID))])
    world.run(RedriveOptions(wanted=LetterFilter(reason="unknown_schema")))
    assert world.pauses == []


def test_what_an_erased_user_had_sent_does_not_come_back(world: World) -> None:
    class Everything(Tombstones):
        def covers(self, user_id: str, topic: str, log_epoch: str, partition: int, offset: int) -> bool:
            return (user_id, partition, offset) == ("u4", 0, 4)

    world.tombstones = Everything({ErasedLog(TOPIC_ID, CLICKS_TOPIC, 0): {}})
    assert world.run().published == 4
    assert position(4) not in world.topics.published()


def test_letters_keep_their_rows(world: World) -> None:
    from deltalake import DeltaTable

    before = DeltaTable(world.lake / DEAD_LETTERS.name).version()
    world.run()
    assert DeltaTable(world.lake / DEAD_LETTERS.name).version() == before
