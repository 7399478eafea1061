"""The audit of served answers: a clean run is clean, and each planted fault is named as what it is."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from config.metrics import SKEW_METRICS
from features.apply import fold
from features.catalog import FEATURES
from features.finalize import finalize
from features.state import TopicState, Trailer, decode, encode, read_trailer, with_trailer
from replay.skew_causes import Cause
from replay.skew_report import SkewReport, write_metrics
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.privacy import Pseudonyms
from sinks.erasures import Tombstones, log_of
from sinks.lake_reads import PartitionLog
from sinks.log_moves import MoveRow, note_log_move
from sinks.repairs import RepairNote, RepairSink
from tests.logs import DAY, HOUR, MINUTE, NOON, SECOND, event, topic_of
from tests.oracle import corrected, expected
from tests.served_shop import ALLOWANCE_MS, ServedShop

NAMES = [feature.name for feature in FEATURES]


def of(user_id: str, made: Event) -> Event:
    return msgspec.structs.replace(made, user_id=user_id)


def causes(report: SkewReport) -> dict[str, int]:
    return {cause: count for cause, count in report.by_cause().items() if count}


def assert_only(report: SkewReport, cause: Cause, *, rows: int = 1) -> None:
    assert set(causes(report)) == {cause.value}
    assert report.mismatched == rows


@pytest.fixture
def shop(tmp_path: Path) -> ServedShop:
    return ServedShop(tmp_path)


def test_an_ordinary_hour_has_no_mismatch(shop: ServedShop) -> None:
    random = Random(7)
    for n, at in enumerate(sorted(random.randrange(HOUR) for _ in range(1_500))):
        kind = random.choice(["page_view", "page_view", "click", "search", "add", "remove", "purchase"])
        user = f"u{random.randrange(40)}"
        made = of(user, event(at, kind, f"e{n}", product_id=f"p{random.randrange(30)}"))
        shop.append(made, NOON + at + random.choice([1, 10, 300]))
        shop.read(user, NOON + at + 350)
        if random.random() < 0.02:  # the producer sends it again
            shop.append(made, NOON + at + 400)
        shop.read(f"u{random.randrange(40)}", NOON + at + 1_000)
    report = shop.audit()
    assert (report.mismatched, report.pending, report.uncovered) == (0, 0, 0)
    assert report.right == 3_000
    assert report.examples == []


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_a_mismatch_where_the_oracle_says_so(shop: ServedShop, seed: int) -> None:
    """Events late and twice in every way, no allowance: what should have been served is as the oracle corrects it."""
    random = Random(seed)
    timeline: list[tuple[int, int, Event | None]] = []
    for n in range(250):
        kind = random.choice(["page_view", "click", "search", "add", "remove", "purchase"])
        made = event(
            random.randrange(4) * 2 * DAY + random.randrange(3 * HOUR),
            kind,
            f"e{n}",
            product_id=f"p{random.randrange(9)}",
        )
        for _ in range(random.choice([1, 1, 1, 2])):
            delay = random.choice([*[0] * 40, 5 * MINUTE, 40 * MINUTE, 2 * HOUR])
            timeline.append((made.event_time_ms + delay, n, made))
        timeline.append((NOON + random.randrange(4) * 2 * DAY + random.randrange(30 * HOUR), n, None))
    logs: dict[str, list[tuple[int, Event]]] = {CLICKS_TOPIC: [], CARTS_TOPIC: []}
    answers = []
    for at_ms, _, came in sorted(timeline, key=lambda each: each[:2]):
        if came is None:
            answers.append(shop.read("u1", at_ms))
        else:
            logs[topic_of(came)].append((shop.append(came, at_ms, push_ms=0), came))
    wrong: Counter[str] = Counter()
    for row in answers:
        known = {
            topic: [entry for entry in log if entry[1].event_time_ms <= row.as_of_ms] for topic, log in logs.items()
        }
        right = expected({topic: corrected(log) for topic, log in known.items()}, row.as_of_ms)
        served = json.loads(row.values)
        wrong.update(name for name in NAMES if served[name] != right[name])
    report = shop.audit(allowance_ms=0)
    assert {feature: sum(found.values()) for feature, found in report.by_feature().items()} == dict(wrong)
    assert report.looked_at == len(answers)
    assert set(causes(report)) == {Cause.LATE_EVENT.value}
    assert min(report.right, report.mismatched) > 5


def test_an_event_on_its_way_is_no_mismatch(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.read("u1", NOON + MINUTE)  # the next one has happened, and is not appended
    shop.append(event(MINUTE - 300, "click"), NOON + MINUTE + 200, push_ms=700)
    shop.audit()
    shop.is_pushing = False
    shop.append(event(2 * MINUTE - 300, "click"), NOON + 2 * MINUTE - 100)  # appended, and not pushed
    shop.read("u1", NOON + 2 * MINUTE)
    assert causes(shop.audit()) == {}


def test_a_clock_that_is_ahead_is_no_mismatch(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.append(event(30 * SECOND, "click"), NOON + SECOND)  # the producer's clock is 29 s ahead
    row = shop.read("u1", NOON + 2 * SECOND)
    assert row.as_of_ms == NOON + 30 * SECOND
    assert causes(shop.audit()) == {}


def test_an_instant_in_the_future_does_not_ask_for_what_had_not_happened(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.read("u1", NOON + MINUTE, as_of_ms=NOON + 20 * MINUTE)
    shop.append(event(10 * MINUTE, "click"))
    assert causes(shop.audit()) == {}


def test_users_without_events_and_users_long_idle_are_right(shop: ServedShop) -> None:
    shop.read("nobody", NOON)
    shop.append(event(-30 * HOUR))
    shop.read("u1", NOON)
    report = shop.audit()
    assert (report.right, report.mismatched) == (2, 0)


def test_an_event_that_came_after_the_read_was_late(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.read("u1", NOON + MINUTE)
    shop.append(event(10 * SECOND, "click", "straggler"), NOON + 2 * MINUTE)
    report = shop.audit()
    assert_only(report, Cause.LATE_EVENT)
    assert report.by_feature()["click_count_5m"] == {"late event": 1}
    assert "page_view_count_5m" not in report.by_feature()
    assert [entry.event.event_id for _, entry in report.examples[0].mismatch.events] == ["straggler"]


def test_an_event_beyond_the_lateness_was_late(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.append(event(-11 * MINUTE, "click"), NOON + SECOND)
    shop.read("u1", NOON + MINUTE)
    report = shop.audit()
    assert_only(report, Cause.LATE_EVENT)
    assert report.by_feature()["click_count_30m"] == {"late event": 1}
    assert "click_count_5m" not in report.by_feature()


def test_a_duplicate_beyond_the_lateness_is_a_duplicate(shop: ServedShop) -> None:
    shop.append(event(0, "add", "e1"))
    shop.append(event(11 * MINUTE, "remove"))
    shop.append(event(11 * MINUTE + SECOND, "add", "e1"))  # the producer stamps it anew
    shop.read("u1", NOON + 12 * MINUTE)
    report = shop.audit()
    assert_only(report, Cause.DUPLICATE)
    assert report.by_feature()["cart_add_count_30m"] == {"duplicate": 1}
    assert {entry.offset for _, entry in report.examples[0].mismatch.events} == {0, 2}


def test_a_duplicate_beyond_the_remembered_ids_is_a_duplicate(shop: ServedShop) -> None:
    first = event(0, "click", "first")
    shop.append(first)
    log = [(shop.next_offset[CLICKS_TOPIC] + n, event(SECOND + n, event_id=f"e{n}")) for n in range(1_100)]
    shop.is_pushing = False
    for _, made in log:
        shop.append(made)
    shop.push(CLICKS_TOPIC, "u1", log, NOON + 3 * SECOND)
    shop.is_pushing = True
    shop.append(first, NOON + 4 * SECOND)
    shop.read("u1", NOON + MINUTE)
    report = shop.audit()
    assert_only(report, Cause.DUPLICATE)
    assert report.by_feature()["click_count_5m"] == {"duplicate": 1}


@pytest.mark.parametrize("other", [{"definition_version": 9}, {"catalog": "another"}])
def test_another_definition_is_a_definition_change(shop: ServedShop, other: dict[str, Any]) -> None:
    def changed(states: Mapping[str, TopicState | None], as_of_ms: int | None) -> dict[str, Any]:
        values = dict(finalize(states, as_of_ms))
        return values | {"page_view_count_5m": 2 * values["page_view_count_5m"]}  # type: ignore[operator]

    shop.append(event(0))
    shop.read("u1", NOON + MINUTE, by=changed, **other)
    shop.read("u1", NOON + MINUTE, **other)  # what did not change is right
    report = shop.audit()
    assert report.by_feature() == {"page_view_count_5m": {"definition change": 1}}
    assert report.right == 1


def test_a_feature_that_is_gone_from_the_catalog_is_not_compared(shop: ServedShop) -> None:
    shop.append(event(0))
    values = shop.read("u1", NOON + MINUTE).values
    shop.read("u1", NOON + MINUTE, values=values.replace("page_view_count_5m", "retired_count_5m"))
    assert causes(shop.audit()) == {}


@pytest.mark.parametrize("log_states", [True, False])
def test_a_planted_bug_in_one_percent_is_found_and_nothing_else(shop: ServedShop, log_states: bool) -> None:
    def wrong(states: Mapping[str, TopicState | None], as_of_ms: int | None) -> dict[str, Any]:
        values = dict(finalize(states, as_of_ms))
        return values | {"cart_value_minor_24h": values["cart_value_minor_24h"] + 1}  # type: ignore[operator]

    shop.log_states = log_states
    random = Random(3)
    for n in range(1_000):
        shop.append(of(f"u{n % 100}", event(n * SECOND, random.choice(["page_view", "add"]), f"e{n}")))
        shop.read(f"u{n % 100}", NOON + n * SECOND + 200, by=wrong if n % 100 == 42 else finalize)
    report = shop.audit()
    assert report.by_feature() == {"cart_value_minor_24h": {"unknown": 10}}
    assert (report.mismatched, report.right) == (10, 990)
    example = report.examples[0]
    assert (example.row.user_id, example.mismatch.served) == ("u42", example.mismatch.right + 1)
    assert example.mismatch.events


def test_a_store_that_was_restored_from_an_older_copy_is_stale(shop: ServedShop) -> None:
    shop.append(event(0))
    older = dict(shop.stored)
    shop.append(event(10 * SECOND, "click"))
    shop.append(event(10 * SECOND, "add"))
    shop.stored = older
    shop.read("u1", NOON + MINUTE)
    report = shop.audit()
    assert_only(report, Cause.PUSH)
    assert report.by_feature()["click_count_5m"] == {"lost or stale push": 1}
    assert "page_view_count_5m" not in report.by_feature()
    topics = {topic for topic, _ in report.examples[0].mismatch.events}
    assert topics == {CLICKS_TOPIC, CARTS_TOPIC}


def test_a_push_that_never_came_is_lost(shop: ServedShop) -> None:
    shop.is_pushing = False
    shop.append(event(0))
    shop.read("u1", NOON + MINUTE)
    assert_only(shop.audit(), Cause.PUSH)


@pytest.mark.parametrize("log_states", [True, False])
def test_a_push_that_was_lost_below_a_later_one_is_lost(shop: ServedShop, log_states: bool) -> None:
    shop.log_states = log_states
    shop.append(event(0))
    shop.is_pushing = False
    lost = shop.append(event(SECOND, "click"))
    shop.is_pushing = True
    shop.append(event(2 * SECOND))
    shop.read("u1", NOON + MINUTE)
    report = shop.audit()
    assert_only(report, Cause.PUSH)
    assert [entry.offset for _, entry in report.examples[0].mismatch.events] == [lost]


def test_a_state_that_lacks_its_past_is_a_lost_push(shop: ServedShop) -> None:
    for n in range(60):
        shop.append(event(n * SECOND, event_id=f"e{n}"))
    offset = shop.next_offset[CLICKS_TOPIC]
    shop.is_pushing = False
    last = event(61 * SECOND, "click")
    shop.append(last)
    born = fold(None, [(offset, last)], partial=True).state
    shop.store(CLICKS_TOPIC, "u1", born, NOON + 62 * SECOND)
    shop.read("u1", NOON + 2 * MINUTE)
    assert_only(shop.audit(), Cause.PUSH)


def test_a_state_that_no_log_folds_to_is_unknown(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.is_pushing = False
    second = event(SECOND)
    folded = fold(shop.stored[CLICKS_TOPIC, "u1"][0], [(shop.append(second), second)]).state
    state = decode(folded)
    state.pane_sums[0] += 5
    shop.store(CLICKS_TOPIC, "u1", with_trailer(encode(state), read_trailer(folded)), NOON + 2 * SECOND)
    shop.read("u1", NOON + MINUTE)
    report = shop.audit()
    assert_only(report, Cause.UNKNOWN)
    assert "not what its log folds to" in report.examples[0].mismatch.why


def test_a_repaired_user_is_judged_by_the_order_of_its_repair(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.append(event(-11 * MINUTE, "click"), NOON + SECOND)
    shop.read("u1", NOON + MINUTE)  # before the repair: the late click is missing
    in_time = [(0, event(-11 * MINUTE, "click")), (1, event(0))]
    repaired = with_trailer(fold(None, in_time).state, Trailer(1, 0, 2))
    shop.store(CLICKS_TOPIC, "u1", repaired, NOON + 2 * MINUTE)
    log = PartitionLog(shop.epoch, CLICKS_TOPIC, 0)
    RepairSink(shop.lake, log, "event_time").note([RepairNote("u1", 1, 2)], NOON + 2 * MINUTE)
    shop.read("u1", NOON + 3 * MINUTE)
    report = shop.audit()
    assert_only(report, Cause.LATE_EVENT)
    assert report.right == 1


def test_two_causes_in_one_answer_are_told_by_feature(shop: ServedShop) -> None:
    shop.append(event(0, "add", "e1"))
    shop.append(event(11 * MINUTE, "remove"))
    shop.append(event(11 * MINUTE + SECOND, "add", "e1"))
    shop.append(event(11 * MINUTE))
    shop.append(event(-MINUTE, "search"), NOON + 11 * MINUTE + SECOND)
    shop.read("u1", NOON + 12 * MINUTE)
    found = shop.audit().by_feature()
    assert found["cart_add_count_30m"] == {"duplicate": 1}
    assert found["search_count_30m"] == {"late event": 1}


def test_a_log_that_took_over_is_one_history(tmp_path: Path) -> None:
    before = ServedShop(tmp_path)
    before.append(event(0))
    before.append(event(SECOND, "click"))
    before.flush()
    note_log_move(
        tmp_path, [MoveRow(CLICKS_TOPIC, "id:1", "id:2", partition, 2 * (1 - partition), NOON) for partition in (0, 1)]
    )
    after = ServedShop(tmp_path, "id:2", first_offset=2)
    after.stored = before.stored
    state, servable_ms = before.stored[CLICKS_TOPIC, "u1"]
    after.stored[CLICKS_TOPIC, "u1"] = (with_trailer(state, Trailer(1, 0, 2)), servable_ms)
    after.append(event(MINUTE))
    after.read("u1", NOON + 2 * MINUTE)
    report = after.audit()
    assert (report.right, causes(report)) == (1, {})


def test_what_the_lake_does_not_hold_yet_is_pending(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.flush()
    other = ServedShop(shop.lake, first_offset=1)
    other.stored = shop.stored
    other.append(event(SECOND))
    other._raw[CLICKS_TOPIC].clear()
    other.read("u1", NOON + MINUTE)
    report = other.audit()
    assert (report.pending, report.right, report.mismatched) == (1, 0, 0)


def test_what_the_lake_does_not_reach_back_to_is_uncovered(tmp_path: Path) -> None:
    shop = ServedShop(tmp_path, first_offset=10)
    log = [(n, event(-HOUR + n)) for n in range(10)]
    shop.push(CLICKS_TOPIC, "u1", log, NOON)
    shop.append(event(0))
    shop.read("u1", NOON + MINUTE)
    shop.read("u1", NOON + 26 * HOUR)
    report = shop.audit()
    assert (report.uncovered, report.right, report.mismatched) == (1, 1, 0)


def test_events_of_erased_users_do_not_count(shop: ServedShop) -> None:
    pseudonyms = Pseudonyms(b"0123456789abcdef")
    shop.is_pushing = False
    shop.append(event(0, "click"))
    shop.is_pushing = True
    shop.append(event(SECOND))
    shop.read("u1", NOON + MINUTE)
    ends = [(log_of(CLICKS_TOPIC, shop.epoch, 0), pseudonyms.subject("u1"), 1)]
    assert causes(shop.audit(Tombstones(pseudonyms=pseudonyms).with_ends(ends))) == {}


def test_a_part_of_the_answers_is_chosen_by_time_user_and_number(shop: ServedShop) -> None:
    for n in range(10):
        shop.append(of(f"u{n % 2}", event(n * MINUTE)))
        shop.read(f"u{n % 2}", NOON + n * MINUTE + SECOND)
    assert shop.audit(first_ms=NOON + 5 * MINUTE).looked_at == 5
    assert shop.audit(users=["u1"]).looked_at == 5
    newest = shop.audit(limit=3)
    assert (newest.looked_at, newest.left_out) == (3, 7)
    nothing = shop.audit(first_ms=NOON + HOUR)
    assert (nothing.looked_at, causes(nothing)) == (0, {})


def test_an_empty_lake_has_no_answers(tmp_path: Path) -> None:
    assert ServedShop(tmp_path).audit().looked_at == 0


def test_parts_of_the_users_add_up(shop: ServedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.skew.EVENTS_AT_ONCE", 7)
    for n in range(40):
        shop.append(of(f"u{n % 10}", event(n * SECOND, event_id=f"e{n}")))
    for n in range(10):
        shop.read(f"u{n}", NOON + MINUTE)
        shop.append(of(f"u{n}", event(SECOND, "click", f"late{n}")), NOON + 2 * MINUTE)
    report = shop.audit()
    assert_only(report, Cause.LATE_EVENT, rows=10)


def test_the_allowance_is_what_is_given(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.is_pushing = False
    shop.append(event(MINUTE, "click"))
    shop.read("u1", NOON + MINUTE + ALLOWANCE_MS // 2)
    assert causes(shop.audit()) == {}
    assert_only(shop.audit(allowance_ms=100), Cause.PUSH)


def test_counts_are_metrics(shop: ServedShop) -> None:
    shop.append(event(0))
    shop.read("u1", NOON + MINUTE)
    shop.append(event(10 * SECOND, "search"), NOON + 2 * MINUTE)
    report = shop.audit()
    path = shop.lake / "metrics" / "skew.prom"
    write_metrics(report, path)
    text = path.read_text()
    assert 'shopstream_skew_mismatches{cause="late event",feature="search_count_5m"} 1.0' in text
    assert 'shopstream_skew_rows{result="mismatched"} 1.0' in text
    assert all(spec.name in text for spec in SKEW_METRICS)
