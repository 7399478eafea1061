"""Tables of every release are read by this one, appended to exactly, and maintained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS, Event, Record
from sinks.lake import LakeSink
from sinks.lake_reads import held_offset, offsets, read_raw
from sinks.maintenance import maintain_lake
from sinks.rows import PartitionFlush, RawRow
from sinks.tables import DEAD_LETTERS, FEATURE_LOG, RAW_EVENTS
from tests.golden.make import TOPIC_IDS, flush, stretch

RELEASES = Path(__file__).resolve().parents[2] / "golden" / "releases"
FOLDERS = sorted(path.parent for path in RELEASES.glob("*/lake.json"))
TABLES = (RAW_EVENTS, FEATURE_LOG, DEAD_LETTERS)


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a release's lake, and what is in it."""
    folder: Path = request.param
    shutil.copytree(folder / "lake", tmp_path / "lake")
    return tmp_path / "lake", json.loads((folder / "lake.json").read_text(encoding="utf-8"))


def test_there_are_releases_to_be_read() -> None:
    assert FOLDERS


def held(lake: Path) -> dict[str, dict[str, int | None]]:
    return {
        table.name: {topic: held_offset(lake, table, TOPIC_IDS[topic], 0) for topic in EVENT_TOPICS} for table in TABLES
    }


def all_offsets(lake: Path) -> dict[str, dict[str, list[int]]]:
    return {table.name: {topic: at for (topic, _), at in offsets(lake, table).items()} for table in TABLES}


def written(lake: Path, *flushes: PartitionFlush) -> dict[str, int]:
    return {name: counts.written for name, counts in LakeSink(lake).write(flushes).tables.items()}


def recorded_row(given: dict[str, Any]) -> RawRow:
    key, value = bytes.fromhex(given["key"]), bytes.fromhex(given["value"])
    record = Record(given["topic"], 0, given["offset"], given["append_time_ms"], key, value)
    return RawRow(record, Event(**given["event"]), given["schema_id"], given["ingest_time_ms"])


def test_its_rows_are_read_as_they_were_written(release: tuple[Path, dict[str, Any]]) -> None:
    lake, content = release
    assert all_offsets(lake) == content["offsets"]
    assert held(lake) == content["held"]
    rows = [row for topic in EVENT_TOPICS for row in read_raw(lake, stretch(topic))]
    assert rows == [recorded_row(given) for given in content["raw_events"]]


def test_rows_that_it_holds_are_dropped_and_new_ones_are_written(release: tuple[Path, dict[str, Any]]) -> None:
    lake, content = release
    # offset 6 was a dead letter and can be read now; 12 to 14 are new
    again = flush(CLICKS_TOPIC, range(15), letters=[8, 12]), flush(CARTS_TOPIC, range(5), letters=[4])
    assert written(lake, *again) == {"raw_events": 3, "feature_log": 1, "dead_letters": 1}
    assert written(lake, *again) == {"raw_events": 0, "feature_log": 0, "dead_letters": 0}
    expected = content["offsets"]
    expected["raw_events"][CLICKS_TOPIC] = [*range(8), 9, 10, 11, 13, 14]
    expected["feature_log"][CLICKS_TOPIC] += [14]
    expected["dead_letters"][CLICKS_TOPIC] += [12]
    assert all_offsets(lake) == expected
    assert {name: of_topic[CLICKS_TOPIC] for name, of_topic in held(lake).items()} == {
        "raw_events": 14,
        "feature_log": 14,
        "dead_letters": 14,
    }


def test_it_is_maintained_and_still_holds_what_it_held(release: tuple[Path, dict[str, Any]]) -> None:
    lake, content = release
    report = maintain_lake(lake, retention_hours=168)
    assert {table.name: table.after.files for table in report.tables} == {table.name: 1 for table in TABLES}
    assert all_offsets(lake) == content["offsets"]
    assert held(lake) == content["held"]
    again = flush(CLICKS_TOPIC, range(12), letters=[6, 8]), flush(CARTS_TOPIC, range(5), letters=[4])
    assert written(lake, *again) == {"raw_events": 0, "feature_log": 0, "dead_letters": 0}
