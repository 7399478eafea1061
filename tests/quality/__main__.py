"""`python -m tests.quality`: the proof at any size, with its figures; no service is needed."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.quality.proof import Figures, prove
from tests.quality.world import Plan


def main() -> int:
    """Run the proof for several seeds; 1 if one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.quality", description=__doc__)
    parser.add_argument("--windows", type=int, default=100, help="stationary windows that are judged [default: 100]")
    parser.add_argument("--history", type=int, default=72, help="windows of history [default: 72]")
    parser.add_argument("--events", type=int, default=2_500, help="events of a window, on average [default: 2500]")
    parser.add_argument("--seeds", type=int, default=3, help="worlds [default: 3]")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--min-rows", type=int, default=200)
    parser.add_argument(
        "--evening", type=float, default=0.0, help="share of evening events of other categories, every day [default: 0]"
    )
    options = parser.parse_args()
    _say(
        "seed  calibrated  stationary  alarms  unjudged  triggers: stable broken shifted  after window  "
        "null share  seconds"
    )
    failed = False
    total = alarms = 0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        plan = Plan(
            seed, history=options.history, stable=options.windows, events=options.events, evening=options.evening
        )
        with tempfile.TemporaryDirectory(prefix="shopstream-drift-") as folder:
            found = prove(Path(folder), plan, min_rows=options.min_rows)
        _print(found)
        total, alarms = total + found.stable, alarms + found.alarms
        failed = failed or problems(found) != []
        for problem in problems(found):
            _say(f"      FAILED: {problem}")
    _say(f"{alarms} alarms in {total} stationary windows: {alarms / max(1, total):.2%}")
    return 1 if failed else 0


def problems(found: Figures) -> list[str]:
    """Say what is not as it must be."""
    told = []
    if found.alarms > max(1, found.stable // 100):
        told.append(f"{found.alarms} alarms in {found.stable} stationary windows: {found.alarming}")
    if found.triggers != {"stable": 0, "broken": 0, "mended": 0, "shifted": 1}:
        told.append(f"triggers: {found.triggers}")
    if found.windows_to_trigger is None or found.windows_to_trigger > 4:
        told.append(f"the shift gave cause after window {found.windows_to_trigger}")
    nulls = sum(found.null_scores) / max(1, len(found.null_scores))
    if set(found.broken) != {"unjudged"} or not 0.035 < nulls < 0.07:
        told.append(f"broken windows: {found.broken}, null shares {found.null_scores}")
    return told


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _print(found: Figures) -> None:
    parts = found.triggers
    shares = ", ".join(f"{share:.1%}" for share in found.null_scores)
    spent = " + ".join(f"{seconds:.1f} ({what})" for what, seconds in found.seconds.items())
    _say(
        f"{found.seed:4d}  {found.calibrated_on:10d}  {found.stable:10d}  {found.alarms:6d}  {found.unjudged:8d}  "
        f"{parts['stable']:16d} {parts['broken'] + parts['mended']:6d} {parts['shifted']:7d}  "
        f"{found.windows_to_trigger!s:>12}  {shares}  {spent}"
    )
    for words in found.alarming:
        _say(f"      false alarm: {words}")
    _say(f"      {found.words}")


if __name__ == "__main__":
    sys.exit(main())
