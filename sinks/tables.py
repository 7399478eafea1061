"""The lake's tables as data: columns, types, what they mean. `docs/reference/lake.md` is generated from them.

Times are integer milliseconds UTC, as everywhere else, so that a value read from the lake equals the one that was
written; each table has a real date beside them, by which it is partitioned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from config.definition import DEFINITION_VERSION, VERSIONS_BESIDE, versioned
from sinks.derived_tables import DERIVED_TABLES
from sinks.lake_table import Column, ColumnType, LakeTable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ALL_TABLES",
    "DEAD_LETTERS",
    "ERASURES",
    "EVENT_COLUMNS",
    "FEATURE_LOG",
    "LAKE_TABLES",
    "OPEN_FATE",
    "OTHER_VERSIONS_TABLES",
    "RAW_EVENTS",
    "REDRIVES",
    "REPAIRS",
    "Column",
    "ColumnType",
    "LakeTable",
    "application_id",
    "arrow_schema",
    "reference_page",
]

_S, _B, _I, _L = ColumnType.STRING, ColumnType.BINARY, ColumnType.INTEGER, ColumnType.LONG

_LOG_COLUMNS: Final = (
    Column("log_epoch", _S, "Topic id and partition count: what offsets are relative to.", skipping=True),
    Column("topic", _S, "Topic of the record.", skipping=True),
    Column("partition", _I, "Partition of the record.", skipping=True),
    Column("offset", _L, "Offset of the record.", skipping=True, spread=True),
    Column("append_time_ms", _L, "The broker's LogAppendTime.", skipping=True, spread=True),
    Column("append_date", ColumnType.DATE, "Day of `append_time_ms`, UTC; the table is partitioned by it."),
)

EVENT_COLUMNS: Final = (
    Column("event_id", _S, "The producer's id of the event.", spread=True),
    Column("kind", _S, "What happened."),
    Column("user_id", _S, "Whose event it is."),
    Column("event_time_ms", _L, "When it happened.", skipping=True, spread=True),
    Column("session_id", _S, "The shop's own session.", nullable=True),
    Column("device", _S, "Device, as the producer calls it.", nullable=True),
    Column("product_id", _S, "Product.", nullable=True),
    Column("category_id", _S, "Category of the product.", nullable=True),
    Column("query", _S, "What was searched for.", nullable=True),
    Column("result_count", _L, "Results of the search.", nullable=True),
    Column("position", _L, "Place in the list that was clicked.", nullable=True),
    Column("recommendation_id", _S, "The recommendation that was clicked.", nullable=True),
    Column("page", _S, "Path or name of the page.", nullable=True),
    Column("quantity", _L, "Pieces.", nullable=True),
    Column("unit_price_minor", _L, "Price of one piece, in minor units of `currency`.", nullable=True),
    Column("currency", _S, "ISO 4217.", nullable=True),
    Column("order_id", _S, "The order of a purchase.", nullable=True),
)

RAW_EVENTS: Final = LakeTable(
    name="raw_events",
    description="One row per record that could be read, exactly once: the original bytes and the fields of the event. "
    "Written by the worker alone.",
    columns=(
        *_LOG_COLUMNS,
        Column("ingest_time_ms", _L, "When the worker decoded it.", spread=True),
        Column("schema_id", _L, "Writer schema of the value."),
        Column("key", _B, "The record's key, as it was read.", nullable=True),
        Column("value", _B, "The record's value, as it was read, frame included.", nullable=True, spread=True),
        *EVENT_COLUMNS,
    ),
    partitioned_by="append_date",
    position="offset",
    fills_gaps=True,
)

FEATURE_LOG: Final = LakeTable(
    name=versioned("feature_log"),
    description="Each state that was pushed to the online store, once. After a crash, versions that were superseded "
    "within the last flush interval may be missing. Written by the worker; a repair may write a version again, in a "
    "greater generation.",
    columns=(
        Column("log_epoch", _S, "Topic id and partition count of the log that was folded.", skipping=True),
        Column("topic", _S, "Topic of the state.", skipping=True),
        Column("partition", _I, "Partition of the user.", skipping=True),
        Column("user_id", _S, "Whose state it is."),
        Column("version", _L, "Last applied offset + 1.", skipping=True, spread=True),
        Column("state", _B, "The state, as in docs/reference/state.md.", spread=True),
        Column("servable_ms", _L, "When a reader could see it.", skipping=True),
        Column("event_timestamp", ColumnType.TIMESTAMP, "The same instant, for Feast's point-in-time joins."),
        Column("servable_date", ColumnType.DATE, "Day of `servable_ms`, UTC; the table is partitioned by it."),
    ),
    partitioned_by="servable_date",
    position="version",
    position_base=1,
)

DEAD_LETTERS: Final = LakeTable(
    name="dead_letters",
    description="Each record that never reached a state, with every byte of it and the reason. Written by the worker. "
    "What became of a letter is in `redrives`; `shopstream dlq list` puts the two together.",
    columns=(
        *_LOG_COLUMNS,
        Column("key", _B, "The record's key, whole.", nullable=True),
        Column("value", _B, "The record's value, whole.", nullable=True, spread=True),
        Column("value_size", _L, "Bytes of `value`; null where there is none.", nullable=True),
        Column("value_sha256", _S, "SHA-256 of `value`, hexadecimal; null where there is none.", nullable=True),
        Column("schema_id", _L, "Writer schema id; null where the frame could not be read.", nullable=True),
        Column("stage", _S, "Where it failed: `frame`, `decode` or `validate`."),
        Column("reason", _S, "Why, as in docs/reference/events.md."),
        Column("detail", _S, "What exactly is wrong, in words."),
        Column("first_seen_ms", _L, "When the worker first refused it."),
        Column("fate", _S, "What the worker knew when it wrote the letter: `open`."),
    ),
    partitioned_by="append_date",
    position="offset",
    fills_gaps=True,
)

REDRIVES: Final = LakeTable(
    name="redrives",
    description="What `shopstream dlq redrive` did with a dead letter: a row when it is about to publish it again, one "
    "when Kafka has stored it, one when nothing remains to be done. Never changed, only appended to.",
    columns=(
        Column("sequence", _L, "Number of the append; all rows of one append have the same.", skipping=True),
        Column("step", _S, "`intended`, `published`, or `finished`: its user was rebuilt, or it is a letter again."),
        Column("log_epoch", _S, "Topic id and partition count of the letter's log.", skipping=True),
        Column("topic", _S, "Topic of the letter, and of what is published again.", skipping=True),
        Column("partition", _I, "Partition of the letter.", skipping=True),
        Column("offset", _L, "Offset of the letter.", skipping=True),
        Column("reason", _S, "Why it was a dead letter."),
        Column("attempt", _I, "1 for a record's first redrive; one more for each time that it came back."),
        Column("origin_topic_id", _S, "Topic id of the first letter of this record."),
        Column("origin_partition", _I, "Partition of the first letter of this record."),
        Column("origin_offset", _L, "Offset of the first letter of this record."),
        Column("target_topic_id", _S, "Topic id of the log that it is published to."),
        Column("target_partition", _I, "Partition that it is published to."),
        Column("search_offset", _L, "End of that partition before: what was published lies at or after it."),
        Column("target_offset", _L, "Where it was stored; null in a row of step `intended`.", nullable=True),
        Column("redriven_ms", _L, "When this step was taken."),
        Column("redriven_date", ColumnType.DATE, "Day of `redriven_ms`, UTC; the table is partitioned by it."),
    ),
    partitioned_by="redriven_date",
    position="sequence",
)

REPAIRS: Final = LakeTable(
    name=versioned("repairs"),
    description="Each time that a user's state was built anew from this lake: a row just before the state was offered "
    "to the online store. A user's greatest version of order `event_time` is the place up to which every later fold "
    "takes the user's events in event-time order. Written by replay and redrive.",
    columns=(
        Column("log_epoch", _S, "Topic id and partition count of the log that was folded.", skipping=True),
        Column("topic", _S, "Topic of the state.", skipping=True),
        Column("partition", _I, "Partition of the user.", skipping=True),
        Column("user_id", _S, "Whose state it is."),
        Column("generation", _I, "Generation of the state; a repair raises it by one."),
        Column("version", _L, "Last offset of the user in the lake + 1.", skipping=True, spread=True),
        Column("fold_order", _S, "`log`, or `event_time` for a user with events that came back from the dead letters."),
        Column("repaired_ms", _L, "When it was offered.", skipping=True),
        Column("repaired_date", ColumnType.DATE, "Day of `repaired_ms`, UTC; the table is partitioned by it."),
    ),
    partitioned_by="repaired_date",
    position="version",
    position_base=1,
)

ERASURES: Final = LakeTable(
    name="erasures",
    description="Where the logs of erased users end. A record of such a user below that offset is dropped when it "
    "comes again, from Kafka or from a copy. Names nobody: users are keyed hashes. Written by `shopstream lake erase`, "
    "only appended to.",
    columns=(
        Column("request_id", _S, "The request, as its command told it."),
        Column(
            "step",
            _S,
            "`requested`; `elsewhere` for the partitions that the user's key does not belong to, where letters may be; "
            "`cut` where the online state reached further; `letter` for a dead letter that named the user elsewhere "
            "than in its key; `finished`.",
        ),
        Column("subject", _S, "Keyed hash of the user (docs/how-to/erase-a-customer.md)."),
        Column("key_id", _S, "Which key that is, as a hash of it."),
        Column("log_epoch", _S, "Topic id and partition count of the log.", skipping=True),
        Column("topic", _S, "Topic of the log.", skipping=True),
        Column("partition", _I, "Partition of the log.", skipping=True),
        Column("offset", _L, "The user's log ends before this offset; of a `letter`, its own offset.", skipping=True),
        Column("noted_ms", _L, "When this row was written."),
        Column("noted_date", ColumnType.DATE, "Day of `noted_ms`, UTC; the table is partitioned by it."),
    ),
    partitioned_by="noted_date",
    position="offset",
)

OPEN_FATE: Final = "open"

LAKE_TABLES: Final[Mapping[str, LakeTable]] = {
    table.name: table for table in (RAW_EVENTS, FEATURE_LOG, DEAD_LETTERS, REDRIVES, REPAIRS, ERASURES)
}
_OWN_TABLES: Final = {**LAKE_TABLES, **{table.name: table for table in DERIVED_TABLES}}
# what other definition versions write beside this one, or have left
OTHER_VERSIONS_TABLES: Final[Sequence[LakeTable]] = tuple(
    replace(table, name=versioned(name, version))
    for version in VERSIONS_BESIDE
    for name, table in (("feature_log", FEATURE_LOG), ("repairs", REPAIRS))
    if version != DEFINITION_VERSION
)
ALL_TABLES: Final[Mapping[str, LakeTable]] = {
    **_OWN_TABLES,
    **{table.name: table for table in OTHER_VERSIONS_TABLES},
}


def application_id(topic_id: str, partition: int, table: LakeTable) -> str:
    """Return the id under which a table's log keeps the last offset that it holds of a partition."""
    return f"{topic_id}-{partition}-{table.name}"


def arrow_schema(table: LakeTable) -> "pa.Schema":
    """Return the Arrow schema of a table."""
    import pyarrow as pa

    types = {
        ColumnType.STRING: pa.string(),
        ColumnType.BINARY: pa.binary(),
        ColumnType.INTEGER: pa.int32(),
        ColumnType.LONG: pa.int64(),
        ColumnType.DATE: pa.date32(),
        ColumnType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
        ColumnType.DOUBLE: pa.float64(),
        ColumnType.BOOLEAN: pa.bool_(),
        ColumnType.STRINGS: pa.list_(pa.string()),
    }
    return pa.schema([pa.field(column.name, types[column.type], column.nullable) for column in table.columns])


def reference_page() -> str:
    """Return the text of `docs/reference/lake.md`."""
    lines = [
        "# The lake's tables",
        "",
        "Delta tables under `lake.path` (`<home>/lake` when not set). This page is generated from `sinks/tables.py`;",
        "a test holds it to the code. Every `*_ms` is integer milliseconds UTC, money is integer minor units.",
        "",
        "An append carries, per partition of a topic, the application id `<topic id>-<partition>-<table>` and the last",
        "offset that the table holds of it. Rows at or below it are dropped before the append, so a record that Kafka",
        "delivers twice is in the table once. *Skipping* marks the columns whose smallest and greatest values per file",
        "are in the table's log: filter by them, and most files are not opened. Rows of one partition are in log order",
        "within a file; sort by `topic`, `partition`, `offset` to read in log order.",
    ]
    for table in _OWN_TABLES.values():
        lines += ["", f"## `{table.name}`", "", table.description, ""]
        lines += ["| column | type | null | skipping | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{column.name}` | {column.type} | {'yes' if column.nullable else ''} "
            f"| {'yes' if column.skipping else ''} | {column.description} |"
            for column in table.columns
        ]
    return "\n".join(lines) + "\n"
