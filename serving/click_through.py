"""What models have shown since an instant, what of it was clicked, how often they failed, and how long they took."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from quality.sequential import Arm, Shown
from serving.models_in_service import CANARY, CHAMPION
from sinks.lake_root import Lake
from sinks.quality_tables import RECOMMENDATIONS
from sinks.tables import RAW_EVENTS

CLICK: Final = "click"
CLOCKS_DIFFER_MS: Final = 86_400_000
_COLUMNS: Final = ("recommendation_id", "user_id", "as_of_ms", "seconds", "error")


class Impression(NamedTuple):
    """An answer that a user was given.

    Attributes:
        user_id: as stores hold it.
        as_of_ms: the instant that it is for, integer milliseconds UTC.
    """

    user_id: str
    as_of_ms: int


@dataclass(slots=True)
class Record:
    """What one model did in one role.

    Attributes:
        answers: tries, failed ones included.
        failures: of them.
        slow: answers, failed ones included, that took longer than allowed.
        impressions: answers that were given and can no longer be clicked, by recommendation id.
        clicked: ids of impressions that were clicked in time.
        newest_ms: instant of the newest answer; None without any.
    """

    answers: int = 0
    failures: int = 0
    slow: int = 0
    impressions: dict[str, Impression] = field(default_factory=dict)
    clicked: set[str] = field(default_factory=set)
    newest_ms: int | None = None

    @property
    def arm(self) -> Arm:
        """Click-through, by users: several clicks on one answer count once."""
        users: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for id_, shown in self.impressions.items():
            users[shown.user_id][0] += 1
            users[shown.user_id][1] += id_ in self.clicked
        return Arm.of(Shown(*counts) for counts in users.values())

    def evidence(self) -> dict[str, Any]:
        """Return the counts as JSON has them; they name no user."""
        arm = self.arm
        return {
            "answers": self.answers,
            "failures": self.failures,
            "slow": self.slow,
            "impressions": arm.impressions,
            "clicked": arm.clicked,
            "click_through": round(arm.share, 6),
            "spread": round(arm.spread, 3),
        }


@dataclass(frozen=True, slots=True)
class Period:
    """Which answers count.

    Attributes:
        since_ms: they were given from then on, by the wall clock, integer milliseconds UTC.
        until_ms: event time; an answer that could still be clicked then is no impression yet.
        attribution_ms: an answer can be clicked for so long after its instant, by event time.
        slow_s: answers that took longer are slow.
    """

    since_ms: int
    until_ms: int
    attribution_ms: int
    slow_s: float


def records(lake: Lake, champion: str, canary: str, period: Period) -> tuple[Record, Record]:
    """Return what a champion and a canary did beside each other.

    A click belongs to the answer whose id it carries, whoever clicked, if it happened at most `attribution_ms` after
    the answer's instant. That it happened after the answer is not asked closely: the clocks of devices differ.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    found = Record(), Record()
    for record, version, role in zip(found, (champion, canary), (CHAMPION, CANARY), strict=True):
        for row in _answers(lake, version, role, period.since_ms):
            _count(record, row, period)
    _find_clicks(lake, found, period)
    return found


def _count(record: Record, row: Mapping[str, Any], period: Period) -> None:
    record.answers += 1
    record.slow += row["seconds"] > period.slow_s
    record.newest_ms = max(row["as_of_ms"], record.newest_ms or 0)
    if row["error"] is not None:
        record.failures += 1
    elif row["as_of_ms"] + period.attribution_ms <= period.until_ms:
        record.impressions[row["recommendation_id"]] = Impression(row["user_id"], row["as_of_ms"])


def _find_clicks(lake: Lake, found: Collection[Record], period: Period) -> None:
    instants = [shown.as_of_ms for record in found for shown in record.impressions.values()]
    if not instants:
        return
    first_ms, last_ms = min(instants) - CLOCKS_DIFFER_MS, max(instants) + period.attribution_ms
    for id_, at_ms in _clicks(lake, [id_ for record in found for id_ in record.impressions], first_ms, last_ms):
        for record in found:
            shown = record.impressions.get(id_)
            if shown is not None and at_ms <= shown.as_of_ms + period.attribution_ms:
                record.clicked.add(id_)


def _answers(lake: Lake, version: str, role: str, since_ms: int) -> Iterator[dict[str, Any]]:
    from pyarrow import compute as pc

    wanted = (pc.field("served_ms") >= since_ms) & (pc.field("model") == version) & (pc.field("role") == role)
    pruning = [("served_ms", ">=", since_ms)]
    yield from _read(lake, RECOMMENDATIONS.name, _COLUMNS, wanted, pruning)


def _clicks(lake: Lake, ids: Collection[str], first_ms: int, last_ms: int) -> Iterator[tuple[str, int]]:
    import pyarrow as pa
    from pyarrow import compute as pc

    wanted = (
        (pc.field("kind") == CLICK)
        & (pc.field("event_time_ms") >= first_ms)
        & (pc.field("event_time_ms") <= last_ms)
        & pc.field("recommendation_id").isin(pa.array(list(ids), pa.string()))
    )
    pruning = [("event_time_ms", ">=", first_ms), ("event_time_ms", "<=", last_ms)]
    for row in _read(lake, RAW_EVENTS.name, ("recommendation_id", "event_time_ms"), wanted, pruning):
        yield row["recommendation_id"], row["event_time_ms"]


def _read(
    lake: Lake, table: str, columns: Collection[str], wanted: Any, pruning: Sequence[tuple[str, str, Any]]
) -> Iterator[dict[str, Any]]:
    from sinks.delta import explained, opened

    address = lake / table
    handle = opened(address)
    if handle is None:
        return
    with explained(address):
        dataset = handle.to_pyarrow_dataset(file_pruning_predicate=list(pruning))
        for batch in dataset.to_batches(columns=list(columns), filter=wanted):
            yield from batch.to_pylist()
