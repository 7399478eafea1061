"""The offline store: stock `get_historical_features` over the lake's log of pushed states.

Of each label it finds the state that a reader could have had at that instant (`feature_repo.point_in_time`), and Feast
runs the on-demand view on it: the same function as for a live read. Labels keep their order, also those that several
rows share and those that match nothing. A feature view's `ttl` is ignored, as it is online.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel
from feast.types import from_feast_to_pyarrow_type
from feast.utils import _get_requested_feature_views_to_features_dict
from pydantic import Field, PrivateAttr

from feature_repo.addresses import process_addresses
from feature_repo.errors import OfflineStoreError
from feature_repo.layout import JOIN_KEY, STATE
from features.catalog import VIEWS

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from feature_repo.point_in_time import Labels, TopicStates

OpenTable = Callable[[str], "DeltaTable | None"]

FRESHNESS: Final = ("servable_ms", "log_epoch", "partition")

_ROWS_AT_ONCE: Final = 4_096  # the on-demand view works on Python objects: a few kilobytes per row
_TOPICS_BY_VIEW: Final = {view.view: topic for topic, view in VIEWS.items()}
_NOT_WRITTEN: Final = "Only workers and repairs write to the log of states: they keep it exact."
_READ_HINT: Final = "If `shopstream lake maintain` or `lake erase` was at work meanwhile, ask again."


class DeltaOfflineStoreConfig(FeastConfigBaseModel):
    """The `offline_store` section of feature_store.yaml; a lake that is not named is that of the settings."""

    type: Literal["feature_repo.offline_store.DeltaOfflineStore"] = "feature_repo.offline_store.DeltaOfflineStore"
    lake: str = Field("", description="folder of the Delta tables, or an address that delta-rs knows")
    storage_options: dict[str, str] = Field({}, description="as delta-rs takes them", repr=False)
    freshness: bool = Field(
        default=False, description="answers tell when each state became readable, and of which log it is"
    )
    _open_table: OpenTable | None = PrivateAttr(None)

    def read_through(self, open_table: OpenTable) -> None:
        """Open tables with this function, by name, and not by the address; None from it means that there is none."""
        self._open_table = open_table

    def opened(self, name: str) -> "DeltaTable | None":
        """Open a table of the lake; None when there is none.

        Raises:
            OfflineStoreError: it cannot be read.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        if self._open_table is not None:
            return self._open_table(name)
        lake, options = self.lake, self.storage_options
        if not lake:
            lake, options = process_addresses().lake, dict(process_addresses().lake_options)
        try:
            return DeltaTable(f"{lake}/{name}", storage_options=options or None)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise OfflineStoreError(f"The lake's table {lake}/{name} cannot be read: {_first_line(error)}.") from error


class DeltaOfflineStore(OfflineStore):
    """Point-in-time reads of the views that hold states; what else Feast could ask for is refused in one sentence."""

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: Sequence[Any],
        feature_refs: Sequence[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002 - Feast's signature
        **period: Any,
    ) -> RetrievalJob:
        """Join labels with the states that were readable at their instants, by `servable_ms`.

        Args:
            entity_df: a data frame with `user_id`, a time (naive ones are UTC, as ever in Feast), and what on-demand
                views ask for (`as_of`: milliseconds UTC; null for the newest event).

        Raises:
            OfflineStoreError: something else than a data frame, a label without a time, or a view of another kind.
        """
        if not isinstance(entity_df, pd.DataFrame) or period:
            raise OfflineStoreError(
                "Labels must be a pandas data frame: neither a query nor a range of times can be joined.",
                hint="`shopstream train set --events purchase` makes labels of events.",
            )
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        views, outputs = _get_requested_feature_views_to_features_dict(
            list(feature_refs), list(feature_views), on_demand
        )
        asked = [_StateView.of(view, features) for view, features in views.items()]
        return DeltaRetrievalJob(
            config.offline_store, entity_df, asked, dict(outputs), list(feature_refs), full_names=full_feature_names
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: Sequence[str],
        feature_name_columns: Sequence[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Refuse: Feast asks for it to materialize, and every state ever pushed is more than fits into memory."""
        del config, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column
        del start_date, end_date
        _refuse_pull(data_source.name)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: Sequence[str],
        feature_name_columns: Sequence[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Refuse: a state from the log would be an older one than Redis holds, or lack what came since."""
        del config, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column
        del start_date, end_date
        _refuse_pull(data_source.name)

    @staticmethod
    def offline_write_batch(config: Any, feature_view: Any, table: Any, progress: Any) -> None:
        """Refuse: a pushed row would have no place in any log."""
        del config, table, progress
        _refuse(f"{feature_view.name} takes no offline push.", _NOT_WRITTEN)

    @staticmethod
    def write_logged_features(config: Any, data: Any, source: Any, logging_config: Any, registry: Any) -> None:
        """Refuse: what readers were given is sampled into the table `served`."""
        del config, data, source, logging_config, registry
        _refuse("Feast's own feature logging is not kept.", "Readers sample what they give into the table `served`.")

    def get_table_column_names_and_types_from_data_source(self, config: Any, data_source: Any) -> NoReturn:
        """Refuse: Feast asks for these before an offline push only."""
        del config
        _refuse(f"{data_source.name} takes no offline push.", _NOT_WRITTEN)


@dataclass(frozen=True, slots=True)
class _StateView:
    """A view whose one feature is the state of a topic.

    Attributes:
        name: as the answer's columns begin.
        join_key: the label's column that names the user.
    """

    name: str
    table: str
    topic: str
    join_key: str

    @classmethod
    def of(cls, view: Any, features: Sequence[str]) -> "_StateView":
        topic = _TOPICS_BY_VIEW.get(view.name)
        if topic is None or set(features) != {STATE}:
            raise OfflineStoreError(
                f"The offline store cannot read {', '.join(features)} of the view {view.name}.",
                hint=f"It holds the states of {' and '.join(_TOPICS_BY_VIEW)}.",
            )
        projection = view.projection
        join_key = projection.join_key_map.get(JOIN_KEY, JOIN_KEY)
        return cls(projection.name_to_use(), view.batch_source.path, topic, join_key)


@dataclass
class DeltaRetrievalJob(RetrievalJob):
    """One question to the store; each call of `to_arrow` or `to_df` reads anew.

    Attributes:
        labels: the entity data frame.
        views: whose states are asked for.
        outputs: on-demand views, and which of their features are asked for.
    """

    config: DeltaOfflineStoreConfig
    labels: pd.DataFrame
    views: Sequence[_StateView]
    outputs: Mapping[Any, Sequence[str]]
    refs: list[str]
    full_names: bool = field(kw_only=True)

    @property
    def full_feature_names(self) -> bool:
        """Whether names begin with their view's."""
        return self.full_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """None for Feast to run by itself: it would on all rows at once, and stumble over columns with two names."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked for."""
        times = self.labels[self._time_column()]
        keys = [name for name in self.labels.columns if name != self._time_column()]
        return RetrievalMetadata(self.refs, keys, times.min(), times.max())

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:  # noqa: FBT001, FBT002
        """Refuse: a set needs a manifest, and a row in the lake that an erasure finds."""
        del storage, allow_overwrite, timeout
        _refuse("Answers are not kept by Feast.", "`shopstream train set` keeps them.")

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> Any:
        del timeout
        labels = self._requests_as_declared(pa.Table.from_pandas(self.labels, preserve_index=False))
        states = self._states(labels)
        parts = [
            self._answer(labels.slice(first, _ROWS_AT_ONCE), states, first)
            for first in range(0, max(labels.num_rows, 1), _ROWS_AT_ONCE)
        ]
        return pa.concat_tables(parts)

    def _states(self, labels: pa.Table) -> "dict[str, TopicStates]":
        """Join once per table and column of users: views of one table are read together."""
        from feature_repo.point_in_time import Labels, newest_states

        instants_ms = self._instants_ms()
        found: dict[str, TopicStates] = {}
        for table, join_key in dict.fromkeys((view.table, view.join_key) for view in self.views):
            here = [view for view in self.views if (view.table, view.join_key) == (table, join_key)]
            asked = Labels(_strings(labels.column(join_key)), instants_ms)
            joined = self._newest_states(newest_states, table, [view.topic for view in here], asked)
            found |= {view.name: joined[view.topic] for view in here}
        return found

    def _newest_states(
        self, join: "Callable[..., dict[str, TopicStates]]", table: str, topics: Sequence[str], labels: "Labels"
    ) -> "dict[str, TopicStates]":
        opened = self.config.opened(table)
        if opened is None:
            raise OfflineStoreError(
                f"The lake has no table {table}: no state was ever pushed under this definition version.",
                hint="Start a worker; it writes the table with its first flush.",
            )
        try:
            return join(opened, topics, labels)
        except (OSError, pa.ArrowInvalid) as error:
            raise OfflineStoreError(
                f"The lake's table {table} cannot be read: {_first_line(error)}.", hint=_READ_HINT
            ) from error

    def _instants_ms(self) -> Any:
        column = self._time_column()
        times = pd.to_datetime(self.labels[column], utc=True)
        missing = times.isna().to_numpy()
        if missing.any():
            raise OfflineStoreError(
                f"{int(missing.sum())} of {len(missing)} labels have no {column}, the first is row {missing.argmax()}.",
                hint="Leave them out, or give them the instant at which features are wanted.",
            )
        return times.astype("datetime64[ns, UTC]").astype("int64").to_numpy() // 1_000_000

    def _time_column(self) -> str:
        return str(infer_event_timestamp_from_entity_df(dict(self.labels.dtypes)))

    def _requests_as_declared(self, labels: pa.Table) -> pa.Table:
        """Give what on-demand views ask for its type: a pandas column of integers with a null is one of floats."""
        for view in self.outputs:
            for source in view.source_request_sources.values():
                for asked in source.schema:
                    place = labels.column_names.index(asked.name)
                    column = labels.column(place).cast(from_feast_to_pyarrow_type(asked.dtype))
                    labels = labels.set_column(place, asked.name, column)
        return labels

    def _answer(self, labels: pa.Table, states: "Mapping[str, TopicStates]", first: int) -> pa.Table:
        count, known = labels.num_rows, labels
        blobs: dict[str, Any] = {}
        freshness: dict[str, Any] = {}
        for name, of_view in states.items():
            blobs[f"{name}__{STATE}"] = of_view.column(of_view.states, first, count).cast(pa.binary())
            for column in FRESHNESS:
                freshness[f"{name}__{column}"] = of_view.column(getattr(of_view, column), first, count)
        for name, values in blobs.items():
            known = known.append_column(name, values)
        answer = labels
        for name, values in {**self._named(blobs), **(freshness if self.config.freshness else {})}.items():
            answer = answer.append_column(name, values)
        for view, features in self.outputs.items():
            for name, values in self._transformed(view, features, known):
                answer = answer.append_column(name, values)
        return answer

    def _named(self, blobs: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.full_names:
            return blobs
        # two states under one short name would be confused: Feast refuses that for what is asked for by name
        return dict(zip([STATE], blobs.values(), strict=True)) if len(blobs) == 1 else {}

    def _transformed(self, view: Any, features: Sequence[str], known: pa.Table) -> Iterator[tuple[str, Any]]:
        """Let Feast run an on-demand view; the function names each column twice, and the first of a name counts."""
        transformed = view.transform_arrow(known, full_feature_names=True)
        dtypes = {declared.name: declared.dtype for declared in view.features}
        for feature in features:
            full = f"{view.projection.name_to_use()}__{feature}"
            values = transformed.column(transformed.column_names.index(full))
            yield full if self.full_names else feature, values.cast(from_feast_to_pyarrow_type(dtypes[feature]))


def _strings(column: Any) -> Any:
    return pc.cast(column, pa.string()).combine_chunks()


def _first_line(error: Exception) -> str:
    """Return what delta-rs said, without the causes that it adds below."""
    return str(error).partition("\n")[0].rstrip(".")


def _refuse_pull(source: str) -> NoReturn:
    _refuse(
        f"{source} cannot be pulled as a whole, nor materialized: workers keep Redis up to date by themselves.",
        "After a loss, `shopstream replay --into online` builds complete states.",
    )


def _refuse(what: str, hint: str) -> NoReturn:
    raise OfflineStoreError(what, hint=hint)
