"""Topics that become another log under a running worker: it must stop and say so, and skip nothing."""

from collections import Counter
from typing import Any, Final

from cli.demo_check import compare_positions
from feature_repo.opening import open_feature_store
from feature_repo.states import StateStore
from features.apply import fold
from features.state import TRAILER_BYTES, read_trailer
from schemas.event import EVENT_TOPICS, Event
from schemas.kafka_client import client_settings
from schemas.partitioner import partition_of
from schemas.topics import describe_topics
from sinks.lake_reads import offsets
from sinks.tables import LAKE_TABLES
from streams.observing import GroupLags
from streams.ports import TopicPartition
from tests.faults.load import simulated
from tests.faults.scenario import CRASHED, PARTITIONS, Arena, Outcome, Scenario, World
from tests.faults.verdict import Verdict
from tests.fresh_topics import recreate_topics
from tests.waiting import wait_until
from traffic.sent_log import SentLog

BEFORE: Final = 800
AFTER: Final = 400
MORE_PARTITIONS: Final = 6
WATCHFUL: Final[dict[str, Any]] = {"log_check_interval_s": 1.0}


def partitions_added(arena: Arena) -> Outcome:
    """More partitions under load: most keys lie elsewhere now, and no state may take their events."""
    with arena.world(**WATCHFUL) as world:
        worker = world.start_ready()
        world.send(simulated(BEFORE))
        world.wait_committed()
        with world.load(simulated(rate=200.0)):
            _add_partitions(world)
            code = worker.ended()
        _assert_told(code, worker.tail())
        again = world.start()
        _assert_told(again.ended(), again.tail())
        return Outcome(1, _judge_old_log(world, world.log), notes="exit code 1, twice, and one sentence")


def recreated(arena: Arena) -> Outcome:
    """The topics are deleted and created again under the same names, and new events come."""
    with arena.world(**WATCHFUL) as world:
        worker = world.start_ready()
        world.send(simulated(BEFORE))
        world.wait_committed()
        old, world.log = world.log, SentLog()
        lost, doubled, _, differences = compare_positions(world.settings, old)
        assert (lost, doubled, differences) == (0, 0, [])
        recreate_topics(world.settings)
        world.send(simulated(AFTER))
        _assert_told(worker.ended(), worker.tail())
        again = world.start()
        _assert_told(again.ended(), again.tail())
        lost, doubled, _, differences = compare_positions(world.settings, old)  # nothing of the new log is there
        mismatched = _mismatched_states(world, old) + len(differences)
        verdict = Verdict(old.acknowledged_count, lost, doubled, mismatched, tuple(differences))
        return Outcome(1, verdict, notes="exit code 1, twice, and one sentence")


def _add_partitions(world: World) -> None:
    from confluent_kafka.admin import AdminClient, NewPartitions

    admin = AdminClient(client_settings(world.settings.kafka))
    wanted = [NewPartitions(topic, MORE_PARTITIONS) for topic in EVENT_TOPICS]
    for done in admin.create_partitions(wanted, operation_timeout=30).values():
        done.result()
    wait_until(
        lambda: all(
            describe_topics(world.settings)[topic].partition_count == MORE_PARTITIONS for topic in EVENT_TOPICS
        ),
        60,
        "the partitions are not there",
    )


def _assert_told(code: int, said: str) -> None:
    assert code == CRASHED, said
    last = said.strip().splitlines()[-1]
    assert "is another log than the one" in last or "A topic is gone" in last, said
    assert "Traceback" not in said, said


def _judge_old_log(world: World, log: SentLog) -> Verdict:
    """Judge what was done of partitions that went on under another epoch: nothing is committed that is not stored."""
    held: Counter[tuple[str, int, int]] = Counter()
    for table in ("raw_events", "dead_letters"):
        for (topic, partition), found in offsets(world.settings.lake_path, LAKE_TABLES[table]).items():
            held.update((topic, partition, offset) for offset in found)
    committed = {lag.tp: lag.committed or 0 for lag in GroupLags(world.settings).read()}
    lost = sum(
        sent.offset < committed[TopicPartition(sent.topic, sent.partition)]
        and (sent.topic, sent.partition, sent.offset) not in held
        for sent in log.records()
    )
    doubled = sum(count - 1 for count in held.values())
    strangers = sum(partition >= PARTITIONS for _, partition, _ in held)
    return Verdict(log.acknowledged_count, lost, doubled, strangers + _mismatched_states(world, log), ())


def _mismatched_states(world: World, log: SentLog) -> int:
    """Count states that are not the fold of their user's events, of the old log and below their version."""
    import asyncio

    logs: dict[tuple[str, str], list[tuple[int, Event]]] = {}
    for sent in log.records():
        if sent.event is not None and sent.partition == partition_of(sent.event.user_id.encode(), PARTITIONS):
            logs.setdefault((sent.topic, sent.event.user_id), []).append((sent.offset, sent.event))

    async def load() -> dict[tuple[str, str], bytes]:
        store = open_feature_store(world.settings)
        try:
            states = StateStore(store)
            return {
                (topic, user): stored.state
                for topic in EVENT_TOPICS
                for user, stored in (await states.load(topic, sorted({u for t, u in logs if t == topic}))).items()
            }
        finally:
            await store.close()

    stored = asyncio.run(load())
    assert stored, "no state was stored"
    return sum(
        fold(None, [entry for entry in logs[key] if entry[0] < read_trailer(state).version]).state[:-TRAILER_BYTES]
        != state[:-TRAILER_BYTES]
        for key, state in stored.items()
    )


SCENARIOS: Final = (
    Scenario("topics.partitions-added", "partitions added under load", partitions_added),
    Scenario("topics.recreated", "topics deleted and created again under their names", recreated, is_short=True),
)
