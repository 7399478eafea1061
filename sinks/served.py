"""The table `served`: what readers were given, written by them and read back by the audit."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from features.catalog import FEATURES, WINDOWS
from schemas.event import EVENT_TOPICS
from sinks.derived_tables import SERVED, view_prefix
from sinks.lake_root import Lake

DAY_MS: Final = 86_400_000

_PLAIN: Final = (
    "reader_id",
    "sequence",
    "served_ms",
    "user_id",
    "as_of_ms",
    "definition_version",
    "catalog",
    "model",
    "values",
)
_VIEW: Final = ("epoch", "partition", "version", "servable_ms", "status")


class ServedView(NamedTuple):
    """One view behind an answer; only the status is there where the user had no state.

    Attributes:
        epoch: log that the version is of; None, with the partition, where that had no fence.
        version: last applied offset + 1.
        servable_ms: when the state became readable, integer milliseconds UTC.
        status: what the reader was told.
    """

    epoch: str | None
    partition: int | None
    version: int | None
    servable_ms: int | None
    status: str


class ServedRow(NamedTuple):
    """One answer of a reader.

    Attributes:
        sequence: number of the row among those of its reader.
        served_ms: when it was read, integer milliseconds UTC.
        user_id: as stores hold it: the id itself, or its pseudonym.
        as_of_ms: the instant that the values hold for.
        catalog: `catalog_fingerprint` of the reader.
        model: who asked, None where it did not say.
        values: what was returned, a JSON object by feature name.
        views: by topic.
    """

    reader_id: str
    sequence: int
    served_ms: int
    user_id: str
    as_of_ms: int
    definition_version: int
    catalog: str
    model: str | None
    values: str
    views: Mapping[str, ServedView]


def catalog_fingerprint() -> str:
    """Return a short hash of what the catalog says of each feature: it changes when a definition is described anew."""
    told = [(f.name, f.window, f.dtype, f.nullable, f.unit, f.description) for f in FEATURES]
    windows = [(name, window.length_ms, window.hop_ms) for name, window in WINDOWS.items()]
    return hashlib.sha256(repr((told, windows)).encode()).hexdigest()[:16]


class ServedSink:
    """Appends the rows of one reader; blocking, and repeating a call is harmless. Not for several threads at once.

    Args:
        reader_id: under which no other reader writes.
    """

    def __init__(self, lake: Lake, reader_id: str) -> None:
        self._lake = lake
        self._reader_id = reader_id
        self._appender: Any = None

    def append(self, rows: Sequence[ServedRow]) -> None:
        """Append rows, in the order of their sequence, each above all that were appended before.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
        """
        from sinks.delta import DeltaAppender  # it imports the Delta library, which a reader needs late
        from sinks.exact_append import TablePart

        if self._appender is None:
            self._appender = DeltaAppender(self._lake, SERVED)
        app_id = f"{SERVED.name}-{self._reader_id}"
        self._appender.append([TablePart(app_id, rows[-1].sequence, _arrow(rows))])


class ServedMoment(NamedTuple):
    """When and whom an answer was for."""

    user_id: str
    served_ms: int
    as_of_ms: int


def served_moments(
    lake: Lake, first_ms: int, end_ms: int, *, users: Collection[str] | None = None
) -> Iterator[ServedMoment]:
    """Yield when and for whom there are answers: the same as `read_served`, without what was answered.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    for columns in _read(lake, ServedMoment._fields, first_ms, end_ms, users):
        yield from map(ServedMoment, *columns.values())


def read_served(
    lake: Lake, first_ms: int, end_ms: int, *, users: Collection[str] | None = None
) -> Iterator[list[ServedRow]]:
    """Yield the answers from `first_ms` to before `end_ms`, in no order, a piece of the table at a time.

    Args:
        users: whose, as stores hold them; None for all.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    for columns in _read(lake, (*_PLAIN, *_view_columns()), first_ms, end_ms, users):
        yield _rows(columns)


def _read(
    lake: Lake, names: Sequence[str], first_ms: int, end_ms: int, users: Collection[str] | None
) -> Iterator[dict[str, list[Any]]]:
    import pyarrow as pa
    from pyarrow import compute as pc

    from sinks.delta import explained, opened

    handle = opened(lake / SERVED.name)
    if handle is None:
        return
    wanted = (pc.field("served_ms") >= first_ms) & (pc.field("served_ms") < end_ms)
    if users is not None:
        wanted &= pc.field("user_id").isin(pa.array(sorted(users), pa.string()))
    with explained(lake / SERVED.name):
        dataset = handle.to_pyarrow_dataset(
            file_pruning_predicate=[("served_ms", ">=", first_ms), ("served_ms", "<", end_ms)]
        )
        for batch in dataset.to_batches(columns=list(names), filter=wanted):
            if batch.num_rows:
                yield {name: batch.column(name).to_pylist() for name in names}


def _view_columns() -> list[str]:
    return [f"{view_prefix(topic)}_{name}" for topic in EVENT_TOPICS for name in _VIEW]


def _rows(columns: Mapping[str, list[Any]]) -> list[ServedRow]:
    views = {
        topic: list(map(ServedView, *(columns[f"{view_prefix(topic)}_{name}"] for name in _VIEW)))
        for topic in EVENT_TOPICS
    }
    plain = zip(*(columns[name] for name in _PLAIN), strict=True)
    return [
        ServedRow._make((*values, {topic: of_topic[place] for topic, of_topic in views.items()}))
        for place, values in enumerate(plain)
    ]


def _arrow(rows: Sequence[ServedRow]) -> Any:
    import pyarrow as pa

    from sinks.tables import arrow_schema

    schema = arrow_schema(SERVED)
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in _PLAIN}
    for topic in EVENT_TOPICS:
        for place, name in enumerate(_VIEW):
            columns[f"{view_prefix(topic)}_{name}"] = [row.views[topic][place] for row in rows]
    arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    arrays["served_date"] = pa.array([row.served_ms // DAY_MS for row in rows], pa.int32()).cast(pa.date32())
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)
