"""`make bench`: each line beside its peer, in turn, in one run; results go to bench/results.json.

The line `gates` needs no peer: it is beside itself with gates off.

python -m bench [live] [replay] [gates] [--events 400000] [--rounds N]
"""

import argparse
import sys
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

from bench import gates, live, replay
from bench.backlog import Backlog, backlog
from bench.environment import locked_python
from bench.peer import ENVIRONMENT
from bench.results import FILE, Line, machine, save, say

ROUNDS = 3
LINES: Mapping[str, tuple[Callable[[Backlog, int], Line], int]] = {
    "live": (live.measure, ROUNDS),
    "replay": (replay.measure, ROUNDS),
    "gates": (gates.measure, gates.ROUNDS),  # a difference of few percent shows in the median of many only
}
WITHOUT_PEER = frozenset({"gates"})


def main() -> None:
    """Measure what was asked for; exit with 3 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"some of {', '.join(LINES)}; all by default")
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, help=f"of each line; {ROUNDS} by default, {gates.ROUNDS} of gates")
    options = parser.parse_args()
    unknown = set(options.lines) - set(LINES)
    if unknown:
        parser.error(f"there is no line {', '.join(sorted(unknown))}; there are {', '.join(LINES)}")
    where = machine()
    names = options.lines or list(LINES)
    if set(names) - WITHOUT_PEER:
        locked_python(ENVIRONMENT)
    with backlog(options.events) as found:
        measured = []
        for name in names:
            say(f"== {name}")
            measure, rounds = LINES[name]
            measured.append(measure(found, options.rounds or rounds))
            save(measured, where)  # of the others something is left if one fails
    _print(measured)
    say(f"written to {FILE}")
    sys.exit(0 if all(line.met for line in measured) else 3)


def _print(measured: list[Line]) -> None:
    table = Table("line", "value", "spread", "peer", "ratio", "goal", "met", "CPU per event")
    for line in measured:
        goal = f">= {line.goal.value_min:,.0f}, " if line.goal.value_min else ""
        goal += f">= {line.goal.ratio_min:g}x" if line.goal.ratio_min else ""
        cells = (f"{line.value:,.0f} {line.unit}", f"{line.spread:.0%}", f"{line.peer:,.0f}", f"{line.ratio:.2f}x")
        cpu = "" if line.cpu_us is None else f"{line.cpu_us:g} us, peer {line.peer_cpu_us:g} us"
        table.add_row(line.line, *cells, goal, "yes" if line.met else "no", cpu)
    Console().print(table)


if __name__ == "__main__":
    main()
