"""Which answers count, and which were clicked: on tables as recommenders and workers write them."""

from pathlib import Path

from quality.online_quality import Impression
from quality.sequential import Arm, Shown
from serving.click_through import Period, Record, records
from serving.models_in_service import CANARY
from serving.recommender import FALLBACK
from tests.recorded_lakes import RecordedLake
from tests.unit.serving.answers import NOON_MS, answer, click, write_answers, write_clicks
from training.online_clicks import impressions

MINUTE_MS = 60_000
ATTRIBUTION_MS = 30 * MINUTE_MS
LATER_MS = NOON_MS + 600 * MINUTE_MS


def seen(root: Path, *, since_ms: int = 0, until_ms: int = LATER_MS) -> tuple[Record, Record]:
    return records(root, "1", "2", Period(since_ms, until_ms, ATTRIBUTION_MS, slow_s=0.05))


def counts(record: Record) -> tuple[int, int]:
    return record.arm.impressions, record.arm.clicked


def test_nothing_shown_is_nothing(tmp_path: Path) -> None:
    assert seen(tmp_path) == (Record(), Record())
    write_answers(tmp_path, [answer("r1", "u1", model="7")])
    assert seen(tmp_path) == (Record(), Record())


def test_answers_count_for_their_model_in_its_role(tmp_path: Path) -> None:
    write_answers(
        tmp_path,
        [
            answer("r1", "u1"),
            answer("r2", "u2", seconds=0.051),
            answer("r3", "u3", role=FALLBACK),
            answer("r4", "u4", model="2", role=CANARY, seconds=0.05),
            answer("r5", "u4", model="2", role=CANARY, error="timeout", seconds=0.2),
            answer("r6", "u4", model="2", at_ms=NOON_MS + 5),
        ],
    )
    champion, canary = seen(tmp_path)
    assert (champion.answers, champion.failures, champion.slow) == (2, 0, 1)
    assert counts(champion) == (2, 0)
    assert (canary.answers, canary.failures, canary.slow, canary.newest_ms) == (2, 1, 1, NOON_MS)
    assert counts(canary) == (1, 0)


def test_answers_from_before_the_canary_do_not_count(tmp_path: Path) -> None:
    write_answers(tmp_path, [answer(f"r{n}", "u1", served_ms=NOON_MS + n) for n in range(5)])
    assert seen(tmp_path, since_ms=NOON_MS + 3)[0].answers == 2


def test_an_answer_that_can_still_be_clicked_is_no_impression_yet(tmp_path: Path) -> None:
    write_answers(tmp_path, [answer("r1", "u1"), answer("r2", "u2", at_ms=NOON_MS + 1)])
    champion, _ = seen(tmp_path, until_ms=NOON_MS + ATTRIBUTION_MS)
    assert (champion.answers, champion.arm.impressions, champion.newest_ms) == (2, 1, NOON_MS + 1)


def test_a_click_counts_once_in_time_and_for_the_answer_that_it_names(tmp_path: Path) -> None:
    later = answer("r6", "u6", at_ms=NOON_MS + ATTRIBUTION_MS)  # so that late clicks on the others are read, too
    write_answers(tmp_path, [*(answer(f"r{n}", f"u{n}") for n in range(6)), later])
    write_clicks(
        RecordedLake(tmp_path),
        [
            click("r0", "u0", NOON_MS + ATTRIBUTION_MS),
            click("r0", "u0", NOON_MS + 5),
            click("r1", "u1", NOON_MS + ATTRIBUTION_MS + 1),
            click("r2", "u9", NOON_MS + 5),
            click("r3", "u3", NOON_MS - 2 * MINUTE_MS),
            click("unheard of", "u4", NOON_MS + 5),
            click(None, "u5", NOON_MS + 5),
        ],
    )
    champion, _ = seen(tmp_path)
    assert counts(champion) == (7, 3), "r0 once, r2 by somebody else, r3 by a slow clock; r1 was too late"


def test_an_answer_to_somebody_and_its_click_stay_apart_by_model(tmp_path: Path) -> None:
    write_answers(tmp_path, [answer("r1", "u1"), answer("r2", "u2", model="2", role=CANARY)])
    write_clicks(RecordedLake(tmp_path), [click("r2", "u2", NOON_MS + 5)])
    champion, canary = seen(tmp_path)
    assert (counts(champion), counts(canary)) == ((1, 0), (1, 1))
    assert canary.evidence() == {
        "answers": 1,
        "failures": 0,
        "slow": 0,
        "impressions": 1,
        "clicked": 1,
        "click_through": 1.0,
        "spread": 1.0,
    }


def test_users_not_answers_are_what_was_assigned(tmp_path: Path) -> None:
    shown = [(user, n) for user in range(20) for n in range(10)]
    write_answers(tmp_path, [answer(f"r{user}-{n}", f"u{user}") for user, n in shown])
    write_clicks(
        RecordedLake(tmp_path), [click(f"r{user}-{n}", f"u{user}", NOON_MS + 5) for user, n in shown if user % 2]
    )
    assert seen(tmp_path)[0].arm == Arm.of([Shown(10, 10 * (user % 2)) for user in range(20)])
    assert seen(tmp_path)[0].arm.spread > 9


def test_drift_of_online_quality_counts_the_same_clicks(tmp_path: Path) -> None:
    write_answers(tmp_path, [answer(f"r{n}", f"u{n}", at_ms=NOON_MS + n) for n in range(4)])
    write_clicks(
        RecordedLake(tmp_path),
        [
            click("r1", "u9", NOON_MS + 5),
            click("r2", "u2", NOON_MS - MINUTE_MS),
            click("r3", "u3", NOON_MS + ATTRIBUTION_MS + 4),
        ],
    )
    shown = impressions(tmp_path, "1", LATER_MS, ATTRIBUTION_MS)
    assert shown == [Impression(NOON_MS + n, n in {1, 2}) for n in range(4)]
    assert counts(seen(tmp_path)[0]) == (4, sum(each.is_clicked for each in shown))
    still_open = impressions(tmp_path, "1", NOON_MS + ATTRIBUTION_MS + 1, ATTRIBUTION_MS)
    assert [each.at_ms - NOON_MS for each in still_open] == [0, 1]
