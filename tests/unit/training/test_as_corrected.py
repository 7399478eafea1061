"""as_corrected: equal to the oracle over event time, whatever order events came in and however they are cut."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalog import FEATURES
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from sinks.delta import opened
from sinks.erasures import ErasedLog, Tombstones
from sinks.tables import RAW_EVENTS
from tests import oracle
from tests.logs import DAY, HOUR, MINUTE, NOON, SECOND, event
from tests.recorded_lakes import PARTITIONS, TOPIC_IDS, RecordedLake
from training import recorded_events
from training.as_corrected import WARM_UP_MS, corrected_values
from training.labels import Labels
from training.recorded_events import RecordedEvents

FLAGS = ("as_of_ms", "clamped", "product_distinct_saturated", "category_distinct_saturated")
NAMES = [*(feature.name for feature in FEATURES), *FLAGS]


def renamed(made: Event, user_id: str) -> Event:
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    return Event(**{**fields, "user_id": user_id})


def values_at(
    lake: RecordedLake, asked: list[tuple[str, int]], tombstones: Tombstones | None = None
) -> list[dict[str, Any]]:
    instants_ms = np.array([instant for _, instant in asked], np.int64)
    labels = Labels(pa.array([user for user, _ in asked]), instants_ms, pa.table({}), {})
    users = labels.user_ids.unique()
    address = lake.root / RAW_EVENTS.name
    recorded = RecordedEvents(
        opened(address), address, users, int(instants_ms.min()) - WARM_UP_MS, int(instants_ms.max())
    )
    looked_at: list[int] = []
    values = corrected_values(labels, recorded, users, tombstones or Tombstones(), looked_at.append)
    assert sum(looked_at) == recorded.count
    rows: list[dict[str, Any]] = values.to_pylist()
    return rows


def expected(lake: RecordedLake, user: str, instant_ms: int) -> dict[str, Any]:
    return oracle.expected(
        {topic: oracle.corrected(lake.log_until(topic, user, instant_ms)) for topic in TOPIC_IDS}, instant_ms
    )


def assert_equal_to_oracle(lake: RecordedLake, asked: list[tuple[str, int]]) -> None:
    for (user, instant), found in zip(asked, values_at(lake, asked), strict=True):
        right = expected(lake, user, instant)
        assert {name: found[name] for name in NAMES} == {name: right[name] for name in NAMES}
        newest = right["newest_event_ms"]
        assert found["newest_event_ms"] == (newest if newest and newest >= instant - DAY else None)


def random_lake(root: Path, seed: int, *, events: int, users: int, step_ms: int) -> tuple[RecordedLake, list[Any]]:
    """Events that are late by up to two days, delivered again, of one millisecond; and labels among them."""
    chosen = random.Random(seed)
    lake = RecordedLake(root)
    names = [f"user-{n}" for n in range(users)]
    at_ms = 0
    sent: list[Event] = []
    for n in range(events):
        at_ms += chosen.randrange(0, step_ms)
        late_ms = chosen.choice([0, 0, 0, 0, 5 * MINUTE, 40 * MINUTE, 3 * HOUR, 2 * DAY])
        kind = chosen.choice(["page_view", "page_view", "click", "search", "add", "remove", "purchase"])
        fields = {"product_id": f"p{chosen.randrange(6)}", "category_id": f"c{chosen.randrange(3)}"}
        made = renamed(event((at_ms - late_ms) // SECOND * SECOND, kind, f"e{n}", **fields), chosen.choice(names))
        again = chosen.choice(sent) if sent and chosen.random() < 0.1 else made
        sent.append(again)
        lake.arrive(again, at_ms=NOON + at_ms)
        if n % 150 == 149:
            lake.write()
    lake.write()
    asked = [(chosen.choice([*names, "nobody"]), NOON + chosen.randrange(0, at_ms + HOUR)) for _ in range(80)]
    asked += [(made.user_id, made.event_time_ms + shift) for made in sent[::9] for shift in (-1, 0, 1)]
    chosen.shuffle(asked)
    return lake, asked


@pytest.mark.parametrize("at_once", [recorded_events.EVENTS_AT_ONCE, 37])
def test_late_and_repeated_events_count_where_they_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(recorded_events, "EVENTS_AT_ONCE", at_once)
    lake, asked = random_lake(tmp_path, 3, events=600, users=5, step_ms=12 * MINUTE)
    assert_equal_to_oracle(lake, asked)


def test_sessions_and_windows_that_reach_back_as_far_as_any_need_no_more_than_the_warm_up(tmp_path: Path) -> None:
    lake = RecordedLake(tmp_path)
    for n in range(220):  # 55 h of an event every 15 min: a session that is capped, and products that come again
        lake.arrive(event(n * 15 * MINUTE, product_id=f"p{n % 40}"), at_ms=NOON + n * 15 * MINUTE)
    for n in range(96):  # after a pause, one of 24 h less a minute
        at_ms = 80 * HOUR + n * 15 * MINUTE
        lake.arrive(event(at_ms, "click", product_id="q"), at_ms=NOON + at_ms)
    lake.write()
    asked = [("u1", NOON + hours * HOUR + 7) for hours in (0, 1, 23, 24, 25, 26, 54, 56, 80, 103, 104, 105, 130)]
    assert_equal_to_oracle(lake, asked)
    # each by itself: what a label says does not depend on the others
    together = values_at(lake, asked)
    assert [values_at(lake, [one])[0] for one in asked] == together


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_small_logs_equal_the_oracle(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    lake, asked = random_lake(tmp_path_factory.mktemp("lake"), seed, events=25, users=2, step_ms=90 * MINUTE)
    assert_equal_to_oracle(lake, asked[:12])


def test_what_was_erased_is_left_out_where_it_still_lies(tmp_path: Path) -> None:
    lake = RecordedLake(tmp_path)
    for n in range(4):
        lake.arrive(event(n * SECOND), at_ms=NOON + n)
    lake.arrive(event(5 * SECOND, "add"), at_ms=NOON + 5)
    lake.write()
    from schemas.partitioner import partition_of
    from schemas.privacy import Pseudonyms

    key = Pseudonyms(b"0123456789abcdef")
    log = ErasedLog(TOPIC_IDS[CLICKS_TOPIC], CLICKS_TOPIC, partition_of(b"u1", PARTITIONS))
    tombstones = Tombstones({log: {key.subject("u1"): 3}}, {}, key)
    found = values_at(lake, [("u1", NOON + MINUTE)], tombstones)[0]
    assert (found["page_view_count_5m"], found["cart_add_count_5m"]) == (1, 1)


def test_logs_that_follow_one_another_are_one_history(tmp_path: Path) -> None:
    lake = RecordedLake(tmp_path)
    lake.arrive(event(0, "page_view", "a"), at_ms=NOON)
    lake.write()
    later = RecordedLake(tmp_path, topic_ids={CLICKS_TOPIC: "younger", CARTS_TOPIC: "too"})
    later.arrive(event(SECOND, "page_view", "b"), at_ms=NOON + SECOND)
    later.arrive(event(2 * SECOND, "page_view", "a"), at_ms=NOON + 2 * SECOND)  # sent again to the new topic
    later.write()
    assert values_at(lake, [("u1", NOON + MINUTE)])[0]["page_view_count_5m"] == 2
