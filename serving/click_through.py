"""What models have shown since an instant, what of it was clicked, how often they failed, and how long they took."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quality.sequential import Arm, Shown
from serving.models_in_service import CANARY, CHAMPION
from sinks.lake_root import Lake
from sinks.quality_tables import RECOMMENDATIONS

if TYPE_CHECKING:
    import pyarrow as pa

_NOTHING_SHOWN: Final = Arm(0, 0)
_COLUMNS: Final = ("recommendation_id", "user_id", "as_of_ms", "seconds", "error")


@dataclass(frozen=True, slots=True)
class Record:
    """What one model did in one role.

    Attributes:
        answers: tries, failed ones included.
        failures: of them.
        slow: of them, failed ones included: the model took longer than allowed.
        arm: click-through of the answers that were given and can no longer be clicked, by users: several clicks on
            one answer count once.
        newest_ms: instant of the newest answer; None without any.
    """

    answers: int = 0
    failures: int = 0
    slow: int = 0
    arm: Arm = _NOTHING_SHOWN
    newest_ms: int | None = None

    def evidence(self) -> dict[str, Any]:
        """Return the counts as JSON has them; they name no user."""
        return {
            "answers": self.answers,
            "failures": self.failures,
            "slow": self.slow,
            "impressions": self.arm.impressions,
            "clicked": self.arm.clicked,
            "click_through": round(self.arm.share, 6),
            "spread": round(self.arm.spread, 3),
        }


@dataclass(frozen=True, slots=True)
class Period:
    """Which answers count.

    Attributes:
        since_ms: they were given from then on, by the wall clock, integer milliseconds UTC.
        until_ms: event time; an answer that could still be clicked then is no impression yet.
        attribution_ms: an answer can be clicked for so long after its instant, by event time.
        slow_s: a model that took longer was slow.
    """

    since_ms: int
    until_ms: int
    attribution_ms: int
    slow_s: float


def records(lake: Lake, champion: str, canary: str, period: Period) -> tuple[Record, Record]:
    """Return what a champion and a canary did beside each other.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    return _record(lake, champion, CHAMPION, period), _record(lake, canary, CANARY, period)


def _record(lake: Lake, version: str, role: str, period: Period) -> Record:
    from pyarrow import compute as pc

    from training.clicks import read_rows

    wanted = (pc.field("served_ms") >= period.since_ms) & (pc.field("model") == version) & (pc.field("role") == role)
    answers = read_rows(lake, RECOMMENDATIONS.name, _COLUMNS, wanted, [("served_ms", ">=", period.since_ms)])
    if answers is None or not answers.num_rows:
        return Record()
    has_answered = pc.is_null(answers.column("error"))
    can_be_clicked = pc.greater(pc.add(answers.column("as_of_ms"), period.attribution_ms), period.until_ms)
    return Record(
        answers=answers.num_rows,
        failures=answers.num_rows - pc.sum(has_answered).as_py(),
        slow=pc.sum(pc.greater(answers.column("seconds"), period.slow_s)).as_py(),
        arm=_arm(lake, answers.filter(pc.and_not(has_answered, can_be_clicked)), period.attribution_ms),
        newest_ms=pc.max(answers.column("as_of_ms")).as_py(),
    )


def _arm(lake: Lake, shown: "pa.Table", attribution_ms: int) -> Arm:
    import pyarrow as pa
    from pyarrow import compute as pc

    from training.clicks import are_clicked

    ids, as_of_ms, user_ids = (
        shown.column(name).combine_chunks() for name in ("recommendation_id", "as_of_ms", "user_id")
    )
    clicked = pc.cast(are_clicked(lake, ids, as_of_ms, attribution_ms), pa.int64())
    users = pa.table({"user_id": user_ids, "clicked": clicked}).group_by("user_id")
    sums = users.aggregate([("clicked", "count"), ("clicked", "sum")]).to_pydict()
    return Arm.of(map(Shown, sums["clicked_count"], sums["clicked_sum"]))
