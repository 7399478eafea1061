"""What users did with products in a stretch of time, as columns: a view, a click, an add, a purchase.

Read from `raw_events` at the version of a snapshot. Strings are there once each, rows refer to them by number, so the
memory of a row is some forty bytes whatever its ids are. A removal from the cart takes back no interest, and is left
out. An event that was delivered again is one interaction: the earliest time of its id.
"""

from dataclasses import dataclass, fields, replace
from itertools import compress
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sinks.delta import explained
from sinks.erasures import Tombstones
from sinks.tables import RAW_EVENTS
from training.lake_snapshot import Snapshot

# how much each says about interest; looking is the least
WEIGHTS: Final = {"page_view": 1.0, "click": 1.0, "add": 3.0, "purchase": 5.0}
KINDS: Final = tuple(WEIGHTS)

_TEXTS: Final = ("user_id", "product_id", "category_id", "device", "topic", "log_epoch")
_NUMBERS: Final = ("event_time_ms", "append_time_ms", "partition", "offset")
_ROWS: Final = ("users", "products", "kinds", "devices", "times_ms", "places")


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions, those of one user beside each other, in the order of time.

    Attributes:
        user_ids: Arrow strings, each once, as the lake stores them.
        product_ids: Arrow strings, each once, in the order of the ids.
        categories: number of each product's category, that of its newest event which names one; -1 for none.
        category_ids: Arrow strings.
        device_ids: Arrow strings.
        users: number of each row's user.
        products: number of each row's product.
        kinds: place in `KINDS`.
        devices: number of each row's device; -1 for none.
        times_ms: when it happened.
        places: Arrow table of topic, log epoch, partition, offset and append time, a row each.
    """

    user_ids: Any
    product_ids: Any
    categories: Any
    category_ids: Any
    device_ids: Any
    users: Any
    products: Any
    kinds: Any
    devices: Any
    times_ms: Any
    places: Any

    def __len__(self) -> int:
        return len(self.times_ms)

    @property
    def weights(self) -> Any:
        """What each row says about interest."""
        return np.array([WEIGHTS[kind] for kind in KINDS], np.float32)[self.kinds]

    @property
    def follows(self) -> Any:
        """Mask of the rows whose user has an earlier row: the one just before."""
        mask = np.zeros(len(self), bool)
        mask[1:] = self.users[1:] == self.users[:-1]
        return mask

    def kept(self, wanted: Any) -> "Interactions":
        """Return the rows of a numpy mask; users and products keep their numbers."""
        rows = {name: getattr(self, name)[wanted] for name in _ROWS if name != "places"}
        return replace(self, **rows, places=self.places.filter(pa.array(wanted)))

    def compacted(self) -> "Interactions":
        """Return them with products numbered anew, so that only those of these rows are there."""
        present, products = np.unique(self.products, return_inverse=True)
        ids, categories = self.product_ids.take(pa.array(present)), self.categories[present]
        return replace(self, product_ids=ids, categories=categories, products=products.astype(np.int32))


def read_interactions(snapshot: Snapshot, from_ms: int, to_ms: int, tombstones: Tombstones) -> Interactions:
    """Read those of a range of event times; blocking. There may be none.

    Args:
        to_ms: not included.
        tombstones: events of erased users are left out, wherever they still lie.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    handle, address = snapshot.handle(RAW_EVENTS), snapshot.address(RAW_EVENTS)
    time = pc.field("event_time_ms")
    wanted = pc.field("kind").isin(list(KINDS)) & (time >= from_ms) & (time < to_ms)
    wanted &= pc.field("product_id").is_valid()
    names = ["kind", "event_id", *_TEXTS, *_NUMBERS]
    with explained(address):
        dataset = handle.to_pyarrow_dataset(
            file_pruning_predicate=[("event_time_ms", ">=", from_ms), ("event_time_ms", "<", to_ms)]
        )
        batches = [_narrow(batch) for batch in dataset.to_batches(columns=names, filter=wanted) if batch.num_rows]
    if not batches:
        return _nothing()
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    return _ordered(_without_erased(table, tombstones))


def _narrow(batch: Any) -> Any:
    """Return a batch without its texts: each is a number, an event's id a hash of 64 bits."""
    ids = pd.util.hash_array(batch.column("event_id").to_numpy(zero_copy_only=False), categorize=False)
    kinds = pc.index_in(batch.column("kind"), pa.array(KINDS)).cast(pa.int8())
    columns = {name: batch.column(name).dictionary_encode() for name in _TEXTS}
    columns |= {name: batch.column(name) for name in _NUMBERS}
    return pa.record_batch({"event": pa.array(ids, pa.uint64()), "kind": kinds, **columns})


def _without_erased(table: Any, tombstones: Tombstones) -> Any:
    if not tombstones or tombstones.pseudonyms is None:
        return table
    subjects = {subject for ends in tombstones.ends.values() for subject in ends}
    users = table.column("user_id").combine_chunks()
    erased = [not subjects.isdisjoint(tombstones.pseudonyms.subjects(user)) for user in users.dictionary.to_pylist()]
    suspects = np.array(erased, bool)[users.indices.to_numpy()]
    rows = np.flatnonzero(suspects)
    names = ("user_id", "topic", "log_epoch", "partition", "offset")
    theirs = table.take(pa.array(rows))
    places = zip(*(theirs.column(name).to_pylist() for name in names), strict=True)
    gone = [tombstones.covers(*place) for place in places]
    kept = np.ones(table.num_rows, bool)
    kept[list(compress(rows.tolist(), gone))] = False
    return table.filter(pa.array(kept))


def _ordered(table: Any) -> Interactions:
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    user_ids, users = _numbered(columns["user_id"])
    product_ids, products = _numbered(columns["product_id"])
    category_ids, categories = _numbered(columns["category_id"])
    device_ids, devices = _numbered(columns["device"])
    times_ms = columns["event_time_ms"].to_numpy()
    log_order = tuple(columns[name].to_numpy() for name in ("offset", "partition", "append_time_ms"))
    chosen = _each_once(users, columns["event"].to_numpy(), times_ms, log_order)
    order = chosen[np.lexsort((*(column[chosen] for column in log_order), times_ms[chosen], users[chosen]))]
    by_time = order[np.argsort(times_ms[order], kind="stable")]
    by_time = by_time[categories[by_time] >= 0]
    newest = np.full(len(product_ids), -1, np.int32)
    newest[products[by_time]] = categories[by_time]  # of several, the last one stays
    return Interactions(
        user_ids=user_ids,
        product_ids=product_ids,
        categories=newest,
        category_ids=category_ids,
        device_ids=device_ids,
        users=users[order],
        products=products[order],
        kinds=columns["kind"].to_numpy()[order],
        devices=devices[order],
        times_ms=times_ms[order],
        places=table.select(["topic", "log_epoch", "partition", "offset", "append_time_ms"]).take(pa.array(order)),
    )


def _each_once(users: Any, events: Any, times_ms: Any, log_order: tuple[Any, ...]) -> Any:
    """Return the rows that are the earliest of their user and event id."""
    order = np.lexsort((*log_order, times_ms, events, users))
    is_first = np.ones(len(order), bool)
    is_first[1:] = (users[order][1:] != users[order][:-1]) | (events[order][1:] != events[order][:-1])
    return order[is_first]


def _numbered(column: Any) -> tuple[Any, Any]:
    """Return the texts that a dictionary column uses, in order, and the number of each row's; -1 where it has none."""
    numbers = column.indices.fill_null(-1).to_numpy().astype(np.int32)
    used = np.zeros(len(column.dictionary), bool)
    used[numbers[numbers >= 0]] = True
    texts = column.dictionary.filter(pa.array(used)).cast(pa.string())
    order = pc.sort_indices(texts).to_numpy()
    places = np.full(len(used) + 1, -1, np.int32)
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    places[:-1][used] = ranks
    return texts.take(pa.array(order)), places[numbers]


def _nothing() -> Interactions:
    texts, numbers = pa.array([], pa.string()), np.empty(0, np.int32)
    values = {field.name: numbers for field in fields(Interactions)}
    values |= dict.fromkeys(("user_ids", "product_ids", "category_ids", "device_ids"), texts)
    names = ("topic", "log_epoch", "partition", "offset", "append_time_ms")
    return Interactions(**{**values, "places": pa.table(dict.fromkeys(names, texts))})
