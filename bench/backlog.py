"""A stack of its own with a backlog in Kafka, that both sides of a measurement read."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.results import say
from config.settings import Settings, load_settings
from schemas.event import EVENT_TOPICS, Event
from stack.embedded import EmbeddedStack, Endpoints
from traffic.pacing import Pacer
from traffic.sending import open_sender
from traffic.sent_log import SentLog
from traffic.simulator import Simulator, SimulatorConfig

USERS = 20_000
RATE = 80.0  # in event time, so that 400,000 events fill more than an hour
MINUTE_MS = 60_000


@dataclass(frozen=True)
class Backlog:
    """Events that wait in Kafka; none is late, doubled or broken, so that a peer without those rules counts the same.

    Attributes:
        counts: how many events each topic holds.
        as_of_ms: the last instant of the minute of the newest event.
        config: of the simulator that made them.
    """

    endpoints: Endpoints
    folder: Path
    counts: dict[str, int]
    as_of_ms: int
    config: SimulatorConfig

    def settings(self, name: str, **overrides: Any) -> Settings:
        """Return settings with a home, a consumer group and a Feast project of its own: a run from nothing."""
        return load_settings(
            {
                "home": self.folder / name,
                "kafka": {"bootstrap_servers": self.endpoints.kafka},
                "registry": {"url": self.endpoints.registry},
                "redis": {"url": self.endpoints.redis},
                "feast": {"project": f"bench_{name}"},
                "worker": {"group_id": f"bench-{name}"},
                "gates": {"freshness_policy": "off"},  # the events are of the past
                **overrides,
            }
        )


@contextmanager
def backlog(count: int) -> Iterator[Backlog]:
    """Start Kafka, a schema registry and Redis, and send events; all of it is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="shopstream-bench-") as name:
        folder = Path(name)
        stack = EmbeddedStack(folder / "stack", load_settings().cache_dir)
        say("starting Kafka, the schema registry and Redis")
        try:
            found = Backlog(stack.up(), folder, {}, 0, _config(count))
            say(f"sending {count:,} events")
            yield _filled(found, count)
        finally:
            stack.down()


def _config(count: int) -> SimulatorConfig:
    # all of it has happened by now, or it would be refused
    start_ms = time.time_ns() // 1_000_000 - round(1000 * count / RATE) - MINUTE_MS
    return SimulatorConfig(
        seed=1, start_ms=start_ms, rate=RATE, users=USERS, late_share=0.0, duplicate_share=0.0, disorder_share=0.0
    )


def _filled(empty: Backlog, count: int) -> Backlog:
    counts = dict.fromkeys(EVENT_TOPICS, 0)
    newest_ms = 0
    log = SentLog(keep=False)
    with open_sender(empty.settings("sender"), log, broken=False) as sender:
        events = list(Simulator(empty.config, count).events())
        for timed in events:
            counts[timed.topic] += 1
            if isinstance(timed.payload, Event):
                newest_ms = max(newest_ms, timed.payload.event_time_ms)
        sender.run(events, Pacer(clock=time.monotonic, sleep=time.sleep, speed=None))
    as_of_ms = newest_ms - newest_ms % 60_000 + 59_999
    return replace(empty, counts=counts, as_of_ms=as_of_ms)
