"""Whatever is delivered again, by whichever worker, and however it is judged: each position is in the lake once."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.lake import LakeSink
from sinks.lake_reads import offsets
from sinks.rows import PartitionFlush
from sinks.tables import DEAD_LETTERS, RAW_EVENTS
from tests.fakes.lake import MemoryLake
from tests.rows import flush

OFFSETS = 24
WORKERS = 3


class Delivery(NamedTuple):
    """One worker processes what one partition holds from `first` on, and judges some records to be dead letters."""

    worker: int
    partition: int
    first: int
    length: int
    unreadable: frozenset[int]

    def flush(self) -> PartitionFlush:
        found = range(self.first, min(self.first + self.length, OFFSETS))
        return flush(
            [offset for offset in found if offset not in self.unreadable],
            letters=[offset for offset in found if offset in self.unreadable],
            partition=self.partition,
        )


deliveries = st.lists(
    st.builds(
        Delivery,
        worker=st.integers(0, WORKERS - 1),
        partition=st.integers(0, 1),
        first=st.integers(0, OFFSETS - 1),
        length=st.integers(1, OFFSETS),
        unreadable=st.frozensets(st.integers(0, OFFSETS - 1), max_size=4),
    ),
    min_size=1,
    max_size=8,
)


@given(deliveries)
def test_every_position_is_written_once_in_memory(told: list[Delivery]) -> None:
    lake = MemoryLake()
    workers = [lake.worker() for _ in range(WORKERS)]
    deliver(told, workers)
    for table in ("raw_events", "dead_letters"):
        found = Counter((row["partition"], row["offset"]) for row in lake.rows(table))
        assert set(found) == judged(told, table)
        assert set(found.values()) <= {1}


@settings(max_examples=15, deadline=None)
@given(deliveries)
def test_every_position_is_written_once_on_delta(told: list[Delivery]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        deliver(told, [LakeSink(Path(folder)) for _ in range(WORKERS)])
        for table in (RAW_EVENTS, DEAD_LETTERS):
            found = offsets(Path(folder), table)
            positions = [(partition, offset) for (_, partition), held in found.items() for offset in held]
            assert sorted(positions) == sorted(judged(told, table.name))


def deliver(told: list[Delivery], workers: list[LakeSink]) -> None:
    for delivery in told:
        workers[delivery.worker].write([delivery.flush()])


def judged(told: list[Delivery], table: str) -> set[tuple[int, int]]:
    """Every position that was ever judged to belong to a table."""
    flushes = [delivery.flush() for delivery in told]
    if table == "raw_events":
        return {(flush.partition, row.record.offset) for flush in flushes for row in flush.raw}
    return {(flush.partition, letter.offset) for flush in flushes for letter in flush.letters}
