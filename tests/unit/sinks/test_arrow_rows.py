"""Each table's rows, cell by cell."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest

from schemas.dead_letter import DeadLetter
from schemas.event import CARTS_TOPIC, Event, Record
from sinks.arrow_rows import BUILDERS, dead_letters, feature_log, raw_events
from sinks.rows import FeatureLogRow, PartitionFlush, RawRow
from sinks.tables import EVENT_COLUMNS, LakeTable, arrow_schema
from tests.rows import NOON_MS, letter

LAST_MS_OF_DAY = NOON_MS + 12 * 3_600_000 - 1
CART = Event(
    event_id="e1",
    kind="add",
    user_id="u1",
    event_time_ms=NOON_MS - 1,
    session_id="s1",
    device="mobile",
    product_id="p1",
    category_id="c1",
    quantity=3,
    unit_price_minor=2**62,
    currency="EUR",
    order_id="o1",
)


def carts(
    *, raw: Sequence[RawRow] = (), features: Sequence[FeatureLogRow] = (), letters: Sequence[DeadLetter] = ()
) -> PartitionFlush:
    return PartitionFlush(CARTS_TOPIC, "tid", "tid:8", 5, 0, 99, list(raw), list(features), list(letters))


def test_a_raw_row_holds_the_record_and_the_event() -> None:
    record = Record(CARTS_TOPIC, 5, 41, LAST_MS_OF_DAY, b"u1", b"\x00\x00\x00\x00\x07body")
    (row,) = raw_events(carts(raw=[RawRow(record, CART, 2**32 - 1, NOON_MS + 9)])).to_pylist()
    event = {name: row.pop(name) for name in Event.__struct_fields__}
    assert event == msgspec.structs.asdict(CART)
    assert row == {
        "log_epoch": "tid:8",
        "topic": CARTS_TOPIC,
        "partition": 5,
        "offset": 41,
        "append_time_ms": LAST_MS_OF_DAY,
        "append_date": date(2023, 11, 14),
        "ingest_time_ms": NOON_MS + 9,
        "schema_id": 2**32 - 1,
        "key": b"u1",
        "value": b"\x00\x00\x00\x00\x07body",
    }


def test_a_row_past_midnight_belongs_to_the_next_day() -> None:
    record = Record(CARTS_TOPIC, 5, 41, LAST_MS_OF_DAY + 1, b"u1", b"v")
    rows = raw_events(carts(raw=[RawRow(record, CART, 1, 1)]))
    assert rows.column("append_date").to_pylist() == [date(2023, 11, 15)]


def test_every_field_of_an_event_has_its_column() -> None:
    assert [column.name for column in EVENT_COLUMNS] == list(Event.__struct_fields__)


def test_a_feature_row_holds_the_state_and_the_instant_for_feast() -> None:
    (row,) = feature_log(carts(features=[FeatureLogRow("u1", 42, b"\x90\x00", LAST_MS_OF_DAY)])).to_pylist()
    assert row == {
        "log_epoch": "tid:8",
        "topic": CARTS_TOPIC,
        "partition": 5,
        "user_id": "u1",
        "version": 42,
        "state": b"\x90\x00",
        "servable_ms": LAST_MS_OF_DAY,
        "event_timestamp": datetime(2023, 11, 14, 23, 59, 59, 999_000, tzinfo=UTC),
        "servable_date": date(2023, 11, 14),
    }


def test_a_dead_letter_keeps_every_byte() -> None:
    value = b"\xff" * 2_000_000
    large = letter(7, partition=5, topic=CARTS_TOPIC, value=value)
    (row,) = dead_letters(carts(letters=[large])).to_pylist()
    kept = {name: value for name, value in msgspec.structs.asdict(large).items() if name != "dropped_bytes"}
    assert {name: row.pop(name) for name in kept} == kept
    assert row == {
        "log_epoch": "tid:8",
        "append_date": date(2023, 11, 14),
        "value_size": 2_000_000,
        "value_sha256": hashlib.sha256(value).hexdigest(),
        "fate": "open",
    }


def test_no_value_is_told_from_an_empty_one() -> None:
    without, empty = dead_letters(carts(letters=[letter(8, value=None), letter(9, value=b"")])).to_pylist()
    assert (without["value"], without["value_size"], without["value_sha256"]) == (None, None, None)
    assert (empty["value"], empty["value_size"], empty["value_sha256"]) == (b"", 0, hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize(("table", "build"), BUILDERS, ids=[table.name for table, _ in BUILDERS])
def test_no_rows_make_an_empty_table_of_the_same_schema(
    table: LakeTable, build: Callable[[PartitionFlush], Any]
) -> None:
    empty = build(carts())
    assert empty.num_rows == 0
    assert empty.schema == arrow_schema(table)
