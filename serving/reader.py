"""Reads fresh features: their values at an instant, and how fresh they are."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from config.settings import Settings
from feature_repo.fence import Fence, FenceStore, PartitionStatus
from feature_repo.layout import JOIN_KEY, STATE
from feature_repo.on_demand import AS_OF, STATE_OK, STATE_STATUS
from feature_repo.opening import feature_service, open_feature_store
from features.catalog import FEATURES, ON_DEMAND_VIEW, STATUS_FIELDS, VIEWS
from features.state import decode, read_trailer
from schemas.privacy import Pseudonyms
from serving.errors import UnreadableStateError
from serving.fresh_fences import FenceSource, FreshFences
from serving.served_log import ServedLog

if TYPE_CHECKING:
    from feast import FeatureStore

FeatureValue = int | float | bool | str | list[str] | None

_SATURATION = tuple(field.name for field in STATUS_FIELDS if field.name.endswith("_saturated"))


class ViewStatus(StrEnum):
    """Whether a view's part of an answer may be relied upon; the first that applies, in this order."""

    HALTED = "HALTED"  # the view applies nothing at present
    REBUILDING = "REBUILDING"  # states were lost and are being rebuilt; this one may lack its past, or be missing
    MISSING = "MISSING"  # nothing was ever written for this user
    STALE = "STALE"  # not written for longer than serving.stale_after_ms
    FRESH = "FRESH"


@dataclass(frozen=True, slots=True)
class ViewFreshness:
    """How fresh one view of one user is; all but the status is None where there is no state.

    Attributes:
        newest_event_ms: event time of the newest event that the state holds.
        servable_ms: when the state became readable.
        age_ms: how long ago that was.
        version: last applied offset + 1.
        log_epoch: the log that the version is of; None, with the partition, where that has no fence.
        halted_since_ms: since when the view applies nothing; None while it does.
    """

    status: ViewStatus
    newest_event_ms: int | None = None
    servable_ms: int | None = None
    age_ms: int | None = None
    version: int | None = None
    log_epoch: str | None = None
    partition: int | None = None
    halted_since_ms: int | None = None


@dataclass(frozen=True, slots=True)
class UserFeatures:
    """The features of one user.

    Attributes:
        values: by feature name, all of the catalog.
        as_of_ms: the instant that they hold for; None for a user without any state.
        clamped: that instant is the newest event, because the one that was asked for lies before it.
        views: freshness by feature view.
        saturated: status fields that say where a cap was reached.
    """

    user_id: str
    values: dict[str, FeatureValue]
    as_of_ms: int | None
    clamped: bool
    views: dict[str, ViewFreshness]
    saturated: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether any view holds a state of this user."""
        return any(view.version is not None for view in self.views.values())


class AnswerLog(Protocol):
    """Keeps a sample of what was answered (serving/served_log.py)."""

    def offer(self, answers: Sequence[UserFeatures], read_ms: int, model: str | None, /) -> None:
        """Take the answers of one read; returns at once, and never raises."""
        ...


def now_ms() -> int:
    """Return wall-clock milliseconds UTC."""
    return time.time_ns() // 1_000_000


class FeatureReader:
    """Reads features through Feast's `get_online_features`.

    Not for several threads at once: give each its own.

    Args:
        store: an open feature store, with definitions applied.
        fences: tells which partitions are being rebuilt or halted; asked at most once a second.
        stale_after_ms: age from which a view is STALE.
        clock_ms: wall clock.
        pseudonyms: what user ids are stored under; None where they are stored as they are. Ids are asked for, and
            answered, as they are in either case.
        served: keeps a sample of the answers; whoever made it closes it, after the readers that share it.

    Raises:
        NotAppliedError: the definitions were never applied to the store's project.
    """

    def __init__(
        self,
        store: "FeatureStore",
        fences: FenceSource,
        *,
        stale_after_ms: int,
        clock_ms: Callable[[], int] = now_ms,
        pseudonyms: Pseudonyms | None = None,
        served: AnswerLog | None = None,
    ) -> None:
        self._served = served
        self._own_log: ServedLog | None = None
        self._pseudonyms = pseudonyms
        self._store = store
        self._service = feature_service(store)
        self._fences = FreshFences(fences, clock_ms)
        self._stale_after_ms = stale_after_ms
        self._clock_ms = clock_ms

    @classmethod
    def from_settings(
        cls, settings: Settings, *, for_inspection: bool = False, served: AnswerLog | None = None
    ) -> "FeatureReader":
        """Open a reader on the online store of the settings; its fences share the store's connection.

        Args:
            for_inspection: nobody acts upon the answers, so none is kept in `served`.
            served: keeps a sample of the answers; one of the reader's own, if None.

        Raises:
            SettingsError: no Redis is set.
            NotAppliedError: the definitions were never applied.
        """
        store = open_feature_store(settings)
        reader = cls(
            store,
            FenceStore.beside(store),
            stale_after_ms=settings.serving.stale_after_ms,
            pseudonyms=Pseudonyms.in_use(settings.privacy),
            served=None if for_inspection else served,
        )
        if served is None and not for_inspection:
            reader._served = reader._own_log = ServedLog.from_settings(settings)
        return reader

    def read(
        self, user_ids: Sequence[str], as_of_ms: int | None = None, *, model: str | None = None
    ) -> list[UserFeatures]:
        """Read the features of users, in their order; unknown users are answered too, as MISSING.

        Args:
            user_ids: one or many; each costs about a tenth of the call.
            as_of_ms: the instant to answer for; now, if None. One before the newest event is raised to it.
            model: who asks, for the sample of answers that is kept in `served`.

        Raises:
            UnreadableStateError: what is stored for some of them is not a state.
            OnlineStoreError: Redis does not answer.
        """
        now = self._clock_ms()
        as_of = now if as_of_ms is None else as_of_ms
        columns = self._columns(user_ids, [as_of] * len(user_ids))
        answers = [self._user(columns, row, user_id, now) for row, user_id in enumerate(user_ids)]
        if self._served is not None:
            self._served.offer(answers, now, model)
        return answers

    def read_with_states(
        self, user_ids: Sequence[str], as_of_ms: Sequence[int]
    ) -> list[tuple[UserFeatures, dict[str, bytes]]]:
        """Read users, each at an instant of its own, with the states by topic that the values were computed from.

        A user may be named several times: its states are read once, so all its answers are of the same states.

        Raises:
            UnreadableStateError: what is stored for some of them is not a state.
            OnlineStoreError: Redis does not answer.
        """
        now = self._clock_ms()
        columns = self._columns(user_ids, as_of_ms)
        return [(self._user(columns, row, user_id, now), columns.states(row)) for row, user_id in enumerate(user_ids)]

    def _columns(self, user_ids: Sequence[str], as_of_ms: Sequence[int]) -> "_Columns":
        if not user_ids:
            return _Columns({})
        answer = self._store.get_online_features(
            self._service,
            entity_rows={JOIN_KEY: self._stored_ids(user_ids), AS_OF: list(as_of_ms)},
            full_feature_names=True,
        )
        columns = _Columns.of(answer.proto)
        columns.check_readable(user_ids)
        return columns

    def _stored_ids(self, user_ids: Sequence[str]) -> list[str]:
        return list(user_ids) if self._pseudonyms is None else [self._pseudonyms.of(user_id) for user_id in user_ids]

    def close(self) -> None:
        """Close the connection, and write what the reader's own log has kept."""
        if self._own_log is not None:
            self._own_log.close()
        self._store.provider.online_store.connections(self._store.config.online_store).close_blocking()

    def _user(self, columns: "_Columns", row: int, user_id: str, now: int) -> UserFeatures:
        values = {
            feature.name: _or_empty(columns.output(feature.name, row), feature.dtype, nullable=feature.nullable)
            for feature in FEATURES
        }
        as_of_ms = columns.output("as_of_ms", row)
        return UserFeatures(
            user_id=user_id,
            values=values,
            as_of_ms=as_of_ms,
            clamped=bool(columns.output("clamped", row)),
            views={
                view.view: self._freshness(topic, user_id, *columns.state(view.view, row), now)
                for topic, view in VIEWS.items()
            },
            saturated=tuple(name for name in _SATURATION if columns.output(name, row)),
        )

    def _freshness(self, topic: str, user_id: str, blob: bytes | None, servable_ms: int, now: int) -> ViewFreshness:
        partition, fence = self._fences.of(topic, user_id)
        log_epoch = None if fence is None else fence.epoch
        halted_since_ms = fence.halted_since_ms if fence is not None and fence.is_halted else None
        if blob is None:
            status = _status(fence, partial=False) or ViewStatus.MISSING
            return ViewFreshness(status, log_epoch=log_epoch, partition=partition, halted_since_ms=halted_since_ms)
        state = decode(blob)
        age_ms = max(0, now - servable_ms)
        timely = ViewStatus.STALE if age_ms > self._stale_after_ms else ViewStatus.FRESH
        return ViewFreshness(
            status=_status(fence, partial=state.partial) or timely,
            newest_event_ms=state.newest_ms,
            servable_ms=servable_ms,
            age_ms=age_ms,
            version=read_trailer(blob).version,
            log_epoch=log_epoch,
            partition=partition,
            halted_since_ms=halted_since_ms,
        )


def _status(fence: Fence | None, *, partial: bool) -> ViewStatus | None:
    if fence is not None and fence.is_halted:
        return ViewStatus.HALTED
    if partial or (fence is not None and fence.status is PartitionStatus.REBUILDING):
        return ViewStatus.REBUILDING
    return None


@dataclass(frozen=True, slots=True)
class _Columns:
    """Feast's answer, by full feature name; `to_dict` would cut its timestamps to seconds."""

    by_name: dict[str, Any]

    @classmethod
    def of(cls, answer: Any) -> "_Columns":
        return cls(dict(zip(answer.metadata.feature_names.val, answer.results, strict=True)))

    def output(self, name: str, row: int) -> Any:
        return _python_value(self.by_name[f"{ON_DEMAND_VIEW}__{name}"].values[row])

    def state(self, view: str, row: int) -> tuple[bytes | None, int]:
        column = self.by_name[f"{view}__{STATE}"]
        # Feast calls a missing row PRESENT, with no value and a timestamp of 1970
        return _python_value(column.values[row]), column.event_timestamps[row].ToMilliseconds()

    def states(self, row: int) -> dict[str, bytes]:
        found = {topic: self.state(view.view, row)[0] for topic, view in VIEWS.items()}
        return {topic: blob for topic, blob in found.items() if blob is not None}

    def check_readable(self, user_ids: Iterable[str]) -> None:
        told = {user: self.output(STATE_STATUS, row) for row, user in enumerate(user_ids)}
        unreadable = {user: status for user, status in told.items() if status != STATE_OK}
        if unreadable:
            raise UnreadableStateError(unreadable)


def _python_value(value: Any) -> Any:
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    found = getattr(value, kind)
    return list(found.val) if kind == "string_list_val" else found


def _or_empty(value: Any, dtype: str, *, nullable: bool) -> Any:
    # Feast has no type for a column of empty lists and passes null (feature_repo.on_demand)
    return [] if value is None and dtype == "strings" and not nullable else value
