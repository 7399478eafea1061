"""When a window of events is closed: logs that are read hours apart, and logs that nobody writes to."""

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from schemas.event import Event
from schemas.partitioner import partition_of
from sinks.lake_root import lake_of
from tests.drift_shop import settings_of
from tests.recorded_lakes import PARTITIONS, RecordedLake
from training.sets import SetMode
from training.window_profiles import WindowReader

HOUR_MS = 3_600_000
T0 = 472_222 * HOUR_MS
USERS = {partition_of(f"u{number}".encode(), PARTITIONS): f"u{number}" for number in range(50)}


@pytest.mark.parametrize(
    ("newest", "behind", "closed_until"),
    [
        ({0: 5.5, 1: 4.9}, (), 4),
        ({0: 5.5, 1: 2.5}, (), 4),  # nobody writes there, as far as one knows
        ({0: 5.5, 1: 2.5}, (1,), 2),
        ({0: 5.5, 1: 0.5}, (1,), 1),  # what it holds is of no interest, but more will come
        ({0: 5.5, 1: 4.9}, (0, 1), 4),
        ({0: 30.5, 1: 5.5}, (1,), 30),  # a day behind
        ({0: 30.5, 1: 0.5}, (1,), 30),
    ],
)
def test_windows_wait_for_logs_that_are_behind_and_not_for_those_that_nobody_writes_to(
    tmp_path: Path, newest: Mapping[int, float], behind: Collection[int], closed_until: int
) -> None:
    settings = settings_of(tmp_path, lateness_ms=0)
    lake = RecordedLake(settings.lake_path)
    for partition, hour in newest.items():
        at_ms = T0 + round(hour * HOUR_MS)
        click = Event(event_id="e", kind="click", user_id=USERS[partition], event_time_ms=at_ms, product_id="p")
        lake.arrive(click, at_ms=at_ms)
    lake.write()
    reader = WindowReader(settings, lake_of(settings), SetMode.AS_CORRECTED, HOUR_MS)
    found_ms = reader.closed_until_ms(T0 + HOUR_MS, behind)
    assert (found_ms - T0) / HOUR_MS == closed_until
