"""Looking up states in `feature_log`: those that certain answers were computed from."""

from collections.abc import Collection
from typing import NamedTuple

from sinks.lake_root import Lake
from sinks.tables import FEATURE_LOG


class ServedState(NamedTuple):
    """Which state a reader had.

    Attributes:
        servable_ms: as the online store tells it, integer milliseconds UTC: the log tells it slightly later.
    """

    topic: str
    user_id: str
    version: int
    servable_ms: int


def read_states(lake: Lake, wanted: Collection[ServedState]) -> dict[ServedState, bytes]:
    """Return those of the states that the log has kept; reads each of its files at most once.

    A repair writes a version again: of several the first that became servable then or later is meant.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    import pyarrow as pa
    from pyarrow import compute as pc

    from sinks.delta import explained, opened  # it imports the Delta library, which a command may never need

    if not wanted:
        return {}
    handle = opened(lake / FEATURE_LOG.name)
    if handle is None:
        return {}
    first_ms = min(state.servable_ms for state in wanted)
    by_name: dict[tuple[str, str, int], list[ServedState]] = {}
    for state in wanted:
        by_name.setdefault(state[:3], []).append(state)
    asked = pc.field("servable_ms") >= first_ms
    asked &= pc.field("user_id").isin(pa.array(sorted({state.user_id for state in wanted}), pa.string()))
    asked &= pc.field("version").isin(pa.array(sorted({state.version for state in wanted}), pa.int64()))
    found: dict[ServedState, tuple[int, bytes]] = {}
    with explained(lake / FEATURE_LOG.name):
        dataset = handle.to_pyarrow_dataset(file_pruning_predicate=[("servable_ms", ">=", first_ms)])
        for batch in dataset.to_batches(columns=["topic", "user_id", "version", "servable_ms", "state"], filter=asked):
            for topic, user_id, version, servable_ms, blob in zip(
                *(column.to_pylist() for column in batch.columns), strict=True
            ):
                for state in by_name.get((topic, user_id, version), ()):
                    if servable_ms >= state.servable_ms and (state not in found or servable_ms < found[state][0]):
                        found[state] = (servable_ms, blob)
    return {state: blob for state, (_, blob) in found.items()}
