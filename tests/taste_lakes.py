"""Lakes in which each user likes few of many groups of products: what a model can find and popularity cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from schemas.event import CART_KINDS, CARTS_TOPIC, CLICKS_TOPIC
from sinks.delta import open_or_create, writer_properties
from sinks.tables import RAW_EVENTS, arrow_schema

START_MS = 1_700_006_400_000  # a midnight, UTC
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

Row = dict[str, Any]


@dataclass(frozen=True)
class TasteWorld:
    """A shop.

    Attributes:
        groups: of products; those of a group have a category.
        size: products in a group.
        visits: of each user, over the range; one in eight comes twice as often, and one in ten in the last fifth only.
        length: products looked at in a visit.
        liked_share: of these that are of the group that the visit is about; the others are of any.
    """

    seed: int = 7
    users: int = 300
    groups: int = 20
    size: int = 12
    visits: int = 8
    length: int = 5
    liked_share: float = 0.85
    range_ms: int = 2 * DAY_MS

    @property
    def to_ms(self) -> int:
        """End of the event times."""
        return START_MS + self.range_ms

    def rows(self) -> list[Row]:
        """Return the events, in the order of time."""
        rng = Random(self.seed)
        found = [row for user in range(self.users) for row in self._of_user(rng, user)]
        return sorted(found, key=lambda row: row["event_time_ms"])

    def _of_user(self, rng: Random, user: int) -> list[Row]:
        liked = rng.sample(range(self.groups), 2)
        device = rng.choice(["phone", "desktop"])
        rows: list[Row] = []
        earliest_ms = self.range_ms * 4 // 5 if user % 10 == 9 else 0
        for _ in range(self.visits * (2 if user % 8 == 0 else 1)):
            at_ms = START_MS + rng.randrange(earliest_ms, self.range_ms - 600_000)
            group = rng.choice(liked)
            for _ in range(self.length):
                at_ms += rng.randrange(2_000, 60_000)
                of = group if rng.random() < self.liked_share else rng.randrange(self.groups)
                kind = rng.choices(["page_view", "click", "add", "purchase"], [8, 4, 1, 0.3])[0]
                rows.append(
                    viewed(f"u{user}", of * self.size + rng.randrange(self.size), at_ms, kind, self.size, device)
                )
        return rows


def viewed(
    user_id: str, product: int, at_ms: int, kind: str = "page_view", size: int = 12, device: str = "phone"
) -> Row:
    """Return an event about a product."""
    row: Row = {
        "event_id": f"{user_id}-{at_ms}-{product}",
        "kind": kind,
        "user_id": user_id,
        "event_time_ms": at_ms,
        "product_id": f"p{product}",
        "category_id": f"c{product // size}",
        "device": device,
    }
    if kind in CART_KINDS:
        row |= {"quantity": 1, "unit_price_minor": 999, "currency": "EUR"}
    return row


def write_rows(lake: Path, rows: list[Row], overrides: Mapping[str, Any] | None = None) -> None:
    """Append events to a lake as one log of each topic would have brought them."""
    offsets = {CLICKS_TOPIC: 0, CARTS_TOPIC: 0}
    full: list[Row] = []
    for row in rows:
        topic = CARTS_TOPIC if row["kind"] in CART_KINDS else CLICKS_TOPIC
        at_ms = row["event_time_ms"]
        place = {
            "topic": topic,
            "log_epoch": f"{topic}:1",
            "partition": 0,
            "offset": offsets[topic],
            "append_time_ms": at_ms,
            "append_date": datetime.fromtimestamp(at_ms / 1_000, UTC).date(),
            "ingest_time_ms": at_ms,
            "schema_id": 1,
        }
        offsets[topic] += 1
        full.append({**place, **row, **(overrides or {})})
    schema = arrow_schema(RAW_EVENTS)
    columns = {field.name: pa.array([row.get(field.name) for row in full], field.type) for field in schema}
    handle = open_or_create(lake / RAW_EVENTS.name, RAW_EVENTS)
    write_deltalake(handle, pa.table(columns, schema), mode="append", writer_properties=writer_properties(RAW_EVENTS))
