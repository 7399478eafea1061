"""More traffic than usual, half of it on one key, or a sink that does not answer."""

import json
import urllib.request
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from schemas.kafka_client import client_settings
from streams.observing import GroupLags
from tests.faults.kills import pause
from tests.faults.load import HOT_USER, bursting, half_on_one_key, simulated
from tests.faults.scenario import DRAIN_DEADLINE_S, Arena, Outcome, Scenario, World
from tests.faults.services import ServiceProcess
from tests.faults.workers import HostedWorker
from tests.waiting import wait_until

BASE_RATE: Final = 300.0
FACTOR: Final = 20
BUFFER_ROWS: Final = 10_000
BATCH_RECORDS: Final = 500
ROWS_PER_RECORD: Final = 2  # its raw row and a state
RSS_GROWTH_MAX_BYTES: Final = 150_000_000
SKEWED_RATE: Final = 400.0
SESSION_MS: Final = 2_000


def burst(arena: Arena) -> Outcome:
    """20 times the traffic for a minute: what waits, waits in Kafka."""
    before_s, burst_s = (5.0, 60.0) if arena.is_full else (1.0, 4.0)
    with arena.world(
        buffer_rows_max=BUFFER_ROWS,
        flush_rows=BUFFER_ROWS // 2,
        flush_interval_ms=1_000,
        batch_records=BATCH_RECORDS,
        cache_users=2_000,
    ) as world:
        worker = world.start_ready()
        world.send(simulated(2_000))
        world.wait_committed()  # what is allocated once is allocated
        calm_bytes = worker.sample_rss()
        lags = GroupLags(world.settings)
        rows_max = lag_max = 0
        with world.load(bursting(BASE_RATE, FACTOR, before_s, burst_s)) as load:
            while load.goes_on:
                worker.sample_rss()
                rows_max = max(rows_max, _buffered_rows(world, worker))
                lag_max = max(lag_max, lags.total())
                pause(0.1)
        verdict = world.finish()
        world.assert_read_once()
    grown_bytes = worker.peak_rss_bytes - calm_bytes
    rows_bound = BUFFER_ROWS + 2 * ROWS_PER_RECORD * BATCH_RECORDS  # a batch of each topic may be on its way
    assert rows_max <= rows_bound, rows_max
    assert grown_bytes <= RSS_GROWTH_MAX_BYTES, grown_bytes
    notes = (
        f"{BASE_RATE:g} to {BASE_RATE * FACTOR:g} ev/s for {burst_s:g} s; at most {lag_max:,} uncommitted, "
        f"{rows_max:,} rows buffered (bound {rows_bound:,}), memory +{grown_bytes / 1e6:.0f} MB "
        f"of {calm_bytes / 1e6:.0f} (bound +{RSS_GROWTH_MAX_BYTES / 1e6:.0f})"
    )
    return Outcome(1, verdict, notes=notes)


def _buffered_rows(world: World, worker: HostedWorker) -> int:
    entry = json.loads((world.settings.home / "workers" / f"{worker.pid}.json").read_text())
    with urllib.request.urlopen(entry["metrics"], timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = [
        sample.value for family in families for sample in family.samples if sample.name == "shopstream_buffered_rows"
    ]
    return int(found[0]) if found else 0


def skew(arena: Arena) -> Outcome:
    """Half of all traffic on one user: one partition and one state get it all."""
    count = 12_000 if arena.is_full else 2_000
    with arena.world() as world:
        world.start_ready()
        with world.load(half_on_one_key(simulated(count, rate=SKEWED_RATE, disordered=0.0))) as load:
            wait_until(lambda: not load.goes_on, DRAIN_DEADLINE_S, world.tails)
        verdict = world.finish()
        world.assert_read_once()
        hot = len(world.log.by_user()[HOT_USER])
    return Outcome(1, verdict, notes=f"{hot:,} events of one user")


def sink_paused(arena: Arena) -> Outcome:
    """SIGSTOP of Redis for longer than the session timeout: reading pauses, and the group does not notice."""
    seconds = 15.0 if arena.is_full else 4.0
    redis = ServiceProcess(arena, "redis")
    with arena.world(session_timeout_ms=SESSION_MS) as world:
        worker = world.start_ready()
        with world.load(simulated(rate=200.0)):
            pause(1.0)
            members = _members(world)
            with redis.paused():
                pause(seconds / 2)
                read = world.report().read
                pause(seconds / 2)
                assert world.report().read == read  # backpressure: what is there is not read on
                assert _members(world) == members  # heartbeats go on: nobody was thrown out, nobody joined
            pause(1.0)
            assert worker.starts == 1, worker.tail()
        verdict = world.finish()
        world.assert_read_once()
    return Outcome(
        1,
        verdict,
        notes=f"stopped for {seconds:g} s at a session timeout of {SESSION_MS / 1000:g} s; no rebalance, 0 redelivered",
    )


def _members(world: World) -> dict[str, int]:
    """Return the members of the group, with how many partitions each has."""
    from confluent_kafka.admin import AdminClient

    group = world.settings.worker.group_id
    admin = AdminClient(client_settings(world.settings.kafka))
    found = admin.describe_consumer_groups([group], request_timeout=10)[group].result(10)
    return {member.member_id: len(member.assignment.topic_partitions) for member in found.members}


SCENARIOS: Final = (
    Scenario("burst", "20 times the traffic for 60 s, with bounded memory", burst, is_short=True),
    Scenario("skew", "half of all traffic on one key", skew, is_short=True),
    Scenario(
        "redis.paused-past-session",
        "SIGSTOP of Redis for longer than the session timeout",
        sink_paused,
        harms_services=True,
        is_short=True,
    ),
)
