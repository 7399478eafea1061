"""The offline store: point-in-time joins over the log of pushed states, through stock Feast."""

import random
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from config.settings import load_settings
from feature_repo import load_feast
from feature_repo.errors import OfflineStoreError
from feature_repo.opening import feature_service
from features.catalog import FEATURES, ON_DEMAND_VIEW, STATUS_FIELDS
from features.state import read_trailer
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from tests.logs import HOUR, MINUTE, NOON, event
from tests.recorded_lakes import RecordedLake, repaired
from tests.registries import store_without_redis

load_feast()

NAMES = [*(feature.name for feature in FEATURES), *(field.name for field in STATUS_FIELDS)]
VIEW_OF = {CLICKS_TOPIC: "user_clicks_v1", CARTS_TOPIC: "user_carts_v1"}


def of(user_id: str, made: Event) -> Event:
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    return Event(**{**fields, "user_id": user_id, "event_id": f"{user_id}-{made.event_id}"})


@pytest.fixture
def lake(tmp_path: Path) -> RecordedLake:
    return RecordedLake(tmp_path / "lake")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A feature store whose registry holds the definitions; no Redis answers."""
    return store_without_redis(load_settings({"home": tmp_path, "redis": {"url": "redis://localhost:1/0"}}))


def labels(rows: list[tuple[str, int]]) -> pd.DataFrame:
    times = pd.to_datetime([instant for _, instant in rows], unit="ms", utc=True)
    users = [user for user, _ in rows]
    return pd.DataFrame({"user_id": users, "event_timestamp": times, "as_of": [instant for _, instant in rows]})


def history(store: Any, frame: pd.DataFrame) -> dict[str, list[Any]]:
    job = store.get_historical_features(frame, features=feature_service(store), full_feature_names=True)
    with warnings.catch_warnings():
        answer: dict[str, list[Any]] = job.to_arrow().to_pydict()
    return answer


def row(answer: dict[str, list[Any]], number: int) -> dict[str, Any]:
    return {name: answer[f"{ON_DEMAND_VIEW}__{name}"][number] for name in NAMES}


def test_what_a_reader_was_given_is_what_a_brute_force_join_finds(lake: RecordedLake, store: Any) -> None:
    chosen = random.Random(7)
    users = [f"user-{n}" for n in range(12)]
    at_ms = 0
    for n in range(400):
        at_ms += chosen.randrange(0, 10 * MINUTE)
        kind = chosen.choice(["page_view", "click", "search", "add", "remove", "purchase"])
        happened = at_ms - chosen.choice([0, 0, 0, 3 * MINUTE, 20 * MINUTE])
        made = event(happened, kind, product_id=f"p{chosen.randrange(9)}")
        lake.arrive(of(chosen.choice(users), made), at_ms=NOON + at_ms)
        if n % 60 == 59:
            lake.write()
    lake.write()
    instants = [NOON + chosen.randrange(-MINUTE, at_ms + HOUR) for _ in range(300)]
    instants += [servable + late for pushes in lake.pushed.values() for servable, _ in pushes[::7] for late in (-1, 0)]
    asked = [(chosen.choice([*users, "nobody"]), instant) for instant in instants]
    asked += asked[:20]
    store.config.offline_store.freshness = True
    answer = history(store, labels(asked))
    assert list(zip(answer["user_id"], answer["as_of"], strict=True)) == asked
    assert answer[f"{ON_DEMAND_VIEW}__state_status"] == ["ok"] * len(asked)
    for number, (user, instant) in enumerate(asked):
        assert row(answer, number) == lake.served(user, instant)
        for topic, view in VIEW_OF.items():
            found = lake.newest(topic, user, instant)
            assert answer[f"{view}__state"][number] == (found[1] if found else None)
            assert answer[f"{view}__servable_ms"][number] == (found[0] if found else None)
    assert sum(state is None for state in answer["user_clicks_v1__state"]) > 20


def test_the_state_of_the_very_millisecond_is_seen_and_that_of_the_next_is_not(lake: RecordedLake, store: Any) -> None:
    lake.arrive(event(0), at_ms=NOON, servable_ms=NOON + 10)
    lake.arrive(event(1_000), at_ms=NOON + 1_000, servable_ms=NOON + 1_010)
    lake.write()
    answer = history(store, labels([("u1", NOON + at) for at in (9, 10, 1_009, 1_010)]))
    versions = [blob and read_trailer(blob).version for blob in answer["user_clicks_v1__state"]]
    assert versions == [None, 1, 1, 2]
    microseconds = labels([("u1", NOON + 1_009)])
    microseconds["event_timestamp"] += pd.Timedelta(microseconds=999)
    assert read_trailer(history(store, microseconds)["user_clicks_v1__state"][0]).version == 1


def test_of_states_of_one_millisecond_the_repair_wins_and_then_the_greater_version(
    lake: RecordedLake, store: Any
) -> None:
    for at_ms in (0, 1, 2):
        lake.arrive(event(at_ms), at_ms=NOON + at_ms, servable_ms=NOON + 10)
    lake.write()
    second = lake.pushed[CLICKS_TOPIC, "u1"][1][1]
    assert read_trailer(history(store, labels([("u1", NOON + 10)]))["user_clicks_v1__state"][0])[2] == 3
    lake.push(CLICKS_TOPIC, "u1", repaired(second, 1), NOON + 10)
    # a worker's append drops what lies below what the table holds: a repair has an application id of its own
    lake._sink = None
    append_repair(lake)
    answer = history(store, labels([("u1", NOON + 10), ("u1", NOON + 11)]))
    assert [read_trailer(blob)[0] for blob in answer["user_clicks_v1__state"]] == [1, 1]


def append_repair(lake: RecordedLake) -> None:
    from sinks.lake_reads import PartitionLog
    from sinks.repairs import RepairSink

    for flush in lake._rows.values():
        log = PartitionLog(flush.log_epoch, flush.topic, flush.partition)
        sink = RepairSink(lake.root, log, "log")
        sink.new_round()
        sink.log_states(flush.features)


def test_labels_without_a_state_stay_and_are_those_of_a_user_without_events(lake: RecordedLake, store: Any) -> None:
    lake.arrive(event(0), at_ms=NOON)
    lake.write()
    asked = [("nobody", NOON), ("u1", NOON - HOUR), ("u1", NOON + HOUR), ("nobody", NOON)]
    answer = history(store, labels(asked))
    assert [state is None for state in answer["user_clicks_v1__state"]] == [True, True, False, True]
    assert answer["user_carts_v1__state"] == [None] * 4
    assert row(answer, 1)["page_view_count_24h"] == 0
    assert row(answer, 0)["last_products_24h"] == []
    assert row(answer, 0)["as_of_ms"] == NOON


def test_no_label_is_no_row(lake: RecordedLake, store: Any) -> None:
    lake.arrive(event(0), at_ms=NOON)
    lake.write()
    answer = history(store, labels([("u1", NOON)]).iloc[:0])
    assert answer["user_id"] == []
    assert answer[f"{ON_DEMAND_VIEW}__page_view_count_5m"] == []


def test_a_missing_as_of_means_the_newest_event_and_a_label_without_a_user_has_no_state(
    lake: RecordedLake, store: Any
) -> None:
    lake.arrive(event(0), at_ms=NOON)
    lake.write()
    frame = labels([("u1", NOON + HOUR), ("u1", NOON + HOUR), ("u1", NOON + HOUR)])
    frame["as_of"] = [None, NOON + HOUR, NOON + HOUR]
    frame["user_id"] = ["u1", "u1", None]
    answer = history(store, frame)
    assert answer[f"{ON_DEMAND_VIEW}__as_of_ms"] == [NOON, NOON + HOUR, NOON + HOUR]
    assert answer["user_clicks_v1__state"][2] is None


def test_features_may_be_asked_for_by_short_names(lake: RecordedLake, store: Any) -> None:
    lake.arrive(event(0), at_ms=NOON)
    lake.write()
    asked = [f"{ON_DEMAND_VIEW}:page_view_count_5m", f"{ON_DEMAND_VIEW}:session_open"]
    answer = store.get_historical_features(labels([("u1", NOON + 5)]), features=asked).to_arrow().to_pydict()
    assert (answer["page_view_count_5m"], answer["session_open"]) == ([1], [True])
    assert set(answer) == {"user_id", "event_timestamp", "as_of", "page_view_count_5m", "session_open"}


def test_frames_that_cannot_be_joined_are_refused_in_a_sentence(lake: RecordedLake, store: Any) -> None:
    frame = labels([("u1", NOON), ("u1", NOON), ("u1", NOON)])
    with pytest.raises(OfflineStoreError, match="no table feature_log: no state was ever pushed"):
        history(store, frame)
    lake.arrive(event(0), at_ms=NOON)
    lake.write()
    frame["event_timestamp"] = [frame["event_timestamp"][0], pd.NaT, pd.NaT]
    with pytest.raises(OfflineStoreError, match="2 of 3 labels have no event_timestamp, the first is row 1"):
        history(store, frame)
    service = feature_service(store)
    with pytest.raises(OfflineStoreError, match="must be a pandas data frame"):
        store.get_historical_features("SELECT 1", features=service, full_feature_names=True)
    now = datetime(2023, 11, 15, tzinfo=UTC)
    with pytest.raises(OfflineStoreError, match="must be a pandas data frame"):
        store.get_historical_features(
            start_date=now - timedelta(1), end_date=now, features=service, full_feature_names=True
        )


def test_a_file_that_is_gone_is_told(lake: RecordedLake, store: Any) -> None:
    lake.arrive(event(0), at_ms=NOON)
    lake.write()
    for file in (lake.root / "feature_log").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(OfflineStoreError, match=r"feature_log cannot be read.*ask again"):
        history(store, labels([("u1", NOON + 5)]))


def test_what_the_store_does_not_do_is_refused_in_a_sentence(store: Any) -> None:
    from feast.data_source import PushMode

    frame = pd.DataFrame({"user_id": ["u1"], "state": [b"x"], "event_timestamp": [pd.Timestamp(NOON, unit="ms")]})
    with pytest.raises(OfflineStoreError, match="takes no offline push"):
        store.push("user_clicks_push", frame, to=PushMode.OFFLINE)
    now = datetime(2023, 11, 15, tzinfo=UTC)
    with pytest.raises(OfflineStoreError, match="user_clicks_v1_log cannot be pulled as a whole, nor materialized"):
        store.materialize(now - timedelta(1), now, feature_views=["user_clicks_v1"])
    offline = store.provider.offline_store
    source = store.get_feature_view("user_clicks_v1").batch_source
    with pytest.raises(OfflineStoreError, match="cannot be pulled as a whole"):
        offline.pull_all_from_table_or_query(store.config, source, ["user_id"], ["state"], "event_timestamp")
    with pytest.raises(OfflineStoreError, match="takes no offline push"):
        offline.offline_write_batch(store.config, store.get_feature_view("user_clicks_v1"), None, None)
    with pytest.raises(OfflineStoreError, match="feature logging is not kept"):
        offline.write_logged_features(store.config, None, None, None, None)
    job = store.get_historical_features(
        labels([("u1", NOON)]), features=feature_service(store), full_feature_names=True
    )
    with pytest.raises(OfflineStoreError, match="shopstream train set"):
        job.persist(None)
