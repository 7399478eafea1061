"""A Redis that dies, forgets, is full, or comes back as it was some time ago."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from redis import Redis

from serving.reader import ViewStatus
from tests.faults.kills import pause
from tests.faults.load import half_on_one_key, simulated
from tests.faults.rebuilt import rebuild, told
from tests.faults.scenario import DRAIN_DEADLINE_S, Arena, Outcome, Scenario, Supervisor, World
from tests.faults.services import ServiceProcess
from tests.waiting import wait_until

RATE: Final = 200.0
BETWEEN_S: Final = 2.0
HASTY: Final[dict[str, Any]] = {"sink_attempts": 4}  # a worker that gives up soon shows what it says
ROOM_BYTES: Final = 20_000


def killed(arena: Arena) -> Outcome:
    """kill -9 under load; its append-only file brings everything back."""
    turns = 3 if arena.is_full else 1
    redis = ServiceProcess(arena, "redis")
    with arena.world(**HASTY) as world:
        supervisor = Supervisor(world)
        world.wait_ready()
        with world.load(simulated(rate=RATE)):
            for _ in range(turns):
                pause(BETWEEN_S)
                redis.kill()
                pause(BETWEEN_S)
                redis.start_again()
                supervisor.until_progress()
        return _finished(world, supervisor, turns)


def full(arena: Arena) -> Outcome:
    """No memory is left: nothing is evicted and nothing skipped, the worker says so and stops; then there is room."""
    turns = 3 if arena.is_full else 1
    with arena.world(**HASTY) as world:
        supervisor = Supervisor(world)
        world.wait_ready()
        with world.load(simulated(rate=RATE)), _client(world) as redis:
            limit = redis.config_get("maxmemory")["maxmemory"]
            for turn in range(turns):
                pause(BETWEEN_S)
                redis.config_set("maxmemory", redis.info("memory")["used_memory"] + ROOM_BYTES)
                try:
                    _until_told(supervisor, turn + 1)
                finally:
                    redis.config_set("maxmemory", limit)
                supervisor.until_progress()
            assert redis.info("stats")["evicted_keys"] == 0
        assert all("is full" in reason for reason in supervisor.reasons), supervisor.reasons
        return _finished(world, supervisor, turns)


def _until_told(supervisor: Supervisor, reasons: int) -> None:
    def has_stopped() -> bool:
        supervisor.mend()
        return len(supervisor.reasons) >= reasons

    wait_until(has_stopped, DRAIN_DEADLINE_S, lambda: f"the worker goes on: {supervisor.world.tails()}")


def restored(arena: Arena) -> Outcome:
    """Its data are replaced by an older copy, taken while the worker ran: the worker notices, and catches up."""
    redis = ServiceProcess(arena, "redis")
    with arena.world() as world:
        supervisor = Supervisor(world)
        world.wait_ready()
        with world.load(simulated(rate=RATE)):
            supervisor.until_progress()
            copy = world.settings.home / "older"
            shutil.copytree(_data(arena), copy)
            supervisor.until_progress()
            pause(BETWEEN_S)
            redis.kill()
            shutil.rmtree(_data(arena))
            shutil.move(copy, _data(arena))
            redis.start_again()
            seen = told(world)
            supervisor.until_progress()
        assert any("restored from an older copy" in reason for reason in supervisor.reasons), supervisor.reasons
        world.wait_committed(supervisor)
        assert told(world).keys() == {ViewStatus.FRESH}
        meanwhile = ", ".join(f"{status} {count}" for status, count in sorted(seen.items()))
        return _finished(world, supervisor, 1, f"readers right after: {meanwhile}")


def flushed(arena: Arena) -> Outcome:
    """FLUSHALL under load, half of it on one key; then the lake brings all back while live goes on."""

    def lose(world: World) -> None:
        with _client(world) as redis:
            redis.flushall()

    return _lost(arena, lose, 3 if arena.is_full else 1)


def emptied(arena: Arena) -> Outcome:
    """kill -9, and it starts without its data."""

    def lose(_: World) -> None:
        redis = ServiceProcess(arena, "redis")
        redis.kill()
        shutil.rmtree(_data(arena))
        redis.start_again()

    return _lost(arena, lose, 1)


def _lost(arena: Arena, lose: Callable[[World], None], turns: int) -> Outcome:
    repaired, spent_s = 0, 0.0
    with arena.world() as world:
        supervisor = Supervisor(world)
        world.wait_ready()
        world.commit_everywhere()  # what has no commit is read from its beginning: nothing of it is lost
        with world.load(half_on_one_key(simulated(rate=RATE, disordered=0.0))):
            for turn in range(turns):
                supervisor.until_progress()
                lose(world)
                _until_told(supervisor, turn + 1)
                supervisor.until_progress()
                seen = told(world)
                assert seen.keys() == {ViewStatus.REBUILDING}, seen
                started_s = time.monotonic()
                repaired += sum(result.repaired_count for result in rebuild(world.settings))
                spent_s += time.monotonic() - started_s
                seen = told(world)
                assert ViewStatus.REBUILDING not in seen, seen
        world.wait_committed(supervisor)
        assert told(world).keys() == {ViewStatus.FRESH}
        return _finished(
            world, supervisor, turns, f"{repaired} states rebuilt in {spent_s:.0f} s beside live, then FRESH"
        )


def _finished(world: World, supervisor: Supervisor, injected: int, note: str = "") -> Outcome:
    world.wait_committed(supervisor)
    world.wait_ready()
    verdict = world.finish()
    restarts = f"the worker exited {world.restarts} times and was restarted"
    return Outcome(injected, verdict, notes="; ".join(filter(None, (note, restarts))))


def _client(world: World) -> Any:
    return Redis.from_url(world.settings.redis.url.get_secret_value(), decode_responses=True)


def _data(arena: Arena) -> Path:
    assert arena.home is not None
    return arena.home / "stack" / "redis" / "appendonlydir"


SCENARIOS: Final = (
    Scenario("redis.killed", "kill -9 of Redis under load, restarted with its data", killed, harms_services=True),
    Scenario("redis.emptied", "kill -9 of Redis, restarted without its data", emptied, harms_services=True),
    Scenario("redis.full", "Redis at its maxmemory, then given room", full, harms_services=True, is_short=True),
    Scenario("redis.restored", "Redis restored from an older copy", restored, harms_services=True, is_short=True),
    Scenario(
        "redis.flushed", "FLUSHALL under load, rebuilt from the lake", flushed, harms_services=True, is_short=True
    ),
)
