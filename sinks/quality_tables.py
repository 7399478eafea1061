"""Tables of what was decided about the data and about models, and of what the shop itself says exists.

All but the reference tables are only appended to: the newest row about something is how it stands.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sinks.lake_table import Column, ColumnType, LakeTable


def _noted(what: str, name: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_ms", ColumnType.LONG, f"When {what}.", skipping=True, spread=True),
        Column(f"{name}_date", ColumnType.DATE, f"Day of `{name}_ms`, UTC; the table is partitioned by it."),
    )


# names no user
GATE_LOG: Final = LakeTable(
    name="gate_log",
    description="What gates decided, and what people decided about them: a row per halt, alert, resume and override.",
    columns=(
        Column("topic", ColumnType.STRING, "Topic of the view."),
        Column("gate", ColumnType.STRING, "`freshness`, `nulls`, `schema` or `references`; empty for all of them."),
        Column("step", ColumnType.STRING, "`halted`, `alert`, `resumed` or `overridden`."),
        Column("detail", ColumnType.STRING, "In words what was seen, or the reason that somebody gave."),
        Column("evidence", ColumnType.STRING, "JSON: value, threshold, counts, offsets."),
        *_noted("that was decided", "noted"),
    ),
    partitioned_by="noted_date",
)

# names no user: sketches and counts over many
DRIFT_REFERENCES: Final = LakeTable(
    name="drift_references",
    description="What the data looked like that a model was trained on, and the thresholds calibrated for it. The "
    "newest row is in force.",
    columns=(
        Column("reference_id", ColumnType.STRING, "Id of the reference."),
        Column("model", ColumnType.STRING, "The model that it was taken for; null before the first.", nullable=True),
        Column("from_ms", ColumnType.LONG, "First event time of the data."),
        Column("to_ms", ColumnType.LONG, "End of its event times, not included."),
        Column("window_ms", ColumnType.LONG, "Event time of one window."),
        Column("mode", ColumnType.STRING, "`as_served` or `as_corrected`."),
        Column("profiles", ColumnType.BINARY, "Sketches and counts of each variable, by hour of week."),
        Column("calibration", ColumnType.STRING, "JSON: what history says about each variable, and the thresholds."),
        *_noted("it came in force", "created"),
    ),
    partitioned_by="created_date",
)

# names no user: sketches and counts over many
DRIFT_WINDOWS: Final = LakeTable(
    name="drift_windows",
    description="Each window of event time that was compared with the reference: its profile, and what was decided.",
    columns=(
        Column("window_start_ms", ColumnType.LONG, "First event time of the window.", skipping=True, spread=True),
        Column("window_end_ms", ColumnType.LONG, "End of its event times, not included.", spread=True),
        Column("reference_id", ColumnType.STRING, "What it was compared with."),
        Column("row_count", ColumnType.LONG, "Events that were looked at."),
        Column("outcome", ColumnType.STRING, "`quiet`, `alarm`, or `unjudged` with too few events or a red gate."),
        Column("scores", ColumnType.STRING, "JSON: by variable PSI, KS, JS, null and unseen shares, p-value."),
        Column("profile", ColumnType.BINARY, "Sketches and counts of each variable."),
        Column("lake_versions", ColumnType.STRING, "JSON: versions of the tables that were read."),
        *_noted("it was judged", "judged"),
    ),
    partitioned_by="judged_date",
)

# names no user
RETRAINING: Final = LakeTable(
    name="retraining",
    description="Requests for a retraining and what became of them: a row per step. One whose newest step is "
    "`requested`, `started`, `validated` or `canary` is in flight.",
    columns=(
        Column("request_id", ColumnType.STRING, "Id, derived from cause and window; empty for a silence."),
        Column(
            "step",
            ColumnType.STRING,
            "`requested`, `suppressed`, `started`, `validated`, `canary`, `promoted`, `rejected`, `rolled_back`, "
            "`failed` or `silenced`.",
        ),
        Column("cause", ColumnType.STRING, "`drift`, `online_quality` or `forced`; empty for a silence."),
        Column("window_start_ms", ColumnType.LONG, "First event time of the window that gave cause.", nullable=True),
        Column("window_end_ms", ColumnType.LONG, "End of its event times, not included.", nullable=True),
        Column("detail", ColumnType.STRING, "In words why."),
        Column("evidence", ColumnType.STRING, "JSON: scores, lake versions, verdict; until when it is silent."),
        *_noted("the step was taken", "noted"),
    ),
    partitioned_by="noted_date",
)

# `user_id` names the user, as every store holds it
RECOMMENDATIONS: Final = LakeTable(
    name="recommendations",
    description="What was recommended to whom by which model: a row per answer. A click that carries its "
    "`recommendation_id` counts for that model.",
    columns=(
        Column("recommendation_id", ColumnType.STRING, "Id of the answer.", spread=True),
        Column("user_id", ColumnType.STRING, "To whom."),
        Column("model", ColumnType.STRING, "Version of the model."),
        Column("role", ColumnType.STRING, "`champion`, `canary` or `fallback`."),
        Column("product_ids", ColumnType.STRINGS, "What was recommended, best first."),
        Column("as_of_ms", ColumnType.LONG, "The instant that was asked for.", spread=True),
        Column("seconds", ColumnType.DOUBLE, "How long the model took, without the reading of features."),
        Column("error", ColumnType.STRING, "Why the model could not answer; null if it did.", nullable=True),
        *_noted("it was answered", "served"),
    ),
    partitioned_by="served_date",
)

# names no user
MODEL_LOG: Final = LakeTable(
    name="model_log",
    description="Each step of a model on its way to serving, and back, with who asked for it and why.",
    columns=(
        Column("model", ColumnType.STRING, "Version of the model."),
        Column("step", ColumnType.STRING, "`registered`, `staged`, `canary`, `promoted`, `rejected`, `rolled_back`."),
        Column("by", ColumnType.STRING, "`guard`, `training`, or `command` with the name of the account."),
        Column("reason", ColumnType.STRING, "In words why."),
        Column("evidence", ColumnType.STRING, "JSON: counts, bounds, the request."),
        *_noted("the step was taken", "noted"),
    ),
    partitioned_by="noted_date",
)


def _reference(name: str, id_column: str, what: str, *more: Column) -> LakeTable:
    return LakeTable(
        name=f"reference_{name}",
        description=f"The {what} that exist, as `shopstream lake reference load {name}` was told. A load replaces the "
        "table. The gate `references` asks it.",
        columns=(
            Column(id_column, ColumnType.STRING, "Its id, as events carry it."),
            *more,
            *_noted("the file was loaded", "loaded"),
        ),
        partitioned_by="loaded_date",
    )


REFERENCE_PRODUCTS: Final = _reference(
    "products", "product_id", "products", Column("category_id", ColumnType.STRING, "Its category.", nullable=True)
)
REFERENCE_CATEGORIES: Final = _reference("categories", "category_id", "categories")
# `user_id` names the user, as every store holds it
REFERENCE_USERS: Final = _reference("users", "user_id", "customers")

# the first column of each holds the ids
REFERENCE_TABLES: Final[Mapping[str, LakeTable]] = {
    "products": REFERENCE_PRODUCTS,
    "categories": REFERENCE_CATEGORIES,
    "users": REFERENCE_USERS,
}

QUALITY_TABLES: Final[Sequence[LakeTable]] = (
    GATE_LOG,
    DRIFT_REFERENCES,
    DRIFT_WINDOWS,
    RETRAINING,
    RECOMMENDATIONS,
    MODEL_LOG,
    *REFERENCE_TABLES.values(),
)
