"""What a measurement is, and the file that keeps the newest of each line."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

FILE = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a line must reach; `value_min` in its unit, `ratio_min` against its peer, each if given."""

    value_min: float | None = None
    ratio_min: float | None = None

    def is_met(self, value: float, ratio: float) -> bool:
        """Tell whether both are reached."""
        return value >= (self.value_min or 0.0) and ratio >= (self.ratio_min or 0.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One figure beside its peer's, measured in turn in one run.

    Attributes:
        value, peer: medians, in `unit`; more is better.
        spread: (greatest - smallest) / median of ours, and `peer_spread` of the peer's.
        ratio: median of the ratios of neighbouring rounds.
        what, peer_what: what each side did.
        cpu_us, peer_cpu_us: CPU time of the measured process per event, medians in microseconds; None where it was not
            measured. It is steadier than a rate on a machine with other work.
    """

    line: str
    value: float
    unit: str
    spread: float
    peer: float
    peer_spread: float
    ratio: float
    goal: Goal
    met: bool
    rounds: int
    what: str
    peer_what: str
    cpu_us: float | None = None
    peer_cpu_us: float | None = None


class OutputsDifferError(Exception):
    """Both sides must have computed the same before their times mean anything."""


def side_by_side(
    rounds: int,
    ours: Callable[[int], float],
    peer: Callable[[int], float],
    tell: Callable[[str], None],
    names: tuple[str, str] = ("ours", "peer"),
    *,
    alternates: bool = False,
) -> tuple[list[float], list[float]]:
    """Measure both in turn; each is told the number of the round and returns a rate.

    Args:
        alternates: the peer goes first in every second round, so that what gets slower with time is nobody's loss.
    """
    measured: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        sides = [(names[0], ours, measured[0]), (names[1], peer, measured[1])]
        for name, side, values in reversed(sides) if alternates and number % 2 else sides:
            values.append(side(number))
            tell(f"round {number + 1} of {rounds}, {name}: {values[-1]:,.0f}/s")
    return measured


def line_of(
    name: str, ours: Sequence[float], peer: Sequence[float], goal: Goal, *, unit: str, what: str, peer_what: str
) -> Line:
    """Sum up the rounds of both sides."""
    value, ratio = statistics.median(ours), statistics.median(a / b for a, b in zip(ours, peer, strict=True))
    return Line(
        line=name,
        value=round(value, 1),
        unit=unit,
        spread=round(_spread(ours), 3),
        peer=round(statistics.median(peer), 1),
        peer_spread=round(_spread(peer), 3),
        ratio=round(ratio, 2),
        goal=goal,
        met=goal.is_met(value, ratio),
        rounds=len(ours),
        what=what,
        peer_what=peer_what,
    )


def machine() -> dict[str, Any]:
    """Describe where this runs, and how busy it is with other things."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1m_before": round(os.getloadavg()[0], 2),
    }


def save(lines: Sequence[Line], where: dict[str, Any], file: Path = FILE) -> None:
    """Write results; lines of an earlier run that were not measured again stay, if the machine is of the same kind."""
    kept: dict[str, Any] = {}
    if file.is_file():
        earlier = json.loads(file.read_text())
        if {**earlier["machine"], "load_1m_before": 0} == {**where, "load_1m_before": 0}:
            kept = {line["line"]: line for line in earlier["lines"]}
    kept |= {line.line: asdict(line) for line in lines}
    file.write_text(json.dumps({"machine": where, "lines": list(kept.values())}, indent=2) + "\n")


def say(text: str) -> None:
    """Print to stderr at once; stdout is for results."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
