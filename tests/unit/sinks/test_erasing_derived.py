"""Rows of an erased user leave the tables that are made from others: by position, or by time where there is no log."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from schemas.event import CLICKS_TOPIC
from schemas.privacy import Pseudonyms
from sinks.delta import open_or_create
from sinks.derived_tables import FEATURE_HISTORY, SERVED, SESSIONS
from sinks.erasing import TableEraser, erasable_tables, logs_of_users
from sinks.erasures import CUT, REQUESTED, ErasedLog, ErasureRow, Tombstones, tombstones_of
from sinks.tables import ColumnType, LakeTable, arrow_schema
from tests.privacy_search import lake_contents

KEY = Pseudonyms(b"a key of the tests, long enough")
VICTIM = "the-one-who-leaves"
LOG = ErasedLog("tid", CLICKS_TOPIC, 0)
T0 = 1_700_000_000_000
NOTED_MS = T0 + 50_000
_VALUES: dict[ColumnType, Any] = {
    ColumnType.STRING: "x", ColumnType.LONG: 1, ColumnType.INTEGER: 0, ColumnType.DATE: date(2023, 11, 14),
    ColumnType.DOUBLE: 0.5, ColumnType.BOOLEAN: True, ColumnType.STRINGS: ["p1", "p2"],
}  # fmt: skip


def write(lake: Path, table: LakeTable, rows: list[dict[str, Any]]) -> None:
    full = [{column.name: _VALUES[column.type] for column in table.columns} | row for row in rows]
    handle = open_or_create(lake / table.name, table)
    write_deltalake(handle, pa.Table.from_pylist(full, schema=arrow_schema(table)), mode="append")


def erasure(*ends: tuple[str, int, int]) -> Tombstones:
    """Return tombstones of steps: (step, offset, noted_ms)."""
    subject = KEY.subject(VICTIM)
    rows = [
        ErasureRow("r", step, subject, KEY.key_id, "tid:4", CLICKS_TOPIC, 0, end, noted) for step, end, noted in ends
    ]
    return tombstones_of(rows, KEY)


def held(lake: Path, table: LakeTable, *names: str) -> list[tuple[Any, ...]]:
    rows = DeltaTable(lake / table.name).to_pyarrow_table(columns=list(names)).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


@pytest.mark.parametrize("ids", [[VICTIM], None])
def test_feature_history_goes_by_the_position_of_its_events(tmp_path: Path, ids: list[str] | None) -> None:
    place = {"log_epoch": "tid:4", "topic": CLICKS_TOPIC, "partition": 0}
    rows = [place | {"user_id": user, "offset": n} for n, user in enumerate([VICTIM, "u2", VICTIM, VICTIM])]
    write(tmp_path, FEATURE_HISTORY, rows)
    done = TableEraser(tmp_path, FEATURE_HISTORY, erasure((REQUESTED, 3, NOTED_MS)), ids).erase()
    assert done is not None
    assert done.rows == 2
    assert held(tmp_path, FEATURE_HISTORY, "offset", "user_id") == [(1, "u2"), (3, VICTIM)]
    (kept,) = (
        DeltaTable(tmp_path / FEATURE_HISTORY.name).to_pyarrow_table(columns=["last_products_24h"]).to_pydict().values()
    )
    assert kept == [["p1", "p2"]] * 2
    assert logs_of_users(tmp_path, FEATURE_HISTORY, [VICTIM]) == {(CLICKS_TOPIC, "tid:4", 0)}


@pytest.mark.parametrize("ids", [[VICTIM], None])
def test_served_goes_by_when_it_was_served(tmp_path: Path, ids: list[str] | None) -> None:
    times = [T0, NOTED_MS, NOTED_MS + 1]
    write(tmp_path, SERVED, [{"user_id": user, "served_ms": time} for time in times for user in (VICTIM, "u2")])
    # the newest step counts: until the cut the states were there to be served
    tombstones = erasure((REQUESTED, 3, T0 + 5), (CUT, 9, NOTED_MS))
    done = TableEraser(tmp_path, SERVED, tombstones, ids).erase()
    assert done is not None
    assert done.rows == 2
    assert held(tmp_path, SERVED, "user_id", "served_ms") == [
        (VICTIM, NOTED_MS + 1), *(("u2", time) for time in times)
    ]  # fmt: skip
    assert logs_of_users(tmp_path, SERVED, [VICTIM]) == set()


def test_sessions_that_may_hold_an_event_from_before_go(tmp_path: Path) -> None:
    starts = [T0, NOTED_MS + 60_000, NOTED_MS + 3_600_001]
    write(tmp_path, SESSIONS, [{"user_id": user, "start_ms": start} for start in starts for user in (VICTIM, "u2")])
    eraser = TableEraser(tmp_path, SESSIONS, erasure((REQUESTED, 3, NOTED_MS)), [VICTIM])
    assert eraser.count() == 2
    done = eraser.erase()
    assert done is not None
    assert (done.rows, done.files) == (2, 1)
    assert held(tmp_path, SESSIONS, "user_id", "start_ms") == [
        (VICTIM, starts[2]), *(("u2", start) for start in starts)
    ]  # fmt: skip


def test_pseudonyms_are_found_as_well_and_no_byte_is_left(tmp_path: Path) -> None:
    stored = KEY.of(VICTIM)
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    for table, name in ((SERVED, "served_ms"), (SESSIONS, "start_ms")):
        write(tmp_path, table, [{"user_id": user, name: T0} for user in (stored, VICTIM, "u2")])
        done = TableEraser(tmp_path, table, erasure((REQUESTED, 3, now_ms)), None).erase()
        assert done is not None
        assert done.rows == 2
    found = list(lake_contents(tmp_path))
    assert found
    for needle in (stored, VICTIM):
        assert not any(needle.encode() in content for _, content in found)


def test_who_was_never_erased_stays(tmp_path: Path) -> None:
    write(tmp_path, SERVED, [{"user_id": "u2", "served_ms": 0}])
    done = TableEraser(tmp_path, SERVED, erasure((REQUESTED, 3, NOTED_MS)), None).erase()
    assert done is not None
    assert done.rows == 0
    assert Tombstones().until_ms("u2") == -1


def test_every_table_with_users_is_covered() -> None:
    names = {table.name for table in erasable_tables()}
    assert names >= {"served", "sessions", "feature_history", "feature_log", "feature_log_v2", "repairs_v2"}
    assert not names & {"erasures", "log_moves", "training_sets", "redrives"}
