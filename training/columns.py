"""The columns of a training set, beside those that a label carries."""

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from feature_repo.on_demand import OUTPUTS
from features.catalog import VIEWS, Dtype
from sinks.derived_tables import view_prefix
from training.labels import USER

LABEL_MS: Final = "label_ms"
VERSION, SERVABLE_MS, AGE_MS, STATUS = "version", "servable_ms", "age_ms", "status"

_ARROW: Final[dict[Dtype, Any]] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "strings": pa.list_(pa.string()),
}
_OF_VIEWS: Final = {VERSION: pa.int64(), SERVABLE_MS: pa.int64(), AGE_MS: pa.int64(), STATUS: pa.string()}

VALUES: Final = pa.schema([pa.field(output.name, _ARROW[output.dtype]) for output in OUTPUTS])
FRESHNESS: Final = pa.schema(
    [pa.field(f"{view_prefix(topic)}_{name}", kind) for topic in VIEWS for name, kind in _OF_VIEWS.items()]
)
RESERVED: Final = frozenset({LABEL_MS, *VALUES.names, *FRESHNESS.names})


def freshness_name(topic: str, column: str) -> str:
    """Return the name of a column that tells how fresh a topic's state was: `clicks_age_ms`."""
    return f"{view_prefix(topic)}_{column}"


def value_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return values of `finalize`, one dict per row, as columns."""
    return pa.table({name: [row[name] for row in rows] for name in VALUES.names}, VALUES)


def set_table(labels: Any, values: pa.Table, freshness: pa.Table | None) -> pa.Table:
    """Put the columns of a set side by side.

    Args:
        labels: `training.labels.Labels`.
        values: of `VALUES`, a row per label.
        freshness: of `FRESHNESS`; None where there is none, and its columns are null.
    """
    known = freshness if freshness is not None else FRESHNESS.empty_table()
    nothing = {field.name: pa.nulls(len(labels), field.type) for field in FRESHNESS}
    columns: dict[str, Any] = {USER: labels.user_ids}
    columns |= {name: labels.carried.column(name) for name in labels.carried.column_names}
    columns[LABEL_MS] = pa.array(labels.instants_ms, pa.int64())
    columns |= {name: values.column(name) for name in values.column_names}
    columns |= nothing if freshness is None else {name: known.column(name) for name in known.column_names}
    return pa.table(columns)
