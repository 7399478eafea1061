"""Which answers were clicked: a click belongs to the answer whose id it carries, whoever clicked."""

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from sinks.delta import explained, opened
from sinks.lake_root import Lake
from sinks.tables import RAW_EVENTS

CLICK: Final = "click"
CLOCKS_DIFFER_MS: Final = 86_400_000


def are_clicked(lake: Lake, ids: Any, as_of_ms: Any, attribution_ms: int) -> Any:
    """Say of each answer whether it was clicked at most `attribution_ms` after its instant, by event time.

    That a click happened after the answer is not asked closely: the clocks of devices differ.

    Args:
        ids: Arrow array of `recommendation_id`, each once.
        as_of_ms: Arrow array of their instants, integer milliseconds UTC.

    Returns:
        An Arrow array of booleans, in their order.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    clicks = None
    if len(ids):
        first_ms, last_ms = pc.min_max(as_of_ms).as_py().values()
        between = (first_ms - CLOCKS_DIFFER_MS, last_ms + attribution_ms)
        time = pc.field("event_time_ms")
        clicks = read_rows(
            lake,
            RAW_EVENTS.name,
            ["recommendation_id", "event_time_ms"],
            (pc.field("kind") == CLICK)
            & (time >= between[0])
            & (time <= between[1])
            & pc.field("recommendation_id").isin(ids),
            [("event_time_ms", ">=", between[0]), ("event_time_ms", "<=", between[1])],
        )
    if clicks is None:
        return pa.array([False] * len(ids), pa.bool_())
    clicked_ids = clicks.column("recommendation_id").combine_chunks()
    until_ms = pc.add(as_of_ms.take(pc.index_in(clicked_ids, ids)), attribution_ms)
    in_time = pc.less_equal(clicks.column("event_time_ms").combine_chunks(), until_ms)
    return pc.is_in(ids, clicked_ids.filter(in_time))


def read_rows(
    lake: Lake, table: str, columns: Sequence[str], wanted: Any, pruning: Sequence[tuple[str, str, Any]] = ()
) -> Any:
    """Return those rows of a table that an Arrow expression wants, as an Arrow table; None where there is no table.

    Args:
        pruning: conditions on statistics of files, as deltalake takes them.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    address = lake / table
    handle = opened(address)
    if handle is None:
        return None
    with explained(address):
        dataset = handle.to_pyarrow_dataset(file_pruning_predicate=list(pruning) or None)
        return dataset.to_table(columns=list(columns), filter=wanted)
