"""Features as a model could have read them: through Feast, from the log of pushed states.

A state counts for a label when it was readable at its instant (`servable_ms`, ADR 2). The on-demand view finalizes it
at the instant, as it does for a live read.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from config.settings import Settings
from feature_repo.layout import STATE
from feature_repo.on_demand import AS_OF, STATE_OK, STATE_STATUS
from feature_repo.opening import feature_service, open_feature_store
from features.catalog import ON_DEMAND_VIEW, VIEWS
from features.state import decode, read_trailer
from sinks.delta import explained, opened
from sinks.lake_root import Lake
from sinks.tables import FEATURE_LOG
from training.columns import AGE_MS, FRESHNESS, SERVABLE_MS, STATUS, VALUES, VERSION, freshness_name
from training.errors import NotInLakeError
from training.labels import Labels

if TYPE_CHECKING:
    from feast import FeatureStore

LABELS_AT_ONCE: Final = 200_000

# as `serving.reader.ViewStatus`; whether a view was halted is not known afterwards
_MISSING, _REBUILDING, _STALE, _FRESH = "MISSING", "REBUILDING", "STALE", "FRESH"


class ServedFeatures:
    """Reads them.

    Args:
        settings: of the feature store, and from when on a state is STALE.
        lake: where the log of states is; it may be as of an earlier moment.

    Raises:
        SettingsError: no Redis is set; it is not asked, but the feature store needs an address.
        NotAppliedError: the definitions were never applied.
    """

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self._store: FeatureStore = open_feature_store(settings)
        offline = self._store.config.offline_store
        offline.freshness = True
        offline.read_through(lambda name: opened(lake / name))
        self._service = feature_service(self._store)
        self._stale_after_ms = settings.serving.stale_after_ms

    def values(self, labels: Labels, progress: Callable[[int], None]) -> tuple[pa.Table, pa.Table]:
        """Return values and freshness at each label, in their order.

        Args:
            progress: told how many labels were joined.

        Raises:
            NotInLakeError: a state that is needed cannot be read by this release.
            ShopstreamError: the log of states cannot be read.
        """
        values, freshness = [VALUES.empty_table()], [FRESHNESS.empty_table()]
        for first in range(0, len(labels), LABELS_AT_ONCE):
            answer = self._ask(labels.user_ids[first:][:LABELS_AT_ONCE], labels.instants_ms[first:][:LABELS_AT_ONCE])
            self._check_readable(answer)
            values.append(_values(answer))
            freshness.append(self._freshness(answer))
            progress(answer.num_rows)
        return pa.concat_tables(values), pa.concat_tables(freshness)

    def _ask(self, user_ids: Any, instants_ms: Any) -> pa.Table:
        frame = pd.DataFrame(
            {
                "user_id": user_ids.to_pandas(),
                "event_timestamp": pd.to_datetime(instants_ms, unit="ms", utc=True),
                AS_OF: instants_ms,
            }
        )
        job = self._store.get_historical_features(frame, features=self._service, full_feature_names=True)
        return job.to_arrow()

    def _check_readable(self, answer: pa.Table) -> None:
        status = answer.column(f"{ON_DEMAND_VIEW}__{STATE_STATUS}")
        unreadable = pc.not_equal(status, STATE_OK).to_numpy()
        if unreadable.any():
            row = int(unreadable.argmax())
            user, told = answer.column("user_id")[row].as_py(), status[row].as_py()
            raise NotInLakeError(
                f"{int(unreadable.sum()):,} labels need a state that this release cannot read; the first is of "
                f"{user} at {answer.column(AS_OF)[row].as_py()} ms ({told}).",
                hint="If a newer release wrote it, make the set with that one.",
            )

    def _freshness(self, answer: pa.Table) -> pa.Table:
        columns: dict[str, Any] = {}
        partial = answer.column(f"{ON_DEMAND_VIEW}__partial").to_pylist()
        for topic, view in VIEWS.items():
            states = answer.column(f"{view.view}__{STATE}").to_pylist()
            servable_ms = answer.column(f"{view.view}__{SERVABLE_MS}")
            age_ms = pc.subtract(answer.column(AS_OF), servable_ms)
            columns[freshness_name(topic, VERSION)] = pa.array(
                [state and read_trailer(state).version for state in states]
            )
            columns[freshness_name(topic, SERVABLE_MS)] = servable_ms
            columns[freshness_name(topic, AGE_MS)] = age_ms
            columns[freshness_name(topic, STATUS)] = pa.array(
                [
                    self._status(state, age, partial=either)
                    for state, age, either in zip(states, age_ms.to_pylist(), partial, strict=True)
                ]
            )
        return pa.table(columns).cast(FRESHNESS)

    def _status(self, state: bytes | None, age_ms: int, *, partial: bool) -> str:
        if state is None:
            return _MISSING
        if partial and decode(state).partial:
            return _REBUILDING
        return _STALE if age_ms > self._stale_after_ms else _FRESH


def _values(answer: pa.Table) -> pa.Table:
    columns = {name: answer.column(f"{ON_DEMAND_VIEW}__{name}") for name in VALUES.names}
    return pa.table(columns).cast(VALUES)


def before_own_event(lake: Lake, labels: Labels, places: pa.Table) -> Any:
    """Return the instants of labels that are events, none of them one at which a state held its own event.

    1 ms before the event is before it was readable, unless the producer's clock was ahead: then its event was read
    before it happened, and the instant is the one before that.

    Args:
        places: log epoch and offset of each label's event.

    Raises:
        LakeUnavailableError: the log of states cannot be read.
    """
    handle = opened(lake / FEATURE_LOG.name)
    if handle is None or not len(labels):
        return labels.instants_ms
    users, epochs = labels.user_ids.unique(), places.column("log_epoch").combine_chunks().unique()
    wanted = pc.field("user_id").isin(users) & pc.field("log_epoch").isin(epochs)
    columns = ["user_id", "log_epoch", "version", SERVABLE_MS]
    newest_ms = int(labels.instants_ms.max())
    with explained(lake / FEATURE_LOG.name):
        rows = handle.to_pyarrow_dataset(file_pruning_predicate=[(SERVABLE_MS, "<=", newest_ms)]).to_table(
            columns=columns, filter=wanted & (pc.field(SERVABLE_MS) <= newest_ms)
        )
    states = pd.DataFrame(
        {
            "user": pc.index_in(rows.column("user_id"), users).to_numpy(),
            "log": pc.index_in(rows.column("log_epoch"), epochs).to_numpy(),
            "version": rows.column("version").to_numpy(),
            "first_ms": rows.column(SERVABLE_MS).to_numpy(),
        }
    ).sort_values("version", ascending=False)
    # a greater version holds all that a smaller one does: when was any at least this great first readable?
    states["first_ms"] = states.groupby(["user", "log"])["first_ms"].cummin()
    events = pd.DataFrame(
        {
            "user": pc.index_in(labels.user_ids, users).to_numpy(),
            "log": pc.index_in(places.column("log_epoch"), epochs).to_numpy(),
            "version": places.column("offset").to_numpy() + 1,
            "row": np.arange(len(labels)),
        }
    ).sort_values("version")
    found = pd.merge_asof(events, states.iloc[::-1], on="version", by=["user", "log"], direction="forward").sort_values(
        "row"
    )
    readable_ms = found["first_ms"].fillna(np.inf).to_numpy()
    return np.minimum(labels.instants_ms, readable_ms - 1).astype(np.int64)
