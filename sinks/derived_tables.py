"""Tables that are made from the others, or beside them: not by the worker, and not by position in a log.

Each may be deleted and made again, but for `served`, which is a record of what was answered, and `log_moves`, which
every fold of a log asks for what it follows.
"""

from collections.abc import Sequence
from typing import Final

from features.catalog import FEATURES, STATUS_FIELDS
from schemas.event import EVENT_TOPICS
from sinks.lake_table import Column, ColumnType, LakeTable
from sinks.quality_tables import QUALITY_TABLES

# names no user
LOG_MOVES: Final = LakeTable(
    name="log_moves",
    description="Where the log of a topic took over from another: it got more partitions, or was created again. States "
    "of the new log begin with those of the former one; `raw_events` keeps each event under the log that it came in. A "
    "row per partition of the new log. Written by `shopstream replay --into online --from-epoch`, once.",
    columns=(
        Column("topic", ColumnType.STRING, "The topic."),
        Column("from_epoch", ColumnType.STRING, "Topic id and partition count of the former log."),
        Column("to_epoch", ColumnType.STRING, "Topic id and partition count of the new log."),
        Column("partition", ColumnType.INTEGER, "Partition of the new log."),
        Column("first_offset", ColumnType.LONG, "The new log begins here; what lies below is of the former one."),
        Column("moved_ms", ColumnType.LONG, "When that was decided."),
        Column("moved_date", ColumnType.DATE, "Day of `moved_ms`, UTC; the table is partitioned by it."),
    ),
    partitioned_by="moved_date",
)

# names no user itself; the column `user_id` of the set's own files does
TRAINING_SETS: Final = LakeTable(
    name="training_sets",
    description="Each training set that was made of this lake, so that an erasure finds it: the newest row of a path "
    "is the set that lies there, if it is still there. The row is written just before the set. Its files have a column "
    "`user_id`, with ids as the lake stores them. Written by `shopstream train set`, only appended to.",
    columns=(
        Column("set_id", ColumnType.STRING, "Random id of the set; also in its manifest."),
        Column("path", ColumnType.STRING, "Absolute path of its folder, on the machine that made it."),
        Column("format", ColumnType.STRING, "`parquet` or `delta`."),
        Column("mode", ColumnType.STRING, "`as_served` or `as_corrected`."),
        Column("definition_version", ColumnType.INTEGER, "Definition version of its features."),
        Column("row_count", ColumnType.LONG, "Its rows."),
        Column("manifest", ColumnType.STRING, "The text of its manifest, JSON."),
        Column("created_ms", ColumnType.LONG, "When it was made."),
        Column("created_date", ColumnType.DATE, "Day of `created_ms`, UTC; the table is partitioned by it."),
    ),
    partitioned_by="created_date",
)


def _served_view(topic: str) -> tuple[Column, ...]:
    prefix = view_prefix(topic)
    return (
        Column(f"{prefix}_epoch", ColumnType.STRING, f"Log that the version of {topic} is of.", nullable=True),
        Column(f"{prefix}_partition", ColumnType.INTEGER, "Partition of the user in that log.", nullable=True),
        Column(f"{prefix}_version", ColumnType.LONG, "Last applied offset + 1; null without a state.", nullable=True),
        Column(f"{prefix}_servable_ms", ColumnType.LONG, "When that state became readable.", nullable=True),
        Column(f"{prefix}_status", ColumnType.STRING, "What the reader was told: `FRESH`, `STALE`, and so on."),
    )


def view_prefix(topic: str) -> str:
    """Return what the columns of `served` about a topic's view begin with: `clicks` for `shop.clicks.v1`."""
    return topic.split(".")[1]


# `user_id` names the user, as every store holds it
SERVED: Final = LakeTable(
    name="served",
    description="A sample of what readers were given: one row per answer, with the versions of the states behind it. "
    "Written by each `FeatureReader` (`serving.served_share`); `shopstream skew` compares it with this lake. Rows of "
    "one `reader_id` are numbered by `sequence`.",
    columns=(
        Column("reader_id", ColumnType.STRING, "The reader, by a random id of its own."),
        Column("sequence", ColumnType.LONG, "Number of the row among those of its reader.", spread=True),
        Column("served_ms", ColumnType.LONG, "When it was read.", skipping=True, spread=True),
        Column("user_id", ColumnType.STRING, "Whose features they are."),
        Column("as_of_ms", ColumnType.LONG, "The instant that the values hold for.", spread=True),
        Column("definition_version", ColumnType.INTEGER, "Definition version of the values."),
        Column("catalog", ColumnType.STRING, "Fingerprint of the catalog that they were computed with."),
        Column("model", ColumnType.STRING, "The model that asked, where it said so.", nullable=True),
        *(column for topic in EVENT_TOPICS for column in _served_view(topic)),
        Column("values", ColumnType.STRING, "Exactly what was returned: a JSON object by feature name.", spread=True),
        Column("served_date", ColumnType.DATE, "Day of `served_ms`, UTC; the table is partitioned by it."),
    ),
    partitioned_by="served_date",
    position="sequence",
)

_COLUMN_TYPES: Final = {
    "int": ColumnType.LONG,
    "float": ColumnType.DOUBLE,
    "bool": ColumnType.BOOLEAN,
    "strings": ColumnType.STRINGS,
}


def _value(name: str, dtype: str, description: str) -> Column:
    return Column(name, _COLUMN_TYPES[dtype], description, nullable=True)


# `user_id` names the user, as every store holds it
FEATURE_HISTORY: Final = LakeTable(
    name="feature_history",
    description="What the features of a user were just after each event, at the time of that event: a row per event "
    "and definition version. Written by `shopstream replay --into history`, once per event: a second backfill adds "
    "nothing. A release whose catalog has more features adds their columns, and its backfill replaces the rows of its "
    "range that lack them.",
    columns=(
        Column("definition_version", ColumnType.INTEGER, "Definition version of the values.", skipping=True),
        Column("feature_count", ColumnType.INTEGER, "Values in the catalog of the code that wrote it.", skipping=True),
        Column("run_id", ColumnType.STRING, "The replay that wrote it."),
        Column("user_id", ColumnType.STRING, "Whose features they are."),
        Column("log_epoch", ColumnType.STRING, "Log that the offset is relative to.", skipping=True),
        Column("topic", ColumnType.STRING, "Topic of the event.", skipping=True),
        Column("partition", ColumnType.INTEGER, "Partition of the event.", skipping=True),
        Column("offset", ColumnType.LONG, "Offset of the event.", skipping=True, spread=True),
        Column(
            "append_time_ms", ColumnType.LONG, "The broker's LogAppendTime of the event.", skipping=True, spread=True
        ),
        Column("append_date", ColumnType.DATE, "Day of `append_time_ms`, UTC; the table is partitioned by it."),
        Column("event_time_ms", ColumnType.LONG, "When the event happened.", skipping=True, spread=True),
        Column("outcome", ColumnType.STRING, "`applied`, `duplicate` or `late`: the last two change no value."),
        *(_value(each.name, each.dtype, each.description) for each in FEATURES),
        *(_value(each.name, each.dtype, each.description) for each in STATUS_FIELDS),
    ),
    partitioned_by="append_date",
    position="offset",
    fills_gaps=True,
)

_COUNTED: Final = {
    "page_view_count": "Page views.",
    "click_count": "Clicks.",
    "search_count": "Searches.",
    "cart_add_count": "Adds to the cart.",
    "cart_remove_count": "Removals from the cart.",
    "purchase_count": "Purchases.",
}

# `user_id` names the user, as every store holds it
SESSIONS: Final = LakeTable(
    name="sessions",
    description="Closed sessions: runs of a user's events, over both topics, in event-time order, in which no event "
    "comes more than 30 min after the one before it. Late events count, duplicates do not. Written by `shopstream lake "
    "sessions`, which computes whole days anew from `raw_events` and replaces each in one commit.",
    columns=(
        Column("user_id", ColumnType.STRING, "Whose session it is."),
        Column("start_ms", ColumnType.LONG, "Time of its first event.", skipping=True, spread=True),
        Column("end_ms", ColumnType.LONG, "Time of its last event.", spread=True),
        Column("duration_s", ColumnType.DOUBLE, "From the one to the other, seconds."),
        Column("event_count", ColumnType.LONG, "Its events."),
        *(Column(name, ColumnType.LONG, description) for name, description in _COUNTED.items()),
        Column("cart_value_minor", ColumnType.LONG, "Quantity times price over adds, minus the same over removals."),
        Column("purchase_value_minor", ColumnType.LONG, "Quantity times price over purchases."),
        Column("product_distinct", ColumnType.LONG, "Distinct products, over events of any kind that carry one."),
        Column("device", ColumnType.STRING, "Device of the first event that tells one.", nullable=True),
        Column("capped", ColumnType.BOOLEAN, "Longer than 24 h, which is a bot: online features say nothing of it."),
        Column("session_date", ColumnType.DATE, "Day of `start_ms`, UTC; the table is partitioned by it."),
    ),
    partitioned_by="session_date",
)

DERIVED_TABLES: Final[Sequence[LakeTable]] = (
    LOG_MOVES,
    TRAINING_SETS,
    SERVED,
    FEATURE_HISTORY,
    SESSIONS,
    *QUALITY_TABLES,
)
