"""A schema registry that is away, for ids that the worker knows and for ids that it does not."""

import json
import uuid
from collections.abc import Iterable
from functools import partial
from typing import Final

from schemas.codec import HEADER_BYTES
from schemas.encoder import Encoder, subject_of
from schemas.event import EVENT_TOPICS, Event
from schemas.loading import own_schema
from schemas.producer import EventProducer
from schemas.registry import RegistryClient
from streams.observing import GroupLags
from tests.faults.kills import pause
from tests.faults.load import simulated
from tests.faults.scenario import DRAIN_DEADLINE_S, Arena, Outcome, Scenario, World
from tests.faults.services import ServiceProcess
from tests.waiting import wait_until
from traffic.timed import TimedEvent

RATE: Final = 200.0
AWAY_S: Final = 3.0
STALL_S: Final = 180.0  # as in earnest: what waits here, waits as long as the registry takes to start
NEW_RECORDS: Final = 200


def away(arena: Arena) -> Outcome:
    """What is written with known schemas goes on; a partition with a new one waits, and goes on afterwards."""
    turns = 3 if arena.is_full else 1
    registry = ServiceProcess(arena, "registry")
    with arena.world(stall_timeout_s=STALL_S) as world:
        worker = world.start_ready()
        world.commit_everywhere()
        lags = GroupLags(world.settings)
        for _ in range(turns):
            newer = _Newer(world)
            with world.load(simulated(rate=RATE, broken=0.0)):
                _until_committed(world, lags, sum(lag.produced for lag in lags.read()) + 1)
                registry.kill()
                goal = sum(lag.produced for lag in lags.read()) + round(RATE)
                _until_committed(world, lags, goal)
            world.wait_committed()
            newer.send(simulated(NEW_RECORDS, rate=RATE, broken=0.0))
            pause(AWAY_S)
            assert "registry failed (try" in worker.tail(), worker.tail()
            assert lags.total() > 0
            registry.start_again()
            world.wait_committed()
        assert worker.starts == 1, worker.tail()
        verdict = world.finish()
        world.assert_read_once()
    return Outcome(turns, verdict, notes=f"{turns * NEW_RECORDS} records of unknown schemas waited; no restart")


def _until_committed(world: World, lags: GroupLags, goal: int) -> None:
    def reached() -> bool:
        return sum(lag.committed or 0 for lag in lags.read()) >= goal

    wait_until(reached, DRAIN_DEADLINE_S, lambda: f"known schemas wait, too: {world.tails()}")


class _Newer:
    """A producer with a schema of a field more, which no worker has seen."""

    def __init__(self, world: World) -> None:
        self._world = world
        registry = RegistryClient(world.settings.registry)
        try:
            self._encoder = Encoder.registered(registry, EVENT_TOPICS)
            name = f"extra_{uuid.uuid4().hex[:8]}"
            self._headers = {}
            for topic in EVENT_TOPICS:
                schema = json.loads(own_schema(topic))
                schema["fields"].append({"name": name, "type": ["null", "string"], "default": None})
                number = registry.register(subject_of(topic), json.dumps(schema))
                self._headers[topic] = b"\0" + number.to_bytes(4, "big")
        finally:
            registry.close()
        self._producer = EventProducer(world.settings)  # it asks the registry only now

    def send(self, events: Iterable[TimedEvent]) -> None:
        """Send events with the field left null; they are acknowledged on return."""
        with self._producer as producer:
            for timed in events:
                event = timed.payload
                assert isinstance(event, Event)
                value = self._headers[timed.topic] + self._encoder.event(timed.topic, event)[HEADER_BYTES:] + b"\0"
                producer.send_raw(
                    timed.topic, event.user_id.encode(), value, None, partial(self._world.log.note, timed)
                )


SCENARIOS: Final = (
    Scenario(
        "registry.away",
        "kill -9 of the schema registry, with known and with unknown ids",
        away,
        harms_services=True,
        is_short=True,
    ),
)
