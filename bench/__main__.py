"""`make bench`: each line beside its peer, in turn, in one run; results go to bench/results.json.

The line `gates` needs no peer: it is beside itself with gates off.

python -m bench [live] [replay] [gates] [--events 200000] [--rounds 3]
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

LINES: Mapping[str, Callable[[Backlog, int], Line]] = {
    "live": live.measure,
    "replay": replay.measure,
    "gates": gates.measure,
}
WITHOUT_PEER = frozenset({"gates"})


def main() -> None:
    """Measure what was asked for; exit with 3 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"some of {', '.join(LINES)}; all by default")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
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
            measured.append(LINES[name](found, options.rounds))
    save(measured, where)
    _print(measured)
    say(f"written to {FILE}")
    sys.exit(0 if all(line.met for line in measured) else 3)


def _print(measured: list[Line]) -> None:
    table = Table("line", "value", "spread", "peer", "ratio", "goal", "met")
    for line in measured:
        goal = f">= {line.goal.value_min:,.0f}, " if line.goal.value_min else ""
        goal += f">= {line.goal.ratio_min:g}x" if line.goal.ratio_min else ""
        cells = (f"{line.value:,.0f} {line.unit}", f"{line.spread:.0%}", f"{line.peer:,.0f}", f"{line.ratio:.2f}x")
        table.add_row(line.line, *cells, goal, "yes" if line.met else "no")
    Console().print(table)


if __name__ == "__main__":
    main()
