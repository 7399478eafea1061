"""What models are worth on real traffic: python -m bench.rees46_models FILE [--from TIME] [--mode as_served] [--json]

A REES46 export is laid into a lake in a temporary folder, as a worker would have written it: each event arrives when it
happened, and its state is readable a moment later. A model is trained on it, and is printed with the baselines, as
`shopstream train run` prints it; then it becomes the champion, and a second one is trained beside it. No service is
needed. The figures are what they are; nothing here is a goal.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.results import say
from cli.train_run import print_report
from config.settings import Settings, load_settings
from replay.dead_letter_selection import parse_time
from schemas.event import Event
from traffic.rees46 import Rees46File
from training.models import CHAMPION, Models
from training.run import train

if TYPE_CHECKING:
    from training.run import TrainingReport

ARRIVES_MS = 40
FLUSH_EVENTS = 5_000


def fill(settings: Settings, file: Path) -> int:
    """Write a file's events into the lake of the settings; return how many."""
    from tests.recorded_lakes import RecordedLake

    lake = RecordedLake(settings.lake_path)
    count = 0
    for timed in Rees46File(file, "USD").events():
        if not isinstance(timed.payload, Event):
            raise TypeError("an export holds events only")
        lake.arrive(timed.payload, at_ms=timed.payload.event_time_ms + ARRIVES_MS)
        count += 1
        if count % FLUSH_EVENTS == 0:
            lake.write()
    lake.write()
    return count


def main() -> None:
    """Train twice; print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--from", dest="start", help="first event time that is trained on, ISO 8601 with its zone")
    parser.add_argument("--mode", choices=("as_served", "as_corrected"), default="as_served")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from tests.registries import store_without_redis

    with tempfile.TemporaryDirectory(prefix="shopstream-rees46-") as folder:
        settings = load_settings(
            {
                "home": Path(folder) / "home",
                "redis": {"url": "redis://localhost:1/0"},
                "registry": {"url": ""},
                "training": {"mode": options.mode},
            }
        )
        store_without_redis(settings)
        say(f"{fill(settings, options.file):,} events are in the lake")
        from_ms = None if options.start is None else parse_time(options.start, 0)
        first = train(settings, from_ms=from_ms, tell=say)
        Models.from_settings(settings).set_alias(CHAMPION, first.version or "")
        _print("without a champion", first, as_json=options.json)
        second = train(settings, from_ms=from_ms, tell=say)
        _print("beside the first one as champion", second, as_json=options.json)


def _print(title: str, report: "TrainingReport", *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"training": title, **report.payload()}, default=str) + "\n")
        return
    console = Console()
    console.print(f"\n== {title}", highlight=False)
    print_report(console, report)


if __name__ == "__main__":
    main()
