"""The point-in-time join: of each label, the newest state that a reader could have had at its instant.

Two passes over the log of states. The first reads who and when of the users asked for, and finds which rows win; the
second reads those rows' states, a row group at a time. So memory grows with the labels and with 24 bytes per state
of their users, and never with the states that nobody asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.state import read_trailer

_DAY_MS: Final = 86_400_000
_WHO_AND_WHEN: Final = ["topic", "user_id", "servable_ms"]
_STATE_COLUMNS: Final = {
    "state": pa.large_binary(),  # all that won may be more than 2 GB
    "servable_ms": pa.int64(),
    "log_epoch": pa.string(),
    "partition": pa.int32(),
}
_ROWS_AT_ONCE: Final = 16_384
_FILE: Final = 32  # a position is the number of a file and of a row in it, in one integer

_Arg = TypeVar("_Arg")
_Result = TypeVar("_Result")


class Labels(NamedTuple):
    """For whom and when.

    Attributes:
        user_ids: Arrow strings; one that is null matches nothing.
        instants_ms: integer milliseconds UTC, one per user id.
    """

    user_ids: Any
    instants_ms: Any


@dataclass(frozen=True, slots=True)
class TopicStates:
    """The states of one topic that won, each once, and which label has which.

    Attributes:
        of_label: per label the number of its state, -1 where the user had none.
        states: Arrow, large binary.
        servable_ms: when each became readable.
        log_epoch: what its version is relative to, Arrow strings.
        partition: of the user's log.
    """

    of_label: Any
    states: Any
    servable_ms: Any
    log_epoch: Any
    partition: Any

    def column(self, values: Any, first: int, count: int) -> Any:
        """Return one of the columns for a run of labels; null where a label has no state."""
        numbers = self.of_label[first : first + count]
        return values.take(pa.array(numbers, mask=numbers < 0))


def newest_states(table: Any, topics: Sequence[str], labels: Labels) -> dict[str, TopicStates]:
    """Join labels with the states of some topics: `servable_ms` <= instant, the newest; of equals the greatest version.

    Args:
        table: the log of states, a `deltalake.DeltaTable`.
        labels: in any order, also several of one user and instant.

    Raises:
        StateError: a state is shorter than its trailer.
        OSError: a file is gone.
    """
    if not len(labels.instants_ms):
        return {topic: _joined(np.empty(0, np.int64), _read_states([], np.empty(0, np.int64))) for topic in topics}
    newest_ms = int(labels.instants_ms.max())
    day = pa.scalar(newest_ms // _DAY_MS, pa.int32()).cast(pa.date32()).as_py()
    dataset = table.to_pyarrow_dataset(
        file_pruning_predicate=[("servable_date", "<=", day.isoformat()), ("servable_ms", "<=", newest_ms)]
    )
    fragments = list(dataset.get_fragments())
    users = labels.user_ids.unique().drop_null()
    rows = _who_and_when(fragments, pa.array(topics, pa.string()), users, newest_ms)
    user_numbers = pc.index_in(labels.user_ids, users).fill_null(-1).to_numpy(zero_copy_only=False)
    found: dict[str, TopicStates] = {}
    for number, topic in enumerate(topics):
        of_label, candidates = _as_of(rows[rows["topic"] == number], user_numbers, labels.instants_ms)
        states = _read_states(fragments, candidates["position"].to_numpy())
        of_label, states = _greatest(of_label, candidates["number"].to_numpy(), states)
        found[topic] = _joined(of_label, states)
    return found


def _who_and_when(fragments: Sequence[Any], topics: Any, users: Any, newest_ms: int) -> pd.DataFrame:
    """Return topic, user (by number), `servable_ms` and position of every row of the users; by `servable_ms`."""

    def scan(numbered: tuple[int, Any]) -> tuple[Any, ...]:
        number, fragment = numbered
        # no filter: with one, the rows would lose their places
        table = fragment.to_table(columns=_WHO_AND_WHEN, use_threads=False)
        user = pc.index_in(table.column("user_id"), users)
        topic = pc.index_in(table.column("topic"), topics)
        servable = table.column("servable_ms")
        is_wanted = pc.and_(pc.and_(user.is_valid(), topic.is_valid()), pc.less_equal(servable, newest_ms))
        wanted = np.flatnonzero(is_wanted.to_numpy())
        columns = (
            column.fill_null(-1).to_numpy()[wanted].astype(kind)
            for column, kind in ((topic, np.int8), (user, np.int32), (servable, np.int64))
        )
        return (*columns, wanted.astype(np.int64) | number << _FILE)

    names = ("topic", "user", "servable_ms", "position")
    kinds = (np.int8, np.int32, np.int64, np.int64)
    parts = list(zip(*_side_by_side(scan, list(enumerate(fragments))), strict=True)) or [()] * len(names)
    columns = {
        name: np.concatenate([np.empty(0, kind), *part]) for name, kind, part in zip(names, kinds, parts, strict=True)
    }
    order = np.argsort(columns["servable_ms"], kind="stable")
    return pd.DataFrame({name: column[order] for name, column in columns.items()}, copy=False)


def _as_of(rows: pd.DataFrame, user_numbers: Any, instants_ms: Any) -> tuple[Any, pd.DataFrame]:
    """Find the newest `servable_ms` for each label, and every row of that user and time.

    Returns:
        Per label the number of its user and time, -1 for none; and (number, position) of the rows, by position.
    """
    labels = pd.DataFrame({"user": user_numbers.astype(np.int32), "instant_ms": instants_ms})
    order = np.argsort(instants_ms, kind="stable")
    times = rows[["user", "servable_ms"]].assign(found_ms=rows["servable_ms"])
    joined = pd.merge_asof(
        labels.iloc[order], times, left_on="instant_ms", right_on="servable_ms", by="user", direction="backward"
    )
    hits = joined[["user", "found_ms"]].set_axis(order).dropna()
    hits["found_ms"] = hits["found_ms"].astype(np.int64)
    winners = hits.drop_duplicates()
    numbered = winners.assign(number=np.arange(len(winners)))
    of_label = np.full(len(labels), -1, np.int64)
    of_label[hits.index] = hits.merge(numbered, on=["user", "found_ms"])["number"]
    candidates = rows.merge(numbered, left_on=["user", "servable_ms"], right_on=["user", "found_ms"])
    return of_label, candidates[["number", "position"]].sort_values("position")


def _read_states(fragments: Sequence[Any], positions: Any) -> pa.Table:
    """Read the rows at these positions, which ascend."""
    files, starts = np.unique(positions >> _FILE, return_index=True)
    rows = np.split(positions & ((1 << _FILE) - 1), starts[1:]) if len(files) else []
    schema, names = pa.schema(_STATE_COLUMNS), list(_STATE_COLUMNS)

    def read(wanted: tuple[int, Any]) -> pa.Table:
        number, here = wanted
        with fragments[number].open() as source, pq.ParquetFile(source) as file:
            return pa.Table.from_batches(list(_taken(file, here)), schema).combine_chunks()

    def _taken(file: Any, here: Any) -> Iterator[Any]:
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        groups = np.unique(np.searchsorted(ends, here, side="right"))
        for group in groups.tolist():
            first = int(ends[group - 1]) if group else 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names):
                inside = here[np.searchsorted(here, first) : np.searchsorted(here, first + batch.num_rows)]
                if len(inside):
                    picked = pa.table(batch).select(names).take(pa.array(inside - first)).cast(schema)
                    yield from picked.to_batches()
                first += batch.num_rows

    parts = _side_by_side(read, list(zip(files.tolist(), rows, strict=True)))
    return pa.concat_tables([schema.empty_table(), *parts]).combine_chunks()


def _greatest(of_label: Any, numbers: Any, rows: pa.Table) -> tuple[Any, pa.Table]:
    """Of the rows of one user and time keep the one of the greatest generation and version.

    A repair, or two batches within a millisecond, leave more than one.
    """
    best = np.full(int(of_label.max(initial=-1)) + 1, -1, np.int64)
    if len(numbers) == len(best):  # no user and time has two
        best[numbers] = np.arange(len(numbers))
    else:
        trailers = [read_trailer(state.as_py()) for state in rows.column("state")]
        for place in sorted(range(len(trailers)), key=lambda place: (trailers[place][0], trailers[place][2])):
            best[numbers[place]] = place
    return np.where(of_label < 0, -1, best[of_label] if len(best) else -1), rows


def _joined(of_label: Any, rows: pa.Table) -> TopicStates:
    columns = (_one_chunk(rows.column(name)) for name in _STATE_COLUMNS)
    return TopicStates(of_label, *columns)


def _one_chunk(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else pa.array([], column.type)


def _side_by_side(work: Callable[[_Arg], _Result], items: Sequence[_Arg]) -> list[_Result]:
    """Work on as many items at once as there are cores; Arrow leaves the interpreter free meanwhile."""
    with ThreadPoolExecutor(max_workers=pa.cpu_count()) as pool:
        return list(pool.map(work, items))
