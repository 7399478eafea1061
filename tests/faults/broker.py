"""A broker that dies, and one that does not answer for a while."""

from typing import Final

from tests.faults.kills import pause
from tests.faults.load import simulated
from tests.faults.scenario import Arena, Outcome, Scenario, Supervisor, World
from tests.faults.services import ServiceProcess

RATE: Final = 200.0
PAUSE_S: Final = 30.0
PAUSE_SHORT_S: Final = 8.0  # longer than the group's session timeout
DOWN_S: Final = 3.0


def killed(arena: Arena) -> Outcome:
    """kill -9 of the broker under load, then start it again: a worker that does not recover exits, and is restarted."""
    turns = 3 if arena.is_full else 1
    broker = ServiceProcess(arena, "kafka")
    with arena.world() as world:
        supervisor = Supervisor(world)
        world.wait_ready()
        with world.load(simulated(rate=RATE)):
            for _ in range(turns):
                supervisor.until_progress()
                broker.kill()
                pause(DOWN_S)
                broker.start_again()
                supervisor.until_progress()
        return _finished(world, supervisor, turns)


def paused(arena: Arena) -> Outcome:
    """SIGSTOP of the broker's process under load: connections stay open, and nothing answers."""
    seconds = PAUSE_S if arena.is_full else PAUSE_SHORT_S
    broker = ServiceProcess(arena, "kafka")
    with arena.world() as world:
        supervisor = Supervisor(world)
        world.wait_ready()
        with world.load(simulated(rate=RATE)):
            supervisor.until_progress()
            with broker.paused():
                pause(seconds)
            supervisor.until_progress()
        return _finished(world, supervisor, 1)


def _finished(world: World, supervisor: Supervisor, injected: int) -> Outcome:
    world.wait_committed(supervisor)
    world.wait_ready()
    verdict = world.finish()
    reasons = f" ({'; '.join(supervisor.reasons)})" if supervisor.reasons else ""
    return Outcome(injected, verdict, notes=f"{world.restarts} restarts of the worker{reasons}")


SCENARIOS: Final = (
    Scenario(
        "broker.killed", "kill -9 of the broker under load, restarted", killed, harms_services=True, is_short=True
    ),
    Scenario("broker.paused", "SIGSTOP of the broker for 30 s under load", paused, harms_services=True, is_short=True),
)
