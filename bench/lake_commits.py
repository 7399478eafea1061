"""How the time of a flush grows with the commits of a day, and what `shopstream lake maintain` makes of it.

    python bench/lake_commits.py --commits 1000 5000 10000

Appends to `raw_events` in a scratch folder as a worker does, and prints, whenever one of the numbers of commits is
reached, the files of the table and, of the last 200 appends, the mean and the longest in ms and the CPU time, which
other programs disturb less. Then it maintains the table and measures 200 appends more. With `--maintain-every` it
maintains the table all along.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from deltalake import DeltaTable

from schemas.event import CLICKS_TOPIC, Event, Record
from sinks.arrow_rows import raw_events
from sinks.delta import DeltaAppender, TablePart
from sinks.maintenance import maintain_lake
from sinks.rows import PartitionFlush, RawRow
from sinks.tables import RAW_EVENTS

PARTITIONS = 8
SAMPLE = 200


def parts(number: int, rows: int, now_ms: int) -> list[TablePart]:
    """Return the rows of one flush, the same number of each partition."""
    made = []
    for partition in range(PARTITIONS):
        offsets = range(number * rows, (number + 1) * rows)
        raw = [
            RawRow(
                Record(CLICKS_TOPIC, partition, offset, now_ms, b"user", b"\0\0\0\0\1" + offset.to_bytes(60, "big")),
                Event(event_id=f"{partition}-{offset}", kind="click", user_id="user", event_time_ms=now_ms),
                1,
                now_ms,
            )
            for offset in offsets
        ]
        flush = PartitionFlush(CLICKS_TOPIC, "tid", f"tid:{PARTITIONS}", partition, offsets[0], offsets[-1], raw)
        made.append(TablePart(f"tid-{partition}-raw_events", offsets[-1], raw_events(flush)))
    return made


class Run:
    """One table that grows."""

    def __init__(self, lake: Path, rows: int) -> None:
        self._lake = lake
        self._rows = rows
        self._appender = DeltaAppender(lake, RAW_EVENTS)
        self._count = 0
        self._spent_ms: list[float] = []
        self._cpu_ms: list[float] = []

    def append(self, commits: int) -> None:
        """Append so many times."""
        now_ms = int(time.time() * 1_000)
        for _ in range(commits):
            flush = parts(self._count, self._rows, now_ms)
            started, cpu_started = time.perf_counter(), time.process_time()
            self._appender.append(flush)
            self._spent_ms.append(1_000 * (time.perf_counter() - started))
            self._cpu_ms.append(1_000 * (time.process_time() - cpu_started))
            self._count += 1

    def tell(self, what: str) -> None:
        """Print where the table stands."""
        last = self._spent_ms[-SAMPLE:]
        files = len(DeltaTable(self._lake / RAW_EVENTS.name).file_uris())
        line = f"{what:<28} {self._count:>7,} commits {files:>7,} files   mean {statistics.mean(last):>6.1f} ms"
        cpu_ms = statistics.mean(self._cpu_ms[-SAMPLE:])
        sys.stdout.write(f"{line}   longest {max(last):>6.1f} ms   CPU {cpu_ms:>6.1f} ms\n")
        sys.stdout.flush()

    def maintain(self) -> float:
        """Maintain the table, today included; return the seconds that it took."""
        started = time.perf_counter()
        maintain_lake(self._lake, retention_hours=168, open_day=True)
        return time.perf_counter() - started


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, nargs="+", default=[1_000, 5_000, 10_000])
    parser.add_argument("--rows", type=int, default=25, help="of each of 8 partitions in one commit")
    parser.add_argument("--maintain-every", type=int, default=0, metavar="COMMITS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch), options.rows)
        done = 0
        for goal in sorted(options.commits):
            while done < goal:
                step = min(goal - done, options.maintain_every or goal)
                run.append(step)
                done += step
                if options.maintain_every and done < goal:
                    run.maintain()
            run.tell("maintained all along" if options.maintain_every else "never maintained")
        spent_s = run.maintain()
        run.append(SAMPLE)
        run.tell(f"after maintain ({spent_s:.1f} s)")


if __name__ == "__main__":
    main()
