"""What a model is asked in training and validation: a user just before an interaction, and the product that it was of.

A product that the user had just looked at is no question: that it comes again (a view, then the add of what was viewed)
is easy to say and helps nobody. Of one user at most some are asked, so that no bot decides, and all by chance.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from features.catalog import FEATURES
from training.event_labels import BEFORE_MS, EventLabels
from training.interactions import KINDS, Interactions
from training.labels import Labels
from training.ranker import Query

USER_QUERIES: Final = 10


class AskedQuery(NamedTuple):
    """A query, and when its interaction happened.

    Attributes:
        kind: of the interaction.
    """

    at_ms: int
    kind: str
    query: Query


def chosen_rows(found: Interactions, from_ms: int, to_ms: int, most: int, seed: int) -> Any:
    """Choose interactions of a range of time to ask about, as rising numbers of their rows.

    Args:
        most: how many, at most; of one user at most `USER_QUERIES`.
    """
    is_new = ~found.follows
    is_new[1:] |= found.products[1:] != found.products[:-1]
    rows = np.flatnonzero(is_new & (found.times_ms >= from_ms) & (found.times_ms < to_ms))
    rows = np.random.default_rng(seed).permutation(rows)
    place = pd.Series(found.users[rows]).groupby(found.users[rows]).cumcount().to_numpy()
    return np.sort(rows[place < USER_QUERIES][:most])


def labels_of(found: Interactions, rows: Any) -> EventLabels:
    """Make labels of interactions, 1 ms before each."""
    kinds = pa.array(KINDS)
    devices = pa.array(np.where(found.devices[rows] < 0, None, found.devices[rows]), pa.int32())
    carried = pa.table(
        {
            "label_event_time_ms": found.times_ms[rows],
            "label_kind": kinds.take(pa.array(found.kinds[rows], pa.int32())),
            "label_product_id": found.product_ids.take(pa.array(found.products[rows])),
            "label_device": found.device_ids.take(devices),
        }
    )
    source = {"kind": "interactions", "rows": len(rows), "kinds": list(KINDS)}
    users = found.user_ids.take(pa.array(found.users[rows]))
    labels = Labels(users, found.times_ms[rows] - BEFORE_MS, carried, source)
    places = found.places.take(pa.array(rows))
    texts = {name: places.column(name).cast(pa.string()) for name in ("topic", "log_epoch")}
    return EventLabels(labels, pa.table({name: texts.get(name, places.column(name)) for name in places.column_names}))


def queries_of(folder: Path) -> list[AskedQuery]:
    """Return the queries of a training set whose labels are `labels_of`, in the order of time."""
    names = [feature.name for feature in FEATURES]
    carried = ["user_id", "label_event_time_ms", "label_kind", "label_product_id", "label_device"]
    table = parquet.ParquetFile(folder / "part-0.parquet").read(columns=[*carried, *names])
    asked = [
        AskedQuery(
            row["label_event_time_ms"],
            row["label_kind"],
            Query(
                row["user_id"], {name: row[name] for name in names}, row["label_product_id"], row["label_device"] or ""
            ),
        )
        for row in table.to_pylist()
    ]
    return sorted(asked, key=lambda each: (each.at_ms, each.query.user_id))
