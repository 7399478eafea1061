"""What gates say of what was counted."""

from collections import Counter

import numpy as np
import pytest

from config.quality import GatePolicy, GateSettings
from quality.gates import PANES_KEPT, CriticalField, Gate, GateRules, GateStatus, Panes, Tally, Verdict, judge
from quality.known_ids import FirstSeen, KnownIds, id_hashes

FIELD = CriticalField("click", "category_id")
RULES = GateRules(GateSettings(min_count=100), (FIELD,), ("product_id", "user_id"))


def verdict(gate: Gate, tally: Tally, rules: GateRules = RULES, **more: list[str]) -> Verdict:
    return next(found for found in judge(tally, rules, **more) if found.gate is gate)


@pytest.mark.parametrize(
    ("count", "bad", "status"),
    [
        (99, 99, GateStatus.UNKNOWN),
        (100, 0, GateStatus.PASS),
        (1_000, 9, GateStatus.PASS),
        (1_000, 10, GateStatus.FAIL),
    ],
)
def test_nulls_fail_from_the_share_on_and_few_events_are_not_judged(count: int, bad: int, status: GateStatus) -> None:
    found = verdict(Gate.NULLS, Tally(Counter({FIELD.part: count}), Counter({FIELD.part: bad})))
    assert found.status is status
    assert found.count == count


def test_a_topic_without_critical_fields_is_unknown() -> None:
    assert verdict(Gate.NULLS, Tally(), GateRules(GateSettings(), (), ("user_id",))).status is GateStatus.UNKNOWN


@pytest.mark.parametrize(
    ("youngest_ms", "status"),
    [
        (None, GateStatus.UNKNOWN),
        (3_600_000, GateStatus.PASS),
        (3_600_001, GateStatus.FAIL),
        (-60_000, GateStatus.PASS),
    ],
)
def test_freshness_asks_for_the_newest_event(youngest_ms: int | None, status: GateStatus) -> None:
    assert verdict(Gate.FRESHNESS, Tally(Counter(records=100), youngest_ms=youngest_ms)).status is status


def test_one_record_of_an_unexpected_schema_fails() -> None:
    assert verdict(Gate.SCHEMA, Tally(Counter(schema=1_000), Counter(schema=1))).status is GateStatus.FAIL
    assert verdict(Gate.SCHEMA, Tally(Counter(schema=1))).status is GateStatus.PASS
    assert verdict(Gate.SCHEMA, Tally()).status is GateStatus.UNKNOWN


@pytest.mark.parametrize(
    ("bad", "overdue", "missing", "status"),
    [
        (0, 0, [], GateStatus.PASS),
        (0, 0, ["user_id"], GateStatus.UNKNOWN),
        (199, 9, [], GateStatus.PASS),
        (200, 0, [], GateStatus.FAIL),
        (10, 10, [], GateStatus.FAIL),
        (10, 10, ["user_id"], GateStatus.FAIL),
    ],
)
def test_references_tell_new_ids_from_those_that_stay_unknown(
    bad: int, overdue: int, missing: list[str], status: GateStatus
) -> None:
    seen = Counter(product_id=1_000, user_id=1_000)
    tally = Tally(seen, Counter(product_id=bad), Counter(product_id=overdue))
    assert verdict(Gate.REFERENCES, tally, missing=missing).status is status


def test_a_gate_that_is_off_is_not_judged() -> None:
    rules = GateRules(GateSettings(null_policy=GatePolicy.OFF), (FIELD,), ("user_id",))
    assert Gate.NULLS not in {found.gate for found in judge(Tally(), rules)}


def sums(panes: Panes, end_ms: int) -> tuple[int, int]:
    """Return what was seen, and bad, of x in a window."""
    found = panes.window(end_ms)
    return sum(tally.seen["x"] for tally in found), sum(tally.bad["x"] for tally in found)


def test_a_window_forgets_what_is_older_and_never_goes_back() -> None:
    panes = Panes(10_000)
    panes.count_at(0, 1_000).bad["x"] += 1
    panes.count_at(0, 10_999).seen["x"] += 1
    panes.count_at(0, 500).seen["x"] += 1  # late: counted where the partition stands
    assert panes.now_ms == panes.reached_ms(0) == 10_999
    assert sums(panes, 10_999) == (2, 1)
    assert sums(panes, 11_000) == (2, 0)


def test_partitions_that_are_hours_apart_count_what_is_of_one_time_together() -> None:
    panes = Panes(10_000)
    panes.count_at(0, 1_000).seen["x"] += 1
    panes.count_at(0, 90_000).seen["x"] += 5
    panes.count_at(1, 1_500).bad["x"] += 1
    assert panes.reached_ms(1) == 1_500
    assert sums(panes, 1_500) == (1, 1)
    assert sums(panes, 90_000) == (5, 0)


def test_panes_that_nobody_uses_any_more_are_forgotten() -> None:
    panes = Panes(10_000)
    for number in range(PANES_KEPT):
        panes.count_at(0, number * panes.pane_ms).seen["x"] += 1
        panes.count_at(1, 0).seen["x"] += 1
    assert sums(panes, 0) == (PANES_KEPT + 1, 0)
    panes.count_at(0, PANES_KEPT * panes.pane_ms)
    assert sums(panes, panes.pane_ms) == (PANES_KEPT + 1, 0)  # the pane that was used least recently is gone


def test_tallies_of_workers_add_up_and_survive_json() -> None:
    one = Tally(Counter(x=1), Counter(x=1), Counter(), 5)
    two = Tally.of({"seen": {"x": 2}, "bad": {}, "overdue": {"x": 1}, "youngest_ms": 3})
    one.add(two)
    assert one == Tally(Counter(x=3), Counter(x=1), Counter(x=1), 3)
    assert Tally.of(one.document()) == one


def test_ids_are_looked_up_by_hash() -> None:
    known = KnownIds(id_hashes(["a", "b"]))
    assert known.unknown({"a", "b", "c", None, ""}) == {"c"}
    assert known.unknown({"a", "c"}) == {"c"}
    assert KnownIds(np.array([], np.uint64)).unknown({"a"}) == {"a"}


def test_an_id_is_overdue_whichever_partition_is_read_first() -> None:
    first = FirstSeen()
    assert first.overdue({"a"}, 9_000, 100) == set()
    assert first.overdue({"a"}, 1_000, 100) == set()  # another partition, hours behind
    assert first.overdue({"a"}, 9_000, 100) == {"a"}


def test_an_id_is_overdue_after_its_grace_and_memory_is_bounded() -> None:
    first = FirstSeen(kept_max=2)
    assert first.overdue({"a"}, 1_000, 100) == set()
    assert first.overdue({"a"}, 1_100, 100) == set()
    assert first.overdue({"a"}, 1_101, 100) == {"a"}
    first.overdue({"b"}, 1_200, 100)
    first.overdue({"c"}, 1_200, 100)
    assert first.overdue({"a"}, 9_000, 100) == set()  # forgotten, and new again
