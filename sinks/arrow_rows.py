"""Rows to Arrow, a column at a time: per-cell work in Python is what a flush would spend its time on."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final

import pyarrow as pa

from sinks.rows import PartitionFlush
from sinks.tables import DEAD_LETTERS, EVENT_COLUMNS, FEATURE_LOG, OPEN_FATE, RAW_EVENTS, LakeTable, arrow_schema

_SCHEMAS: Final = {table.name: arrow_schema(table) for table in (RAW_EVENTS, FEATURE_LOG, DEAD_LETTERS)}
_RECORD_COLUMNS: Final = ("offset", "append_time_ms", "key", "value")
_LETTER_COLUMNS: Final = (*_RECORD_COLUMNS, "schema_id", "stage", "reason", "detail", "first_seen_ms")
_LOG_CONSTANTS: Final = ("log_epoch", "topic", "partition")


def raw_events(flush: PartitionFlush) -> Any:
    """Return the rows of `raw_events` as an Arrow table, in the order of `flush.raw`."""
    rows = flush.raw
    records = [row.record for row in rows]
    events = [row.event for row in rows]
    columns = _Columns(RAW_EVENTS, flush, len(rows))
    for name in _RECORD_COLUMNS:
        columns.add(name, map(attrgetter(name), records))
    for column in EVENT_COLUMNS:
        columns.add(column.name, map(attrgetter(column.name), events))
    columns.add("schema_id", map(itemgetter(2), rows))
    columns.add("ingest_time_ms", map(itemgetter(3), rows))
    columns.date("append_date", of="append_time_ms")
    return columns.table()


def feature_log(flush: PartitionFlush) -> Any:
    """Return the rows of `feature_log` as an Arrow table."""
    rows = flush.features
    columns = _Columns(FEATURE_LOG, flush, len(rows))
    for index, name in enumerate(("user_id", "version", "state", "servable_ms")):
        columns.add(name, map(itemgetter(index), rows))
    columns.date("servable_date", of="servable_ms")
    columns.instant("event_timestamp", of="servable_ms")
    return columns.table()


def dead_letters(flush: PartitionFlush) -> Any:
    """Return the rows of `dead_letters` as an Arrow table; the fate of each is open."""
    letters = flush.letters
    columns = _Columns(DEAD_LETTERS, flush, len(letters))
    for name in _LETTER_COLUMNS:
        columns.add(name, map(attrgetter(name), letters))
    values = [letter.value for letter in letters]
    columns.add("value_size", [letter.value_size for letter in letters])
    columns.add("value_sha256", [None if value is None else hashlib.sha256(value).hexdigest() for value in values])
    columns.add("fate", [OPEN_FATE] * len(letters))
    columns.date("append_date", of="append_time_ms")
    return columns.table()


BUILDERS: Final[Sequence[tuple[LakeTable, Callable[[PartitionFlush], Any]]]] = (
    (RAW_EVENTS, raw_events),
    (FEATURE_LOG, feature_log),
    (DEAD_LETTERS, dead_letters),
)


class _Columns:
    """The columns of one table under construction."""

    def __init__(self, table: LakeTable, flush: PartitionFlush, row_count: int) -> None:
        self._schema = _SCHEMAS[table.name]
        constants = (flush.log_epoch, flush.topic, flush.partition)
        self._arrays = {
            name: pa.repeat(pa.scalar(value, self._schema.field(name).type), row_count)
            for name, value in zip(_LOG_CONSTANTS, constants, strict=True)
        }

    def add(self, name: str, values: Iterable[Any]) -> None:
        self._arrays[name] = pa.array(list(values), self._schema.field(name).type)

    def date(self, name: str, *, of: str) -> None:
        self._arrays[name] = self._arrays[of].cast(pa.timestamp("ms")).cast(pa.date32())

    def instant(self, name: str, *, of: str) -> None:
        self._arrays[name] = self._arrays[of].cast(pa.timestamp("ms", tz="UTC")).cast(self._schema.field(name).type)

    def table(self) -> Any:
        return pa.Table.from_arrays([self._arrays[name] for name in self._schema.names], schema=self._schema)
