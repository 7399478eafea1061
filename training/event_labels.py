"""Labels that are events: each purchase, for example, at the instant just before it happened."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.event import KINDS_BY_TOPIC
from sinks.delta import explained
from sinks.erasures import Tombstones
from sinks.lake_root import TableAddress
from training.errors import LabelsError
from training.labels import USER, Labels

BEFORE_MS: Final = 1

_CARRIED: Final = (
    "event_id", "event_time_ms", "product_id", "category_id", "quantity", "unit_price_minor", "currency", "order_id",
    "query", "position", "recommendation_id",
)  # fmt: skip
_PLACE: Final = ("topic", "log_epoch", "partition", "offset", "append_time_ms")


class EventLabels(NamedTuple):
    """Labels, and where the event of each lies.

    Attributes:
        places: an Arrow table of topic, log epoch, partition, offset and append time, a row per label.
    """

    labels: Labels
    places: pa.Table

    def kept(self, wanted: Any, reason: str) -> "EventLabels":
        """Return those that a numpy mask tells, and count the others under a reason."""
        return EventLabels(self.labels.kept(wanted, reason), self.places.filter(pa.array(wanted)))


def topic_of(kind: str) -> str:
    """Return the topic of events of a kind.

    Raises:
        LabelsError: there are none of that kind.
    """
    for topic, kinds in KINDS_BY_TOPIC.items():
        if kind in kinds:
            return topic
    known = ", ".join(kind for kinds in KINDS_BY_TOPIC.values() for kind in kinds)
    raise LabelsError(f"There are no events of the kind {kind!r}.", hint=f"The kinds are {known}.")


def event_labels(
    handle: Any,
    address: TableAddress,
    kind: str,
    from_ms: int,
    to_ms: int,
    tombstones: Tombstones,
    more: Sequence[str] = (),
) -> EventLabels:
    """Make a label of each raw event of a kind, 1 ms before it; by time.

    An event that was delivered again is one label: the earliest time of its id, and its first place in the log. What a
    label carries of its event is named `label_...`, so that nobody takes it for a feature.

    Args:
        handle: `raw_events`, a `deltalake.DeltaTable`.
        address: where it is, to name it in an error.
        from_ms: first event time.
        to_ms: end of event times, not included.
        tombstones: events of erased users are left out.
        more: further columns of the event that its label carries.

    Raises:
        LabelsError: there is no such event in the range.
        LakeUnavailableError: the table cannot be read.
    """
    topic = topic_of(kind)
    time = pc.field("event_time_ms")
    wanted = (pc.field("topic") == topic) & (pc.field("kind") == kind) & (time >= from_ms) & (time < to_ms)
    pruning = [("topic", "=", topic), ("event_time_ms", ">=", from_ms), ("event_time_ms", "<", to_ms)]
    with explained(address):
        rows = handle.to_pyarrow_dataset(file_pruning_predicate=pruning).to_table(
            columns=[USER, *_CARRIED, *more, *_PLACE], filter=wanted
        )
    if tombstones:
        places = zip(*(rows.column(name).to_pylist() for name in (USER, *_PLACE[:4])), strict=True)
        rows = rows.filter(pa.array([not tombstones.covers(*place) for place in places], pa.bool_()))
    found, first = _each_once(rows)
    if not found.num_rows:
        raise LabelsError(
            f"The lake holds no {kind} from {from_ms} to {to_ms} ms.", hint="Look at `shopstream status`, or widen it."
        )
    source = {
        "kind": "events",
        "event_kind": kind,
        "from_ms": from_ms,
        "to_ms": to_ms,
        "rows": rows.num_rows,
        "delivered_again": rows.num_rows - found.num_rows,
    }
    names = [*_CARRIED, *more]
    carried = found.select(names).rename_columns([f"label_{name}" for name in names])
    instants_ms = found.column("event_time_ms").to_numpy() - BEFORE_MS
    labels = Labels(found.column(USER).combine_chunks(), instants_ms, carried, source)
    return EventLabels(labels, first.select(_PLACE))


def _each_once(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the earliest row of each event, by time, and that which was appended first."""
    in_log = rows.sort_by([(name, "ascending") for name in ("append_time_ms", "partition", "offset")])
    events = _numbers(in_log)
    _, first = np.unique(events, return_index=True)
    by_time = np.lexsort((np.arange(len(events)), in_log.column("event_time_ms").to_numpy(), events))
    _, earliest = np.unique(events[by_time], return_index=True)
    chosen = by_time[earliest]
    order = np.lexsort((chosen, in_log.column("event_time_ms").to_numpy()[chosen]))
    return in_log.take(pa.array(chosen[order])), in_log.take(pa.array(first[order]))


def _numbers(rows: pa.Table) -> Any:
    """Number the events: those of one user and id have equal numbers."""
    users, ids = (rows.column(name).combine_chunks().dictionary_encode() for name in (USER, "event_id"))
    user_numbers, id_numbers = (column.indices.to_numpy().astype(np.int64) for column in (users, ids))
    return user_numbers * len(ids.dictionary) + id_numbers
