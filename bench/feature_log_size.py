"""How large `feature_log` becomes: `python -m bench.feature_log_size [--events N] [--rate N]`.

Simulated traffic is folded as a worker does, in batches of 20 ms, and flushed every 2 s to a lake in a temporary
folder, which is then compacted. Printed are bytes on disk per million events, for some values of
`lake.feature_log_interval_ms`, and for comparison those of `raw_events` with the records' own bytes left out. No
service is needed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from features.apply import fold
from features.state import read_trailer
from schemas.event import Event, Record
from schemas.partitioner import partition_of
from sinks.lake import LakeSink
from sinks.maintenance import maintain_lake
from sinks.rows import FeatureLogRow, PartitionFlush, RawRow
from traffic.simulator import Simulator, SimulatorConfig

PARTITIONS = 4
BATCH_MS = 20
FLUSH_MS = 2_000
START_MS = 1_790_000_000_000
INTERVALS_MS = (0, 500, 2_000)


class Worker:
    """What a worker keeps in memory between two flushes."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], bytes] = {}
        self._ends: dict[tuple[str, int], int] = defaultdict(int)
        self._raw: dict[tuple[str, int], list[RawRow]] = defaultdict(list)
        self._features: dict[tuple[str, int], list[FeatureLogRow]] = defaultdict(list)
        self._batch: dict[tuple[str, str], list[tuple[int, Event]]] = defaultdict(list)

    def take(self, topic: str, event: Event, now_ms: int) -> None:
        """Take in an event."""
        log = topic, partition_of(event.user_id.encode(), PARTITIONS)
        offset = self._ends[log]
        self._ends[log] = offset + 1
        record = Record(*log, offset, now_ms, event.user_id.encode(), None)
        self._raw[log].append(RawRow(record, event, 1, now_ms))
        self._batch[topic, event.user_id].append((offset, event))

    def push(self, now_ms: int) -> None:
        """Fold the batch: a state per user that has events in it."""
        for (topic, user_id), log in self._batch.items():
            state = self._states[topic, user_id] = fold(self._states.get((topic, user_id)), log).state
            row = FeatureLogRow(user_id, read_trailer(state).version, state, now_ms)
            self._features[topic, partition_of(user_id.encode(), PARTITIONS)].append(row)
        self._batch.clear()

    def flush(self) -> list[PartitionFlush]:
        """Return what was buffered since the last flush."""
        taken = [
            PartitionFlush(
                topic, topic, f"{topic}:{PARTITIONS}", number, rows[0].record.offset, rows[-1].record.offset,
                rows, self._features[topic, number],
            )
            for (topic, number), rows in self._raw.items()
        ]  # fmt: skip
        self._raw, self._features = defaultdict(list), defaultdict(list)
        return taken


def flushes(count: int, rate: float) -> Iterator[list[PartitionFlush]]:
    """Yield what a worker flushes of so many events, one list per flush."""
    worker, pushed_ms, flushed_ms = Worker(), 0, 0
    for sent in Simulator(SimulatorConfig(seed=7, start_ms=START_MS, rate=rate), count).events():
        if sent.send_ms - pushed_ms >= BATCH_MS:
            worker.push(START_MS + pushed_ms + BATCH_MS)
            pushed_ms = sent.send_ms
        if sent.send_ms - flushed_ms >= FLUSH_MS:
            yield worker.flush()
            flushed_ms = sent.send_ms
        if isinstance(sent.payload, Event):
            worker.take(sent.topic, sent.payload, START_MS + sent.send_ms)
    worker.push(START_MS + pushed_ms + BATCH_MS)
    yield worker.flush()


def measure(count: int, rate: float, folder: Path) -> dict[str, Any]:
    """Write the same events to a lake per interval; return sizes per million events."""
    lakes = {interval: folder / str(interval) for interval in INTERVALS_MS}
    sinks = {interval: LakeSink(lake, feature_log_interval_ms=interval) for interval, lake in lakes.items()}
    rows = dict.fromkeys(INTERVALS_MS, 0)
    for taken in flushes(count, rate):
        for interval, sink in sinks.items():
            rows[interval] += sink.write(taken).tables["feature_log"].written
    found: dict[str, Any] = {"events": count, "rate": rate, "feature_log": {}}
    for interval, lake in lakes.items():
        tables = {table.name: table for table in maintain_lake(lake, retention_hours=24, open_day=True).tables}
        size = tables["feature_log"].after.bytes
        found["feature_log"][f"{interval} ms"] = {
            "rows_per_event": round(rows[interval] / count, 3),
            "bytes_per_row": round(size / rows[interval], 1),
            "mb_per_million_events": round(size / count, 1),
            "before_compaction": round(tables["feature_log"].before.bytes / count, 1),
        }
        found["raw_events_mb_per_million_events"] = round(tables["raw_events"].after.bytes / count, 1)
    return found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events per second, of event time")
    given = parser.parse_args()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shopstream-bench-") as folder:
        found = measure(given.events, given.rate, Path(folder))
    found["seconds"] = round(time.monotonic() - started_s, 1)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
