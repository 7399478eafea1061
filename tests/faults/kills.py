"""kill -9 of a worker: at every named point around its effects, and at any time at all."""

import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from streams.observing import GroupLags
from tests.crash_points import CRASH_POINTS
from tests.faults.crash_plan import FIRST, LAST, MOMENTS, CrashPlan
from tests.faults.load import simulated
from tests.faults.scenario import DRAIN_DEADLINE_S, Arena, Outcome, Scenario, World
from tests.faults.workers import KILLED, HostedWorker
from tests.waiting import wait_until

# A worker that finds that two have died with the fence at about the same place (within a batch) decodes in processes of
# its own, which takes a second each. That is as it should be, but would leave little else to be killed: so batches are
# small, and what waits for a worker is more than a batch of each partition.
BATCH_RECORDS: Final = 20
BATCH_RECORDS_AT_RANDOM: Final = 10
BACKLOG: Final = 1_500
BACKLOG_SHORT: Final = 600
TAIL: Final = 60
TAILS_MAX: Final = 20
RATE: Final = 300.0
KILLS_AT_RANDOM: Final = 50
KILLS_WITHOUT_NAME: Final = 10
KILLS_SHORT: Final = 5
START_S: Final = 1.5  # about what a worker needs until it reads
RUN_S: Final = 1.0


def at_points(arena: Arena, plans: Sequence[CrashPlan], backlog: int = BACKLOG) -> Outcome:
    """Kill a worker as each plan says, each time with so many records waiting for it; then let one finish."""
    with arena.world(batch_records=BATCH_RECORDS) as world:
        for plan in plans:
            world.send(simulated(backlog))
            _until_killed(world, world.start(instance="one", crash=plan))
        world.start_ready(instance="one")
        world.wait_committed()
        redelivered = world.report().outcomes["redelivered"]
        verdict = world.finish()
    return Outcome(len(plans), verdict, kills=len(plans), notes=f"{redelivered} redelivered after the last")


def _until_killed(world: World, worker: HostedWorker) -> None:
    """Wait until a worker has killed itself; send more while the last batch had nothing for its point."""
    lags = GroupLags(world.settings)
    for _ in range(TAILS_MAX):
        wait_until(lambda: not worker.runs or lags.total() == 0, DRAIN_DEADLINE_S, world.tails)
        if not worker.runs:
            assert worker.exit_code() == KILLED, worker.tail()
            return
        world.send(simulated(TAIL, broken=0.3))
    raise AssertionError(f"the worker does not reach its point: {worker.tail()}")


def at_random(
    arena: Arena, *, instances: Sequence[str], kills: int, seed: int, session_timeout_ms: int = 6_000
) -> Outcome:
    """Kill workers under load, some while they start, some while they run; each is started again at once.

    Args:
        instances: names of the workers that run side by side; an empty one is a dynamic member of the group.
    """
    rng = random.Random(seed)
    kills = kills if arena.is_full else KILLS_SHORT
    with arena.world(session_timeout_ms=session_timeout_ms, batch_records=BATCH_RECORDS_AT_RANDOM) as world:
        with world.load(simulated(rate=RATE)):
            running = {name: world.start(instance=name) for name in instances}
            for _ in range(kills):
                name = rng.choice(sorted(running))
                if rng.random() < 0.3:
                    pause(rng.uniform(0.0, START_S))
                else:
                    world.wait_ready(len(instances))
                    pause(rng.uniform(0.0, RUN_S))
                running[name].kill()
                assert running[name].exit_code() == KILLED, running[name].tail()
                running[name] = world.start(instance=name)
        verdict = world.finish()
    return Outcome(kills, verdict, kills=kills)


def re_reads(arena: Arena) -> Outcome:
    """Kill a worker whose work is in Redis, but neither in the lake nor committed: all of it is read again."""
    with arena.world() as world:
        world.send(simulated(BACKLOG))
        worker = world.start(flush_interval_ms=600_000, flush_rows=1_000_000, buffer_rows_max=1_000_000)
        count = world.log.acknowledged_count
        wait_until(lambda: sum(world.report().outcomes.values()) == count, DRAIN_DEADLINE_S, world.tails)
        worker.kill()
        assert all(lag.committed is None for lag in GroupLags(world.settings).read())
        world.start_ready()
        world.wait_committed()
        outcomes = world.report().outcomes
        assert sum(outcomes.values()) == count
        assert outcomes["redelivered"] > 0
        assert outcomes["applied"] == outcomes["duplicate"] == outcomes["late"] == 0  # nothing counts twice
        verdict = world.finish()
    return Outcome(1, verdict, kills=1, notes=f"{outcomes['redelivered']} redelivered, none of them counted again")


def pause(seconds: float) -> None:
    """Let some time pass under load before the next fault."""
    due_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= due_s, seconds + 60, "the clock stands still")


AT_EVERY_POINT: Final = (CrashPlan(CRASH_POINTS[0], FIRST), *(CrashPlan(point, LAST) for point in CRASH_POINTS))
SCENARIOS: Final = (
    *(
        Scenario(
            f"kill.{point.replace(' ', '-')}",
            f"kill -9 {point}, at the first, a middle and the last batch",
            partial(at_points, plans=[CrashPlan(point, moment) for moment in MOMENTS]),
        )
        for point in CRASH_POINTS
    ),
    Scenario(
        "kill.short",
        "kill -9 at every named point, at the last batch; and at the very first",
        partial(at_points, plans=AT_EVERY_POINT, backlog=BACKLOG_SHORT),
        in_full=False,
        is_short=True,
    ),
    Scenario("kill.re-reads", "kill -9 with nothing flushed: all is read again", re_reads, is_short=True),
    Scenario(
        "kill.random",
        "kill -9 at any time, while starting and while running",
        partial(at_random, instances=["one"], kills=KILLS_AT_RANDOM * 2, seed=1),
    ),
    Scenario(
        "kill.random-of-two",
        "kill -9 of one of two workers at any time",
        partial(at_random, instances=["one", "two"], kills=KILLS_AT_RANDOM, seed=2),
    ),
    Scenario(
        "kill.random-dynamic",
        "kill -9 of a worker without a name of its own: the group waits for its session timeout",
        partial(at_random, instances=[""], kills=KILLS_WITHOUT_NAME, seed=3, session_timeout_ms=1_500),
    ),
)
