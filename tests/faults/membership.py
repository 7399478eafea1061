"""Workers that come and go in order, and one that is thought dead and is not."""

import random
import signal
from collections import Counter
from functools import partial
from typing import Final

from tests.faults.crash_plan import MIDDLE, CrashPlan
from tests.faults.footprint import footprint
from tests.faults.kills import BACKLOG, RATE, pause
from tests.faults.load import simulated
from tests.faults.scenario import CRASHED, DRAIN_DEADLINE_S, Arena, Outcome, Scenario, World
from tests.faults.workers import HostedWorker
from tests.waiting import wait_until

STAY_S: Final = 2.0
SESSION_MS: Final = 2_000
# where a worker may stand still with something in its hands: a state, a fence, rows, letters, offsets
ZOMBIE_POINTS: Final = ("before push", "before fence move", "before append to raw_events", "before commit")


def joins_and_leaves(arena: Arena) -> Outcome:
    """A second worker joins and leaves in order, again and again under load: nothing is read twice."""
    turns = 12 if arena.is_full else 2
    with arena.world() as world:
        with world.load(simulated(rate=RATE)):
            world.start_ready()
            for _ in range(turns):
                guest = world.start_ready()
                pause(STAY_S)
                assert guest.stop() == 0, guest.tail()
                world.wait_ready(1)
        verdict = world.finish()
        world.assert_read_once()
    return Outcome(2 * turns, verdict, notes="every record was read once, 0 redelivered")


def orderly_stops(arena: Arena) -> Outcome:
    """SIGTERM under load, again and again: the next worker goes on where the last one stopped."""
    turns = 12 if arena.is_full else 2
    with arena.world() as world:
        with world.load(simulated(rate=RATE)):
            for _ in range(turns):
                worker = world.start_ready()
                pause(STAY_S / 4)
                assert worker.stop() == 0, worker.tail()
        world.start_ready()
        verdict = world.finish()
        world.assert_read_once()
    return Outcome(turns, verdict, notes="every record was read once, 0 redelivered")


def zombie(arena: Arena, points: tuple[str, ...] = ZOMBIE_POINTS) -> Outcome:
    """Stop a worker right before an effect for longer than its session; another takes over; then the first goes on.

    Nothing of it may land: states, tables and offsets stay as the other has left them.
    """
    with arena.world(session_timeout_ms=SESSION_MS) as world:
        ends: Counter[str] = Counter()
        for point in points:
            world.send(simulated(BACKLOG))
            first = world.start(crash=CrashPlan(point, MIDDLE, stops=True))
            _until_stopped(world, first)
            second = world.start()
            world.wait_ready(1)  # one that stands still tells nothing
            world.send(simulated(BACKLOG))
            world.wait_committed()
            before = footprint(world.settings)
            first.signal(signal.SIGCONT)
            ends[_what_became_of(first, world)] += 1
            landed = before.changes(footprint(world.settings))
            assert not landed, f"{point}: of a worker that was given up landed {landed}; {world.tails()}"
            for worker in (first, second):
                assert not worker.runs or worker.stop() == 0, worker.tail()
        verdict = world.judge()
    told = ", ".join(f"{count} {end}" for end, count in ends.items())
    return Outcome(len(points), verdict, notes=f"no state, row or offset of it landed; {told}")


def _until_stopped(world: World, worker: HostedWorker) -> None:
    """Wait until a worker has stopped itself by SIGSTOP."""

    def stopped() -> bool:
        assert worker.runs, worker.tail()
        return worker.is_stopped

    wait_until(stopped, DRAIN_DEADLINE_S, world.tails)


def _what_became_of(worker: HostedWorker, world: World) -> str:
    """Wait until a worker that goes on has found out that its partitions are gone."""
    wait_until(lambda: not worker.runs or worker.starts > 1, DRAIN_DEADLINE_S, world.tails)
    if worker.runs:
        return "joined again"
    assert worker.exit_code() == CRASHED, worker.tail()
    return "exited with 1"


def zombies_under_load(arena: Arena) -> Outcome:
    """Stop one of two workers at any time under load until the other owns all, then continue it."""
    rng = random.Random(4)
    turns = 5
    with arena.world(session_timeout_ms=SESSION_MS) as world:
        with world.load(simulated(rate=RATE)):
            workers = [world.start(), world.start()]
            world.wait_ready(2)
            for _ in range(turns):
                chosen = rng.choice([worker for worker in workers if worker.runs])
                pause(rng.uniform(0.2, 1.0))
                starts = chosen.starts
                chosen.signal(signal.SIGSTOP)
                world.wait_ready(1)
                pause(rng.uniform(0.0, 1.0))
                chosen.signal(signal.SIGCONT)
                wait_until(
                    lambda worker=chosen, starts=starts: not worker.runs or worker.starts > starts,  # type: ignore[misc]
                    DRAIN_DEADLINE_S,
                    world.tails,
                )
                if not chosen.runs:
                    assert chosen.exit_code() == CRASHED, chosen.tail()
                    workers[workers.index(chosen)] = world.start()
                    world.restarts += 1
                world.wait_ready(2)
        verdict = world.finish()
    return Outcome(turns, verdict, notes=f"{world.restarts} restarts")


SCENARIOS: Final = (
    Scenario("rebalance", "a worker joins and leaves in order every few seconds", joins_and_leaves, is_short=True),
    Scenario("sigterm", "SIGTERM under load", orderly_stops, is_short=True),
    Scenario("zombie", "SIGSTOP before an effect, past the session timeout, then SIGCONT", zombie),
    Scenario("zombie.under-load", "the same at any time, with two workers", zombies_under_load),
    Scenario(
        "zombie.short",
        "SIGSTOP before a push, past the session timeout, then SIGCONT",
        partial(zombie, points=("before push",)),
        in_full=False,
        is_short=True,
    ),
)
