"""The events that sessions are made of, as the lake holds them, and the table `sessions`, a day at a time."""

import zlib
from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sinks.derived_tables import SESSIONS
from sinks.erasures import Tombstones, log_of
from sinks.lake_root import Lake
from sinks.tables import RAW_EVENTS, arrow_schema

if TYPE_CHECKING:
    from deltalake import DeltaTable

COLUMNS: Final = (
    "user_id", "event_time_ms", "topic", "event_id", "kind", "product_id", "quantity", "unit_price_minor", "device",
)  # fmt: skip
_PLACE: Final = ("log_epoch", "partition", "offset")
# by time, and for the same time in an order that no reader of the lake changes
_ORDER: Final = ("user_id", "event_time_ms", "topic", *_PLACE)


class EventBounds(NamedTuple):
    """From when to when the lake's events are, integer milliseconds UTC."""

    first_event_ms: int
    newest_event_ms: int
    newest_append_ms: int


class EventReader:
    """Reads from one snapshot of `raw_events`, without what was erased.

    Args:
        tombstones: events of erased users, which do not count.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """

    def __init__(self, lake: Lake, tombstones: Tombstones) -> None:
        from sinks.delta import opened

        self._address = lake / RAW_EVENTS.name
        self._handle: DeltaTable | None = opened(self._address)
        self._tombstones = tombstones

    def bounds(self) -> EventBounds | None:
        """Return from when to when events are; None when there are none.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        import pyarrow as pa
        from pyarrow import compute as pc

        from sinks.delta import explained

        if self._handle is None:
            return None
        with explained(self._address):
            files = pa.table(self._handle.get_add_actions(flatten=True))
            names = [f"{bound}.{column}" for column in ("event_time_ms", "append_time_ms") for bound in ("min", "max")]
            if set(names) <= set(files.column_names) and not any(files.column(name).null_count for name in names):
                found = [pc.min(files.column(names[0])), pc.max(files.column(names[1])), pc.max(files.column(names[3]))]
            else:  # files that were written without statistics
                rows = self._handle.to_pyarrow_dataset().to_table(columns=["event_time_ms", "append_time_ms"])
                times, appends = rows.columns
                found = [pc.min(times), pc.max(times), pc.max(appends)]
        first, newest, appended = (value.as_py() for value in found)
        return None if first is None else EventBounds(first, newest, appended)

    def count(self, first_ms: int, end_ms: int) -> int:
        """Count the events of a stretch of event time, erased ones included.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        from sinks.delta import explained

        with explained(self._address):
            dataset, wanted = self._stretch(first_ms, end_ms)
            return int(dataset.count_rows(filter=wanted))

    def rows(
        self, first_ms: int, end_ms: int, *, bucket: int = 0, buckets: int = 1, users: Collection[str] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Yield `COLUMNS` of the events of a stretch of event time, by user, then by time; all are held, as Arrow.

        Args:
            bucket, buckets: only of users of this part of all.
            users: only of these; None for all.

        Raises:
            LakeUnavailableError: the table cannot be read.
        """
        import pyarrow as pa
        from pyarrow import compute as pc

        from sinks.delta import explained

        with explained(self._address):
            dataset, wanted = self._stretch(first_ms, end_ms)
            if users is not None:
                wanted &= pc.field("user_id").isin(pa.array(sorted(users), pa.string()))
            kept = []
            for batch in dataset.to_batches(columns=[*COLUMNS, *_PLACE], filter=wanted):
                own = batch if buckets == 1 else _of_bucket(batch, bucket, buckets)
                own = self._not_erased(own)
                if own.num_rows:
                    kept.append(own)
            if not kept:
                return
            ordered = pa.Table.from_batches(kept).sort_by([(name, "ascending") for name in _ORDER]).select(COLUMNS)
            del kept
        for part in ordered.to_batches(max_chunksize=65_536):
            yield from zip(*(column.to_pylist() for column in part.columns), strict=True)

    def _stretch(self, first_ms: int, end_ms: int) -> tuple[Any, Any]:
        from pyarrow import compute as pc

        assert self._handle is not None
        between = (pc.field("event_time_ms") >= first_ms) & (pc.field("event_time_ms") < end_ms)
        pruning = [("event_time_ms", ">=", first_ms), ("event_time_ms", "<", end_ms)]
        return self._handle.to_pyarrow_dataset(file_pruning_predicate=pruning), between

    def _not_erased(self, batch: Any) -> Any:
        import pyarrow as pa

        if not self._tombstones or not batch.num_rows:
            return batch
        ends: dict[tuple[str, ...], int] = {}
        kept = []
        names = ("user_id", "topic", *_PLACE)
        for user_id, topic, epoch, number, offset in zip(
            *(batch.column(name).to_pylist() for name in names), strict=True
        ):
            key = (user_id, topic, epoch, number)
            if key not in ends:
                ends[key] = self._tombstones.end_of(user_id, log_of(topic, epoch, number))
            kept.append(offset >= ends[key])
        return batch.filter(pa.array(kept, pa.bool_()))


def session_batch(day: date, columns: Sequence[Sequence[Any]]) -> Any:
    """Return rows of the table as Arrow.

    Args:
        columns: as in the table, but for its last one, the day.
    """
    import pyarrow as pa

    schema = arrow_schema(SESSIONS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=False)]
    days = pa.array([day] * len(columns[0]), pa.date32())
    return pa.RecordBatch.from_arrays([*arrays, days], schema=schema)


def replace_day(lake: Lake, day: date, batches: Sequence[Any]) -> int:
    """Put rows in the place of a day's; one commit, before which the old rows are there and after which the new are.

    Args:
        batches: of `session_batch`.

    Returns:
        How many rows were there before.

    Raises:
        LakeUnavailableError: the table cannot be read or written, or somebody else wrote it at this moment.
    """
    import pyarrow as pa
    from deltalake import CommitProperties, Transaction, write_deltalake
    from pyarrow import compute as pc

    from sinks.delta import explained, open_or_create, writer_properties

    address = lake / SESSIONS.name
    rows = pa.Table.from_batches(batches, arrow_schema(SESSIONS))
    application = f"{SESSIONS.name}-{day.isoformat()}"
    with explained(address):
        handle = open_or_create(address, SESSIONS)
        held = handle.to_pyarrow_dataset().count_rows(filter=pc.field(SESSIONS.partitioned_by) == day)
        if not held and not rows.num_rows:
            return 0
        # an older handle is refused: of two who replace one day at the same time, one fails
        number = (handle.transaction_version(application) or 0) + 1
        write_deltalake(
            handle,
            rows,
            mode="overwrite",
            predicate=f"{SESSIONS.partitioned_by} = '{day.isoformat()}'",
            writer_properties=writer_properties(SESSIONS),
            commit_properties=CommitProperties(app_transactions=[Transaction(application, number)]),
        )
    return int(held)


def _of_bucket(batch: Any, bucket: int, buckets: int) -> Any:
    import pyarrow as pa

    users = batch.column("user_id").dictionary_encode()
    own = [zlib.crc32(user_id.encode()) % buckets == bucket for user_id in users.dictionary.to_pylist()]
    return batch.filter(pa.array(own, pa.bool_()).take(users.indices))
