"""Run many seeds: `python -m tests.simulation --seeds 10000`; replay one with its trace: `--seed N`."""

import argparse
import gc
import multiprocessing
import multiprocessing.pool
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from tests.simulation.mutants import MUTANTS, REPLAY_MUTANTS, planted
from tests.simulation.promises import Violation
from tests.simulation.world import RunResult, simulate

SEEDS_PER_TASK = 20
MUTANT_SEEDS_MAX = 1_000
TOLD_EVERY_S = 5.0


class Caught(NamedTuple):
    """What became of one mutant."""

    name: str
    seed: int | None
    violation: Violation | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if a promise was broken, or a mutant not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one, with a trace of what happened")
    parser.add_argument("--parity", action="store_true", help="compare live with replays of the log and the lake, too")
    parser.add_argument("--mutants", action="store_true", help="plant bugs in the production code, and find each")
    parser.add_argument("--only", default="", help="with --mutants: those whose name holds this text")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many at once")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return replay(options.seed, parity=options.parity)
    if options.mutants:
        return find_mutants(options.processes, options.only)
    return run_many(options.first, options.seeds, options.processes, parity=options.parity)


def run_many(first: int, count: int, processes: int, *, parity: bool = False) -> int:
    """Run seeds until all are done or one fails; replay the first that does."""
    started_s = told_s = time.monotonic()
    done, records, faults, virtual_s, anew, states, values = 0, 0, 0, 0.0, 0, 0, 0
    failed: list[RunResult] = []
    chunks = [range(at, min(at + SEEDS_PER_TASK, first + count)) for at in range(first, first + count, SEEDS_PER_TASK)]
    with _pool(processes) as pool:
        for results in pool.imap(partial(run_chunk, parity=parity), chunks):
            done += len(results)
            records += sum(result.record_count for result in results)
            faults += sum(result.fault_count for result in results)
            virtual_s += sum(result.virtual_s for result in results)
            anew += sum(result.judged_anew_count for result in results)
            states += sum(result.states_compared for result in results)
            values += sum(result.values_compared for result in results)
            failed = [result for result in results if result.violation is not None]
            now_s = time.monotonic()
            if failed or now_s - told_s > TOLD_EVERY_S:
                told_s = now_s
                say(f"{done:,} of {count:,} seeds, {done / (now_s - started_s):.0f} seeds/s")
            if failed:
                break
    elapsed_s = time.monotonic() - started_s
    say(
        f"{done:,} seeds in {elapsed_s:.1f} s ({done / elapsed_s:.1f} seeds/s, {processes} processes): "
        f"{records:,} records, {faults:,} faults, {virtual_s / 3600:.1f} hours of virtual time; "
        f"users with an event judged anew: {anew}; violations {len(failed)}"
    )
    if parity and not failed:
        say(f"{states:,} states and {values:,} values of features were the same in live, the log and the lake")
    return replay(failed[0].seed, parity=parity) if failed else 0


def run_chunk(seeds: Sequence[int], *, parity: bool = False) -> list[RunResult]:
    """Run some seeds, up to the first that fails."""
    results: list[RunResult] = []
    for seed in seeds:
        results.append(simulate(seed, parity=parity))
        if results[-1].violation is not None:
            break
    return results


def replay(seed: int, *, parity: bool = False) -> int:
    """Run one seed again, and print what happened."""
    result = simulate(seed, trace=say, parity=parity)
    if result.violation is None:
        say(f"seed {seed}: no violation; {result.digest}")
        return 0
    say(f"seed {seed}: {result.violation}")
    say(f"Replay it with: python -m tests.simulation --seed {seed}{' --parity' if parity else ''}")
    return 1


def find_mutants(processes: int, only: str = "") -> int:
    """Plant one bug after the other; each must break a promise within `MUTANT_SEEDS_MAX` seeds."""
    found = 0
    names = [name for name in MUTANTS if only in name]
    started_s = time.monotonic()
    with _pool(processes) as pool:
        for caught in pool.imap_unordered(hunt, names):
            if caught.violation is None:
                say(f"NOT FOUND  {caught.name}: no promise was broken in {MUTANT_SEEDS_MAX} seeds")
                continue
            found += 1
            say(f"found      {caught.name}: seed {caught.seed}: {caught.violation.promise}")
    say(f"in {time.monotonic() - started_s:.0f} s")
    say(f"{found} of {len(names)} found")
    return 0 if found == len(names) else 1


def hunt(name: str, seeds: Sequence[int] = range(MUTANT_SEEDS_MAX)) -> Caught:
    """Run seeds with a planted bug until one breaks a promise."""
    with planted(name):
        for seed in seeds:
            violation = simulate(seed, parity=name in REPLAY_MUTANTS).violation
            if violation is not None:
                return Caught(name, seed, violation)
    return Caught(name, None, None)


@contextmanager
def _pool(processes: int) -> Iterator[multiprocessing.pool.Pool]:
    with multiprocessing.get_context("fork").Pool(processes, initializer=_spare_the_collector) as pool:
        yield pool


def _spare_the_collector() -> None:
    """Leave what lives for ever out of garbage collections, and collect less often: an eighth of a run's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 - it is a command


if __name__ == "__main__":
    sys.exit(main())
