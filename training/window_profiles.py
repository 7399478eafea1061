"""Profiles of windows of event time: a sample of the events of a kind, with the features that they met.

Features come from the same code as those of training sets, of the same mode. What the events say themselves is profiled
with them: a shift in what is bought shows there first. All windows of one reader are read at the same versions of the
lake's tables, so a profile is a function of those.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

import mmh3
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from config.settings import Settings
from features.catalog import FEATURES, WINDOWS
from quality.profile import Categories, Numbers, Profile
from quality.reference import Window
from schemas.privacy import Pseudonyms
from sinks.delta import explained
from sinks.erasures import read_erasures, tombstones_of
from sinks.lake_root import Lake
from sinks.tables import RAW_EVENTS
from training.as_corrected import WARM_UP_MS, corrected_values
from training.columns import VALUES
from training.erased import not_erased, refuse_unfinished
from training.errors import LabelsError
from training.event_labels import EventLabels, event_labels, topic_of
from training.labels import Labels
from training.lake_snapshot import Snapshot
from training.recorded_events import RecordedEvents
from training.sets import SetMode

WINDOWS_AT_ONCE: Final = 96
BEGINNING_SHARE: Final = 0.2

_SESSION_MS: Final = 2 * 3_600_000  # what most sessions are shorter than
_IDLE_MS: Final = 86_400_000
# instants are another in each window, and lists have no distribution
_FEATURES: Final = {
    feature.name: feature for feature in FEATURES if feature.dtype != "strings" and feature.unit != "ms"
}
_MORE: Final = ("device",)
_LABEL_TEXTS: Final = ("label_category_id", "label_device")
_LABEL_NUMBERS: Final = ("label_position", "label_quantity", "label_unit_price_minor")


class SeenWindow(NamedTuple):
    """A window, and when its events were appended to their log.

    Attributes:
        first_append_ms: the earliest; the window's beginning, if it has no events.
        last_append_ms: the latest.
    """

    window: Window
    first_append_ms: int
    last_append_ms: int


class WindowReader:
    """Reads windows of a lake at the versions that its tables have now; blocking.

    Args:
        settings: of drift, and of the feature store for `as_served`.
        lake: what to read.
        mode: of the features.
        window_ms: length of a window; they begin at its multiples.

    Raises:
        NotInLakeError: the lake holds no events.
        LakeUnavailableError: it cannot be read.
    """

    def __init__(self, settings: Settings, lake: Lake, mode: SetMode, window_ms: int) -> None:
        self._settings = settings
        self._mode = mode
        self._window_ms = window_ms
        self._snapshot = Snapshot.of(lake)
        self._key = Pseudonyms.with_key_of(settings.privacy)
        self._erasures = read_erasures(lake)
        self._tombstones = tombstones_of(self._erasures, self._key)
        self._mature_ms: dict[str, int] = {}
        if mode is SetMode.AS_SERVED:
            refuse_unfinished(self._erasures)

    @property
    def versions(self) -> dict[str, int]:
        """Versions of the tables that are read."""
        return self._snapshot.versions

    def leave_out_until_mature(self, from_ms: int) -> None:
        """Leave each feature out of the windows that begin before its span lies within what the lake holds.

        Counts of the last 24 h rise for a day after the first event, which is no drift.

        Args:
            from_ms: the first window that will be read; what lies a warm-up before it does not matter.

        Raises:
            LakeUnavailableError: the lake cannot be read.
        """
        begins_ms = self._begins_ms(from_ms)
        for name, span_ms in feature_spans_ms().items():
            self._mature_ms[name] = begins_ms + span_ms

    def closed_until_ms(self, since_ms: int, behind: Collection[int] = ()) -> int:
        """Return up to where windows are closed: events of every log that is alive are past it, and the lateness.

        A log that is a day behind is not alive. One without newer events is waited for until the others are a window
        further, unless it is known to be behind.

        Args:
            since_ms: windows before are of no interest.
            behind: partitions whose log holds records that are not in the lake yet.

        Raises:
            LakeUnavailableError: the lake cannot be read.
        """
        topic = topic_of(self._settings.drift.label_kind)
        rows = self._read(["log_epoch", "partition", "event_time_ms", "append_time_ms"], topic, since_ms)
        if not rows.num_rows:
            return since_ms
        logs = rows.group_by(["log_epoch", "partition"]).aggregate(
            [("event_time_ms", "max"), ("append_time_ms", "max")]
        )
        newest_epoch = logs.column("log_epoch")[int(np.argmax(logs.column("append_time_ms_max").to_numpy()))]
        logs = logs.filter(pc.equal(logs.column("log_epoch"), newest_epoch))
        newest_ms = dict.fromkeys(behind, since_ms) | dict(
            zip(logs.column("partition").to_pylist(), logs.column("event_time_ms_max").to_pylist(), strict=True)
        )
        first_ms = max(newest_ms.values())
        past_ms = min(
            at_ms if partition in behind else max(at_ms, first_ms - self._window_ms)
            for partition, at_ms in newest_ms.items()
            if at_ms > first_ms - _IDLE_MS
        )
        past_ms -= self._settings.drift.lateness_ms
        return max(since_ms, past_ms // self._window_ms * self._window_ms)

    def windows(self, first_ms: int, end_ms: int, tell: Callable[[str], None]) -> Iterator[SeenWindow]:
        """Yield each window from one instant to another, in order, also those without events.

        Args:
            first_ms: a multiple of the window.
            end_ms: another; not included.
            tell: told what is under way, in words.

        Raises:
            ShopstreamError: the lake or the feature store cannot be read.
        """
        step_ms = WINDOWS_AT_ONCE * self._window_ms
        for start_ms in range(first_ms, end_ms, step_ms):
            until_ms = min(end_ms, start_ms + step_ms)
            tell(f"Looking at {(until_ms - start_ms) // self._window_ms} windows")
            yield from self._windows(start_ms, until_ms)

    def _windows(self, first_ms: int, end_ms: int) -> Iterator[SeenWindow]:
        raw, address = self._snapshot.handle(RAW_EVENTS), self._snapshot.address(RAW_EVENTS)
        kind = self._settings.drift.label_kind
        try:
            found = event_labels(raw, address, kind, first_ms, end_ms, self._tombstones, _MORE)
        except LabelsError:  # there are none in this range
            for start_ms in range(first_ms, end_ms, self._window_ms):
                yield SeenWindow(Window(start_ms, start_ms + self._window_ms, Profile()), start_ms, start_ms)
            return
        found = found.kept(not_erased(found.labels, self._erasures, self._key), "erased_users")
        numbers = (found.labels.carried.column("label_event_time_ms").to_numpy() - first_ms) // self._window_ms
        chosen = self._sample(found.labels, numbers)
        rows, numbers = found.kept(chosen, "not_sampled"), numbers[chosen]
        table = _variables(rows.labels, self._values(rows))
        appended = rows.places.column("append_time_ms").to_numpy()
        cuts = np.searchsorted(numbers, np.arange((end_ms - first_ms) // self._window_ms + 1))
        for n, (start, stop) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
            start_ms = first_ms + n * self._window_ms
            window = Window(start_ms, start_ms + self._window_ms, self._profile(table, start_ms, start, stop))
            times = appended[start:stop] if stop > start else np.array([start_ms])
            yield SeenWindow(window, int(times.min()), int(times.max()))

    def _sample(self, labels: Labels, numbers: Any) -> Any:
        """Choose events by a hash of their ids, of each window and user at most so many, as a numpy mask."""
        drift = self._settings.drift
        ids = labels.carried.column("label_event_id").to_pylist()
        frame = pd.DataFrame(
            {
                "window": numbers,
                "user": labels.user_ids.dictionary_encode().indices.to_numpy(),
                "hash": np.array([mmh3.hash64(id_, signed=False)[0] for id_ in ids], np.uint64),
            }
        ).sort_values("hash", kind="stable")
        frame = frame[frame.groupby(["window", "user"]).cumcount() < drift.user_rows]
        frame = frame[frame.groupby("window").cumcount() < drift.sample_rows]
        chosen = np.zeros(len(numbers), bool)
        chosen[frame.index.to_numpy()] = True
        return chosen

    def _values(self, rows: EventLabels) -> pa.Table:
        labels = rows.labels
        if not len(labels):
            return VALUES.empty_table()
        if self._mode is SetMode.AS_SERVED:
            from training.as_served import ServedFeatures, before_own_event

            lake = self._snapshot.lake
            labels = replace(labels, instants_ms=before_own_event(lake, labels, rows.places))
            return ServedFeatures(self._settings, lake).values(labels, _nothing_told)[0]
        users = labels.user_ids.unique()
        first_ms, last_ms = int(labels.instants_ms.min()) - WARM_UP_MS, int(labels.instants_ms.max())
        raw, address = self._snapshot.handle(RAW_EVENTS), self._snapshot.address(RAW_EVENTS)
        recorded = RecordedEvents(raw, address, users, first_ms, last_ms)
        return corrected_values(labels, recorded, users, self._tombstones, _nothing_told)

    def _profile(self, table: pa.Table, start_ms: int, start: int, stop: int) -> Profile:
        rows = table.slice(start, stop - start)
        variables: dict[str, Numbers | Categories] = {}
        for name in table.column_names:
            if self._mature_ms.get(name, start_ms) > start_ms:
                continue
            column = rows.column(name)
            if pa.types.is_string(column.type):
                counts = pc.value_counts(column.combine_chunks()).to_pylist()
                found = {each["values"]: each["counts"] for each in counts if each["values"] is not None}
                variables[name] = Categories(column.null_count, found)
            else:
                variables[name] = Numbers.of(column.to_numpy())
        return Profile(rows.num_rows, variables)

    def _begins_ms(self, from_ms: int) -> int:
        """Return when events begin: a stray one of a wrong clock is no beginning."""
        topic = topic_of(self._settings.drift.label_kind)
        times = self._read(["event_time_ms"], topic, from_ms - WARM_UP_MS).column("event_time_ms").to_numpy()
        if not len(times):
            return from_ms
        numbers, counts = np.unique(times // self._window_ms, return_counts=True)
        first = numbers[counts >= BEGINNING_SHARE * np.median(counts)][0]
        return max(int(first) * self._window_ms, from_ms - WARM_UP_MS)

    def _read(self, columns: list[str], topic: str, from_ms: int) -> pa.Table:
        handle, address = self._snapshot.handle(RAW_EVENTS), self._snapshot.address(RAW_EVENTS)
        wanted = (pc.field("topic") == topic) & (pc.field("event_time_ms") >= from_ms)
        pruning = [("topic", "=", topic), ("event_time_ms", ">=", from_ms)]
        with explained(address):
            return handle.to_pyarrow_dataset(file_pruning_predicate=pruning).to_table(columns=columns, filter=wanted)


def feature_spans_ms() -> dict[str, int]:
    """Return how much event time each feature sums up, by name."""
    return {
        name: _SESSION_MS if feature.window is None else WINDOWS[feature.window].length_ms
        for name, feature in _FEATURES.items()
    }


def _variables(labels: Labels, values: pa.Table) -> pa.Table:
    """Put what is profiled side by side: strings and floats; what no event has is left out."""
    columns: dict[str, Any] = {}
    for name, feature in _FEATURES.items():
        column = values.column(name)
        columns[name] = (
            pc.if_else(column, "yes", "no") if feature.dtype == "bool" else column.cast(pa.float64())
        ).combine_chunks()
    for names, kind in ((_LABEL_TEXTS, pa.string()), (_LABEL_NUMBERS, pa.float64())):
        for name in names:
            column = labels.carried.column(name)
            if column.null_count < len(column):
                columns[name] = column.cast(kind).combine_chunks()
    return pa.table(columns)


def _nothing_told(_more: int) -> None:
    """Tell nobody how far the reading of a few windows has come."""
