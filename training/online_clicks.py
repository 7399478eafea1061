"""Click-through of what was recommended: answers that a model gave, and the clicks that carry their id."""

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from config.settings import Settings
from quality.online_quality import Fall, Impression, falls
from sinks.delta import explained, opened
from sinks.lake_root import Lake
from sinks.quality_tables import RECOMMENDATIONS
from sinks.tables import RAW_EVENTS

DELTA: Final = 0.002
CHAMPION: Final = "champion"
CLICK: Final = "click"


def impressions(lake: Lake, model: str | None, until_ms: int, attribution_ms: int) -> list[Impression]:
    """Return what a champion showed, in the order of its instants, and whether it was clicked in time.

    Args:
        model: its version; None for that of the newest answer of a champion.
        until_ms: event time up to where clicks are known; answers that may still be clicked are left out.
        attribution_ms: a click counts for so long.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    columns = ["recommendation_id", "model", "as_of_ms", "served_ms"]
    shown = _read(lake, RECOMMENDATIONS.name, columns, pc.field("role") == CHAMPION)
    if shown is None or not shown.num_rows:
        return []
    shown = shown.sort_by([("as_of_ms", "ascending"), ("served_ms", "ascending"), ("recommendation_id", "ascending")])
    wanted = shown.column("model")[-1].as_py() if model is None else model
    known = pc.less_equal(shown.column("as_of_ms"), until_ms - attribution_ms)
    shown = shown.filter(pc.and_(pc.equal(shown.column("model"), wanted), known))
    ids = shown.column("recommendation_id").combine_chunks()
    clicks = _read(
        lake,
        RAW_EVENTS.name,
        ["recommendation_id", "event_time_ms"],
        (pc.field("kind") == CLICK) & pc.field("recommendation_id").isin(ids),
    )
    first: dict[str, list[int]] = {}
    if clicks is not None:
        for id_, at_ms in zip(*(clicks.column(name).to_pylist() for name in clicks.column_names), strict=True):
            first.setdefault(id_, []).append(at_ms)
    rows = zip(ids.to_pylist(), shown.column("as_of_ms").to_pylist(), strict=True)
    return [
        Impression(as_of_ms, any(as_of_ms <= at_ms <= as_of_ms + attribution_ms for at_ms in first.get(id_, ())))
        for id_, as_of_ms in rows
    ]


def falls_within(settings: Settings, lake: Lake, first_ms: int, end_ms: int) -> list[Fall]:
    """Return falls of the champion's click-through that were noticed in a range of event times.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    rollout = settings.rollout
    shown = impressions(lake, None, end_ms, rollout.attribution_ms)
    found = falls(shown, delta=DELTA, least=rollout.click_through_loss_max)
    # an answer is judged when its clicks are known, in a later window than that of its instant
    return [fall for fall in found if first_ms <= fall.at_ms + rollout.attribution_ms < end_ms]


def _read(lake: Lake, table: str, columns: list[str], wanted: Any) -> pa.Table | None:
    address = lake / table
    handle = opened(address)
    if handle is None:
        return None
    with explained(address):
        return handle.to_pyarrow_dataset().to_table(columns=columns, filter=wanted)
