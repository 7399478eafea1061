"""The raw events of labels' users, by when they happened: a stretch of time at a time.

They are read in the order of event times, whatever log they came in: a topic may have been created anew, or have got
more partitions. Of events of one millisecond, those of the older log come first, and within a log the smaller offset.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalog import VIEWS
from schemas.event import Event
from sinks.delta import explained
from sinks.lake_root import TableAddress

EVENTS_AT_ONCE: Final = 500_000

_BUCKET_MS: Final = 60_000
# what a fold looks at; the other fields of these events are None
_EVENT_FIELDS: Final = (
    "event_id", "kind", "user_id", "event_time_ms", "product_id", "category_id", "quantity", "unit_price_minor",
)  # fmt: skip
_LOG_FIELDS: Final = ("topic", "log_epoch", "partition", "offset")
_TOPICS: Final = tuple(VIEWS)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Events of a stretch of time, in the order of user, topic, time.

    Attributes:
        first_ms: the stretch begins here.
        end_ms: it ends before this.
        users: number of each event's user.
        topics: number of each event's topic, in the order of `features.catalog.VIEWS`.
        times_ms: when each happened.
        table: their columns.
    """

    first_ms: int
    end_ms: int
    users: Any
    topics: Any
    times_ms: Any
    table: Any

    def events(self) -> list[Event]:
        """Return them as events."""
        columns = [self.table.column(name).to_pylist() for name in _EVENT_FIELDS]
        return [Event(**dict(zip(_EVENT_FIELDS, values, strict=True))) for values in zip(*columns, strict=True)]

    def places(self) -> Iterator[tuple[str, str, str, int, int]]:
        """Return user id, topic, log epoch, partition and offset of each."""
        return zip(*(self.table.column(name).to_pylist() for name in ("user_id", *_LOG_FIELDS)), strict=True)

    def kept(self, wanted: Any) -> "Stretch":
        """Return it with those events that a numpy mask tells."""
        if wanted.all():
            return self
        table = self.table.filter(pa.array(wanted))
        users, topics, times_ms = (column[wanted] for column in (self.users, self.topics, self.times_ms))
        return Stretch(self.first_ms, self.end_ms, users, topics, times_ms, table)


class RecordedEvents:
    """Rows of `raw_events` of some users, in a range of event times; blocking.

    Args:
        handle: the table, a `deltalake.DeltaTable`.
        address: where it is, to name it in an error.
        users: Arrow strings, each once; their numbers are their places.
        first_ms: earliest event time.
        last_ms: latest event time.

    Attributes:
        schema_ids: writer schemas of the events in the range.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """

    def __init__(self, handle: Any, address: TableAddress, users: Any, first_ms: int, last_ms: int) -> None:
        self._handle = handle
        self._address = address
        self._users = users
        self._first_ms, self._last_ms = first_ms, last_ms
        self._counts: Any = np.zeros((last_ms - first_ms) // _BUCKET_MS + 1, np.int64)
        self._begins: dict[str, int] = {}
        self.schema_ids: set[int] = set()
        with explained(address):
            self._look()

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._counts.sum())

    def stretches(self) -> Iterator[Stretch]:
        """Yield all of the range, some `EVENTS_AT_ONCE` at a time, the earliest first; also where nothing happened.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        ends = np.cumsum(self._counts)
        last_buckets = np.unique(np.searchsorted(ends, np.arange(EVENTS_AT_ONCE, self.count, EVENTS_AT_ONCE)))
        cuts = (self._first_ms + (last_buckets + 1) * _BUCKET_MS).tolist()
        starts = [self._first_ms, *(cut for cut in cuts if cut <= self._last_ms)]
        for start_ms, end_ms in zip(starts, [*starts[1:], self._last_ms + 1], strict=True):
            with explained(self._address):
                stretch = self._read(start_ms, end_ms)
            yield stretch

    def _look(self) -> None:
        """Count the events of each minute, and learn when each log began."""
        columns = ["log_epoch", "append_time_ms", "event_time_ms", "schema_id"]
        for batch in self._batches(columns, self._first_ms, self._last_ms + 1):
            minutes = (batch.column("event_time_ms").to_numpy() - self._first_ms) // _BUCKET_MS
            self._counts += np.bincount(minutes, minlength=len(self._counts))
            self.schema_ids.update(pc.unique(batch.column("schema_id")).to_pylist())
            begins = pa.table(batch).group_by("log_epoch").aggregate([("append_time_ms", "min")]).to_pydict()
            for epoch, begin_ms in zip(begins["log_epoch"], begins["append_time_ms_min"], strict=True):
                self._begins[epoch] = min(begin_ms, self._begins.get(epoch, begin_ms))

    def _read(self, start_ms: int, end_ms: int) -> Stretch:
        names = [*_EVENT_FIELDS, *_LOG_FIELDS]
        batches = list(self._batches(names, start_ms, end_ms))
        if not batches:
            nothing = np.empty(0, np.int64)
            columns: dict[str, Any] = {name: pa.array([], pa.string()) for name in names}
            return Stretch(start_ms, end_ms, nothing, nothing, nothing, pa.table(columns))
        table = pa.Table.from_batches(batches)
        epochs = pa.array(sorted(self._begins, key=self._begins.__getitem__), pa.string())
        users = pc.index_in(table.column("user_id"), self._users).to_numpy()
        topics = pc.index_in(table.column("topic"), pa.array(_TOPICS)).to_numpy()
        ranks = pc.index_in(table.column("log_epoch"), epochs).to_numpy()
        times, offsets = (table.column(name).to_numpy() for name in ("event_time_ms", "offset"))
        order = np.lexsort((offsets, ranks, times, topics, users))
        return Stretch(start_ms, end_ms, users[order], topics[order], times[order], table.take(pa.array(order)))

    def _batches(self, columns: list[str], start_ms: int, end_ms: int) -> Iterator[Any]:
        dataset = self._handle.to_pyarrow_dataset(
            file_pruning_predicate=[("event_time_ms", ">=", start_ms), ("event_time_ms", "<", end_ms)]
        )
        time = pc.field("event_time_ms")
        wanted = (time >= start_ms) & (time < end_ms) & pc.field("user_id").isin(self._users)
        for batch in dataset.to_batches(columns=columns, filter=wanted):
            if batch.num_rows:
                yield batch
