"""Click-through of what was recommended: answers that a model gave, and the clicks that carry their id."""

from typing import Final

import pyarrow.compute as pc

from config.settings import Settings
from quality.online_quality import Fall, Impression, falls
from sinks.lake_root import Lake
from sinks.quality_tables import RECOMMENDATIONS
from training.clicks import are_clicked, read_rows

DELTA: Final = 0.002
CHAMPION: Final = "champion"


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
    shown = read_rows(lake, RECOMMENDATIONS.name, columns, pc.field("role") == CHAMPION)
    if shown is None or not shown.num_rows:
        return []
    shown = shown.sort_by([("as_of_ms", "ascending"), ("served_ms", "ascending"), ("recommendation_id", "ascending")])
    wanted = shown.column("model")[-1].as_py() if model is None else model
    known = pc.less_equal(shown.column("as_of_ms"), until_ms - attribution_ms)
    shown = shown.filter(pc.and_(pc.equal(shown.column("model"), wanted), known))
    ids, as_of_ms = (shown.column(name).combine_chunks() for name in ("recommendation_id", "as_of_ms"))
    clicked = are_clicked(lake, ids, as_of_ms, attribution_ms)
    return [Impression(*each) for each in zip(as_of_ms.to_pylist(), clicked.to_pylist(), strict=True)]


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
