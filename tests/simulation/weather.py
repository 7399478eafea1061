"""What goes wrong in one run: decided by the seed before it begins, so that a trace can name it."""

from dataclasses import dataclass
from random import Random
from typing import Final

from schemas.event import EVENT_TOPICS
from tests.crash_points import CRASH_POINTS
from tests.simulation.load import Load

SERVICES: Final = ("online", "fence", "raw_events", "feature_log", "dead_letters", "letters", "registry", "broker")


@dataclass(frozen=True)
class AtPoint:
    """A worker dies, or is stopped for a while and goes on, at the nth time that a point is reached.

    Attributes:
        pause_s: 0 for death.
    """

    point: str
    nth: int
    pause_s: float = 0.0


@dataclass(frozen=True)
class AtTime:
    """Something happens to one of the workers.

    Attributes:
        what: `kill`, `pause`, `stop` (an orderly one) or `join` (one more).
        which: the worker, counted modulo those that run.
    """

    what: str
    at_s: float
    which: int = 0
    pause_s: float = 0.0


@dataclass(frozen=True)
class Outage:
    """A service fails for a while.

    Attributes:
        share: of its calls, those that fail.
        after_share: of those, the ones that fail after they had their effect.
    """

    service: str
    first_s: float
    end_s: float
    share: float
    after_share: float


@dataclass(frozen=True)
class Slowness:
    """A service is slow for a while: each call takes up to so many seconds."""

    service: str
    first_s: float
    end_s: float
    delay_s: float


@dataclass(frozen=True)
class StoreLoss:
    """Redis goes back to an older copy of itself, or to nothing.

    Attributes:
        copied_s: when the copy was made; None for an empty one.
    """

    at_s: float
    copied_s: float | None


@dataclass(frozen=True)
class HangingCommit:
    """The nth commit gets no answer for so long."""

    nth: int
    for_s: float


@dataclass(frozen=True)
class KeptCache:
    """Workers keep the states of partitions that they have given away, and build on them when those come back."""


@dataclass(frozen=True)
class Halt:
    """A topic is halted for a while, and resumed at its end.

    Attributes:
        by: which workers' gatekeepers halt it, by the number of the worker modulo two; None if somebody else does.
    """

    topic: str
    at_s: float
    end_s: float
    by: int | None


Fault = AtPoint | AtTime | Outage | Slowness | StoreLoss | HangingCommit | KeptCache | Halt


def make_faults(rng: Random, load: Load) -> tuple[Fault, ...]:
    """Decide the faults of a run; one run in eight has none, or only halts."""
    ends_s = load.produced[-1].at_s + 1
    if rng.random() < 1 / 8:
        return tuple(_halt(rng, rng.uniform(0.5, ends_s))) if rng.random() < 0.5 else ()
    faults: list[Fault] = []
    for _ in range(rng.randint(1, 4)):
        at_s = rng.uniform(0.5, ends_s)
        faults += _MAKERS[rng.choices(_KINDS, _WEIGHTS)[0]](rng, at_s)
    return tuple(faults)


def _crash(rng: Random, at_s: float) -> list[Fault]:
    return [AtPoint(rng.choice(CRASH_POINTS), rng.randint(1, 8))]


def _zombie(rng: Random, at_s: float) -> list[Fault]:
    pause_s = rng.choice((1.0, 8.0, 8.0, 15.0))
    if rng.random() < 0.3:
        return [AtTime("join", rng.uniform(0, at_s)), AtTime("pause", at_s, rng.randrange(3), pause_s)]
    return [AtTime("join", rng.uniform(0, at_s)), AtPoint(rng.choice(CRASH_POINTS), rng.randint(1, 8), pause_s)]


def _kill(rng: Random, at_s: float) -> list[Fault]:
    return [AtTime("kill", at_s, rng.randrange(3))]


def _there_and_back(rng: Random, at_s: float) -> list[Fault]:
    """A partition goes from A to B and comes back."""
    times = sorted(at_s + rng.uniform(0, 6) for _ in range(rng.randint(1, 4)))
    moves: list[Fault] = [
        AtTime("join" if n % 2 == 0 else "stop", time, rng.randrange(3)) for n, time in enumerate(times)
    ]
    if rng.random() < 0.4:
        moves.append(KeptCache())
    if rng.random() < 0.5:  # so that batches are under way, and others wait behind them
        moves += [
            Slowness(service, times[0] - 1, times[-1] + 2, rng.choice((0.5, 2.0)))
            for service in (rng.choice(("online", "fence")), "fetch")
        ]
    return moves


def _outage(rng: Random, at_s: float) -> list[Fault]:
    share = rng.choice((0.3, 0.7, 1.0))
    end_s = at_s + rng.choice((0.3, 1.0, 3.0, 12.0))
    return [Outage(rng.choice(SERVICES), at_s, end_s, share, rng.choice((0.0, 0.5, 1.0)))]


def _slow(rng: Random, at_s: float) -> list[Fault]:
    return [Slowness(rng.choice(SERVICES), at_s, at_s + rng.choice((2.0, 8.0)), rng.choice((0.2, 1.0, 5.0)))]


def _slow_and_failing(rng: Random, at_s: float) -> list[Fault]:
    """The lake fails while Redis is slow: batches are under way when the worker learns that it must end."""
    end_s = at_s + rng.choice((2.0, 5.0))
    table = rng.choice(("raw_events", "feature_log", "dead_letters", "letters"))
    store = rng.choice(("online", "fence"))
    return [
        Outage(table, at_s, end_s, rng.choice((0.8, 0.9)), 0.0),
        Slowness(store, at_s - 1, end_s + 2, rng.choice((0.2, 1.0))),
    ]


def _loss(rng: Random, at_s: float) -> list[Fault]:
    return [StoreLoss(at_s, None if rng.random() < 0.4 else at_s * rng.random())]


def _hang(rng: Random, at_s: float) -> list[Fault]:
    return [HangingCommit(rng.randint(1, 4), rng.choice((2.0, 70.0)))]


def _halt(rng: Random, at_s: float) -> list[Fault]:
    """A topic is halted, perhaps twice; sometimes while something is under way."""
    topic = rng.choice(EVENT_TOPICS)
    end_s = at_s + rng.choice((0.2, 2.0, 6.0, 25.0))
    halts: list[Fault] = [Halt(topic, at_s, end_s, rng.choice((None, 0, 1)))]
    if rng.random() < 0.3:
        again_s = end_s + rng.choice((0.1, 1.0, 4.0))
        halts.append(Halt(topic, again_s, again_s + rng.choice((0.5, 5.0)), rng.choice((None, 0, 1))))
    return halts


def _troubled_halt(rng: Random, at_s: float) -> list[Fault]:
    """A worker comes, goes, dies or waits for something while a topic is halted, or just as it is resumed."""
    halts = _halt(rng, at_s)
    first = halts[0]
    assert isinstance(first, Halt)
    around_s = rng.choice((first.at_s, first.end_s)) + rng.uniform(-0.5, 1.5)
    trouble = rng.randrange(4)
    if trouble == 0:
        return [*halts, AtTime(rng.choice(("kill", "stop", "join")), max(0.1, around_s), rng.randrange(3))]
    if trouble == 1:
        return [*halts, *(Slowness(service, around_s, around_s + 4, 1.0) for service in ("fetch", "fence"))]
    if trouble == 2:
        return [*halts, Slowness(rng.choice(SERVICES), around_s, around_s + 4, rng.choice((0.5, 2.0)))]
    return [*halts, AtPoint(rng.choice(CRASH_POINTS), rng.randint(1, 8))]


_MAKERS: Final = {
    "crash": _crash,
    "zombie": _zombie,
    "kill": _kill,
    "there and back": _there_and_back,
    "outage": _outage,
    "slow": _slow,
    "slow and failing": _slow_and_failing,
    "loss": _loss,
    "hang": _hang,
    "halt": _halt,
    "troubled halt": _troubled_halt,
}
_KINDS: Final = tuple(_MAKERS)
_WEIGHTS: Final = (5, 4, 2, 3, 4, 2, 5, 3, 1, 2, 4)
