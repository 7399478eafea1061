"""Training sets: what is in a row, what never leaks into it, what is refused, and what is left behind."""

import hashlib
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from config.errors import ShopstreamError
from config.settings import Settings, load_settings
from features.catalog import FEATURES
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.privacy import Pseudonyms
from sinks.delta import opened
from sinks.derived_tables import TRAINING_SETS
from sinks.dropping_days import drop_days
from sinks.erasures import FINISHED, REQUESTED, ErasureRow, note_erasures
from sinks.tables import FEATURE_LOG
from tests import oracle
from tests.logs import HOUR, MINUTE, NOON, SECOND, event
from tests.recorded_lakes import TOPIC_IDS, RecordedLake
from tests.registries import store_without_redis
from training.columns import RESERVED
from training.errors import DefinitionError, LabelsError, NotInLakeError, SetExistsError
from training.set_files import MANIFEST, SetFormat
from training.sets import SetMode, SetRequest, make_set

NAMES = [feature.name for feature in FEATURES]
SERVED, CORRECTED = SetMode.AS_SERVED, SetMode.AS_CORRECTED
KEY = "0123456789abcdef"
NO_REGISTRY = "The manifest has no fingerprints of writer schemas: registry.url is not set."
DAY = 24 * HOUR


@pytest.fixture
def shop(tmp_path: Path) -> Settings:
    """Settings of a home with a registry, and with no service that answers."""
    settings = load_settings(
        {"home": tmp_path / "home", "redis": {"url": "redis://localhost:1/0"}, "registry": {"url": ""}}
    )
    store_without_redis(settings)
    return settings


@pytest.fixture
def lake(shop: Settings) -> RecordedLake:
    return RecordedLake(shop.lake_path)


def quiet(_line: str) -> None:
    """Tell nobody."""


def buy(at_ms: int, event_id: str = "the label", **fields: Any) -> Event:
    return event(at_ms, "purchase", event_id, **fields)


def made(settings: Settings, request: SetRequest, told: list[str] | None = None) -> list[dict[str, Any]]:
    make_set(settings, settings.lake_path, request, quiet if told is None else told.append)
    rows: list[dict[str, Any]] = pq.read_table(request.out).to_pylist()
    return rows


def purchases(settings: Settings, mode: SetMode, **more: Any) -> list[dict[str, Any]]:
    out = settings.home / f"{mode}-{len(list(settings.home.iterdir()))}"
    return made(settings, SetRequest(mode=mode, out=out, events="purchase", **more))


def labels_file(settings: Settings, rows: list[tuple[str, int]], **more: Any) -> Path:
    path = settings.home / "labels.parquet"
    times = pa.array([instant for _, instant in rows], pa.timestamp("ms", tz="UTC"))
    pq.write_table(pa.table({"user_id": [user for user, _ in rows], "event_timestamp": times, **more}), path)
    return path


def of(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in NAMES}


@pytest.fixture
def shopper(lake: RecordedLake) -> RecordedLake:
    """One user around a purchase that happened 10 min after noon: late, repeated and future events."""
    lake.arrive(event(0, product_id="early"), at_ms=NOON)
    lake.arrive(event(1 * MINUTE, "add", "add", unit_price_minor=700), at_ms=NOON + 1 * MINUTE)
    lake.arrive(event(1 * MINUTE, "add", "add", unit_price_minor=700), at_ms=NOON + 2 * MINUTE)  # delivered again
    lake.arrive(
        event(10 * MINUTE - 1, "click", "just before"), at_ms=NOON + 10 * MINUTE - 1, servable_ms=NOON + 10 * MINUTE
    )
    lake.arrive(buy(10 * MINUTE), at_ms=NOON + 10 * MINUTE + 3)
    lake.arrive(event(10 * MINUTE, "search", "same instant"), at_ms=NOON + 10 * MINUTE + 4)
    lake.arrive(event(2 * MINUTE, "page_view", "arrived late", product_id="late"), at_ms=NOON + 11 * MINUTE)
    lake.arrive(event(20 * MINUTE, "page_view", "future"), at_ms=NOON + 20 * MINUTE)
    lake.arrive(buy(10 * MINUTE), at_ms=NOON + 21 * MINUTE)  # the label, delivered again
    lake.write()
    return lake


def test_a_label_sees_what_a_reader_saw_and_not_itself(shopper: RecordedLake, shop: Settings) -> None:
    (row,) = purchases(shop, SERVED)
    instant = NOON + 10 * MINUTE - 1
    assert (row["user_id"], row["label_ms"], row["label_event_id"]) == ("u1", instant, "the label")
    assert of(row) == {name: shopper.served("u1", instant)[name] for name in NAMES}
    # the click happened in time, and was readable a millisecond too late; the late view had not arrived
    assert (row["page_view_count_24h"], row["click_count_24h"], row["cart_add_count_24h"]) == (1, 0, 1)
    assert (row["purchase_count_24h"], row["search_count_24h"]) == (0, 0)
    assert (row["clicks_version"], row["clicks_servable_ms"], row["clicks_age_ms"]) == (1, NOON + 5, instant - NOON - 5)
    assert (row["clicks_status"], row["carts_status"], row["carts_version"]) == ("FRESH", "FRESH", 2)


def test_a_label_corrected_has_all_that_had_happened_and_not_itself(shopper: RecordedLake, shop: Settings) -> None:
    (row,) = purchases(shop, CORRECTED)
    instant = NOON + 10 * MINUTE - 1
    logs = {topic: oracle.corrected(shopper.log_until(topic, "u1", instant)) for topic in TOPIC_IDS}
    right = oracle.expected(logs, instant)
    assert of(row) == {name: right[name] for name in NAMES}
    assert (row["page_view_count_24h"], row["click_count_24h"], row["cart_add_count_24h"]) == (2, 1, 1)
    assert (row["purchase_count_24h"], row["search_count_24h"]) == (0, 0)
    assert row["last_products_24h"] == ["late", "p1", "early"]
    assert (row["clicks_version"], row["carts_status"]) == (None, None)


def test_an_event_of_the_very_instant_of_a_label_in_a_file_has_happened(shopper: RecordedLake, shop: Settings) -> None:
    instant = NOON + 10 * MINUTE
    path = labels_file(shop, [("u1", instant - 1), ("u1", instant), ("u1", instant + 8)])
    out = shop.home / "set"
    corrected = made(shop, SetRequest(mode=CORRECTED, out=out, labels=path))
    assert [(row["purchase_count_5m"], row["search_count_5m"]) for row in corrected] == [(0, 0), (1, 1), (1, 1)]
    served = made(shop, SetRequest(mode=SERVED, out=out, labels=path, overwrite=True))
    # readable 5 ms after they arrived, 3 and 4 ms after they happened
    assert [(row["purchase_count_5m"], row["search_count_5m"]) for row in served] == [(0, 0), (0, 0), (1, 0)]
    assert [row["clicks_version"] for row in served] == [1, 2, 2]


def test_a_state_that_became_readable_a_millisecond_after_the_label_is_not_seen(
    lake: RecordedLake, shop: Settings
) -> None:
    lake.arrive(event(0), at_ms=NOON - 9, servable_ms=NOON)
    lake.arrive(event(1), at_ms=NOON - 8, servable_ms=NOON + 1_000)
    lake.write()
    path = labels_file(shop, [("u1", NOON + 999), ("u1", NOON + 1_000)])
    rows = made(shop, SetRequest(mode=SERVED, out=shop.home / "set", labels=path))
    assert [row["clicks_version"] for row in rows] == [1, 2]


@pytest.mark.parametrize("mode", SetMode)
def test_a_label_of_a_clock_that_is_ahead_does_not_see_itself(
    lake: RecordedLake, shop: Settings, mode: SetMode
) -> None:
    lake.arrive(event(0, "add"), at_ms=NOON)
    lake.arrive(buy(4 * MINUTE), at_ms=NOON + 1 * MINUTE)  # 3 min before it says that it happened
    lake.arrive(event(3 * MINUTE, "add"), at_ms=NOON + 3 * MINUTE)
    lake.write()
    (row,) = purchases(shop, mode)
    assert row["purchase_count_24h"] == 0
    # as served: no later than the instant before a reader could have met the purchase
    assert row["cart_add_count_24h"] == (1 if mode is SERVED else 2)
    assert row["label_ms"] == NOON + (1 * MINUTE + 4 if mode is SERVED else 4 * MINUTE - 1)


def test_an_event_that_was_delivered_again_is_one_label(lake: RecordedLake, shop: Settings) -> None:
    lake.arrive(event(-HOUR), at_ms=NOON - HOUR)
    lake.arrive(buy(2 * SECOND, "twice"), at_ms=NOON + 2 * SECOND)
    lake.arrive(buy(1 * SECOND, "twice"), at_ms=NOON + 3 * SECOND)  # the producer tried again, with another time
    lake.arrive(buy(5 * SECOND, "once"), at_ms=NOON + 5 * SECOND)
    lake.write()
    for mode in SetMode:
        rows = purchases(shop, mode)
        assert [row["label_event_id"] for row in rows] == ["twice", "once"]
        assert [row["label_event_time_ms"] - NOON for row in rows] == [SECOND, 5 * SECOND]
        assert [row["purchase_count_24h"] for row in rows] == [0, 1]


def test_labels_keep_their_order_their_doubles_and_their_columns(shopper: RecordedLake, shop: Settings) -> None:
    asked = [("u1", NOON + HOUR), ("nobody", NOON + MINUTE), ("u1", NOON + MINUTE), ("u1", NOON + HOUR)]
    path = labels_file(shop, asked, bought=[True, None, False, True], price=[1.5, 2.5, None, 1.5])
    for mode in SetMode:
        rows = made(shop, SetRequest(mode=mode, out=shop.home / mode, labels=path))
        assert [(row["user_id"], row["label_ms"]) for row in rows] == asked
        assert [row["bought"] for row in rows] == [True, None, False, True]
        assert [row["page_view_count_24h"] for row in rows] == [rows[0]["page_view_count_24h"], 0, 1, rows[0][NAMES[3]]]
        assert rows[0] == rows[3]
    assert [row["clicks_status"] for row in made(shop, SetRequest(mode=SERVED, out=shop.home / "2", labels=path))] == [
        "FRESH",
        "MISSING",
        "FRESH",
        "FRESH",
    ]


def test_the_manifest_tells_what_a_set_was_made_of(shopper: RecordedLake, shop: Settings) -> None:
    out = shop.home / "set"
    path = labels_file(shop, [("u1", NOON + HOUR)])
    report = make_set(shop, shop.lake_path, SetRequest(mode=SERVED, out=out, labels=path), quiet)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest == report.manifest
    assert manifest["labels"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (manifest["mode"], manifest["rows"], manifest["definition_version"]) == ("as_served", 1, 1)
    assert manifest["lake"]["versions"] == {"raw_events": 1, "feature_log": 1}
    assert {(at["table"], at["topic"], at["last_offset"]) for at in manifest["positions"]} == {
        (table, topic, last)
        for table in ("raw_events", "feature_log")
        for topic, last in ((CLICKS_TOPIC, 4), (CARTS_TOPIC, 3))
    }
    assert manifest["writer_schemas"] == [{"schema_id": 7, "crc64_avro": None, "sha256": None}]
    (file,) = manifest["files"]
    assert file["sha256"] == hashlib.sha256((out / file["path"]).read_bytes()).hexdigest()
    noted = opened(shop.lake_path / TRAINING_SETS.name)
    assert noted is not None
    (row,) = noted.to_pyarrow_table().to_pylist()
    assert (row["path"], row["row_count"], row["set_id"]) == (str(out), 1, manifest["set_id"])
    assert json.loads(row["manifest"]) == manifest


def test_a_set_can_be_a_delta_table(shopper: RecordedLake, shop: Settings) -> None:
    path = labels_file(shop, [("u1", NOON + HOUR), ("nobody", NOON + HOUR)], note=pa.nulls(2))
    out = shop.home / "set"
    make_set(shop, shop.lake_path, SetRequest(mode=CORRECTED, out=out, labels=path, format=SetFormat.DELTA), quiet)
    handle = opened(out)
    assert handle is not None
    rows = handle.to_pyarrow_table().to_pylist()
    assert [row["user_id"] for row in rows] == ["u1", "nobody"]
    handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    assert (out / MANIFEST).is_file()


def test_nothing_is_overwritten_unasked_and_only_sets_are(shopper: RecordedLake, shop: Settings) -> None:
    path = labels_file(shop, [("u1", NOON + HOUR)])
    request = SetRequest(mode=CORRECTED, out=shop.home / "set", labels=path)
    make_set(shop, shop.lake_path, request, quiet)
    first = (request.out / MANIFEST).read_text()
    with pytest.raises(SetExistsError, match="exists already"):
        make_set(shop, shop.lake_path, request, quiet)
    again = SetRequest(mode=CORRECTED, out=request.out, labels=path, overwrite=True)
    make_set(shop, shop.lake_path, again, quiet)
    assert (request.out / MANIFEST).read_text() != first
    other = SetRequest(mode=CORRECTED, out=shop.lake_path, labels=path, overwrite=True)
    with pytest.raises(SetExistsError, match="is no training set"):
        make_set(shop, shop.lake_path, other, quiet)


def test_what_fails_or_is_interrupted_leaves_nothing(shopper: RecordedLake, shop: Settings) -> None:
    path = labels_file(shop, [("u1", NOON + HOUR)])
    before = sorted(file.name for file in shop.home.iterdir())

    def interrupt(line: str) -> None:
        if line.startswith("Writing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_set(shop, shop.lake_path, SetRequest(mode=CORRECTED, out=shop.home / "set", labels=path), interrupt)
    assert sorted(file.name for file in shop.home.iterdir()) == before
    path = labels_file(shop, [("u1", NOON + HOUR)], odd=pa.array([1], pa.time64("us")))
    request = SetRequest(mode=CORRECTED, out=shop.home / "set", labels=path, format=SetFormat.DELTA)
    with pytest.raises(LabelsError, match=r"The column odd holds time64\[us\], which Delta does not keep"):
        make_set(shop, shop.lake_path, request, quiet)
    assert sorted(file.name for file in shop.home.iterdir()) == before


@pytest.mark.parametrize("mode", SetMode)
def test_labels_that_the_lake_cannot_answer_are_refused(shopper: RecordedLake, shop: Settings, mode: SetMode) -> None:
    out = shop.home / "set"
    early = labels_file(shop, [("u1", NOON + HOUR), ("u1", NOON - 2), ("u1", NOON - 3)])
    with pytest.raises(LabelsError, match=r"2 of 3 labels .* lie before \d+ ms, where the lake begins; .* row 2"):
        make_set(shop, shop.lake_path, SetRequest(mode=mode, out=out, labels=early), quiet)
    later = make_set(shop, shop.lake_path, SetRequest(mode=mode, out=out, labels=early, from_ms=NOON + MINUTE), quiet)
    assert (later.manifest["rows"], later.manifest["left_out"]) == (1, {"outside_range": 2})
    future = labels_file(shop, [("u1", 2**42)])
    with pytest.raises(LabelsError, match=r"1 of 1 label of .* lie in the future; the first is row 1"):
        make_set(shop, shop.lake_path, SetRequest(mode=mode, out=shop.home / "b", labels=future), quiet)
    for wrong, told in (
        ({"events": "purchases"}, "There are no events of the kind 'purchases'"),
        ({"events": "remove"}, "The lake holds no remove from"),
        ({"events": "purchase", "from_ms": 5, "to_ms": 5}, "The range is empty"),
        ({"events": "add", "to_ms": NOON + 1}, "The lake holds no add from"),
    ):
        with pytest.raises(LabelsError, match=told):
            make_set(shop, shop.lake_path, SetRequest(mode=mode, out=shop.home / "b", **wrong), quiet)
    request = SetRequest(mode=mode, out=shop.home / "b", events="purchase", definition_version=7)
    with pytest.raises(DefinitionError, match="Definition version 7 is not there: this code computes version 1"):
        make_set(shop, shop.lake_path, request, quiet)
    assert not (shop.home / "b").exists()


@pytest.mark.parametrize("mode", SetMode)
def test_an_empty_lake_is_told(shop: Settings, mode: SetMode) -> None:
    with pytest.raises(NotInLakeError, match="holds no events"):
        make_set(shop, shop.lake_path, SetRequest(mode=mode, out=shop.home / "b", events="purchase"), quiet)


def test_events_from_before_what_is_held_are_left_out_and_counted(lake: RecordedLake, shop: Settings) -> None:
    lake.arrive(buy(-HOUR, "before any state was pushed"), at_ms=NOON)
    lake.arrive(buy(SECOND, "after"), at_ms=NOON + SECOND)
    lake.write()
    out = shop.home / "set"

    def rows(mode: SetMode) -> tuple[int, dict[str, int]]:
        request = SetRequest(mode=mode, out=out, events="purchase", overwrite=True)
        manifest = make_set(shop, shop.lake_path, request, quiet).manifest
        return manifest["rows"], manifest["left_out"]

    assert rows(SERVED) == (1, {"before_lake": 1})
    assert rows(CORRECTED) == (2, {})  # the lake holds all that ever arrived
    begins_late(lake)
    lake.arrive(buy(2 * SECOND, "of a log whose beginning is gone"), at_ms=NOON + 2 * SECOND)
    lake.write()
    assert rows(CORRECTED) == (2, {"before_lake": 1})


def begins_late(lake: RecordedLake) -> None:
    """Let the next records be of logs of which the lake never got the first thousand records."""
    lake.topic_ids = {topic: f"{topic_id}2" for topic, topic_id in TOPIC_IDS.items()}
    lake._next.update({(topic, partition): 1_000 for topic in TOPIC_IDS for partition in range(2)})


def test_a_lake_that_does_not_reach_back_25_hours_says_so(lake: RecordedLake, shop: Settings) -> None:
    begins_late(lake)
    lake.arrive(event(0), at_ms=NOON)
    lake.write()
    path = labels_file(shop, [("u1", NOON + 24 * HOUR), ("u1", NOON + 26 * HOUR)])
    told: list[str] = []
    made(shop, SetRequest(mode=CORRECTED, out=shop.home / "set", labels=path), told)
    (warning,) = [line for line in told if "25 h" in line]
    assert warning.startswith("1 of 2 labels lie less than 25 h after the beginning")
    assert json.loads((shop.home / "set" / MANIFEST).read_text())["warnings"] == [warning, NO_REGISTRY]


def test_states_that_were_dropped_from_the_log_are_told(lake: RecordedLake, shop: Settings) -> None:
    lake.arrive(event(0), at_ms=NOON)
    lake.arrive(event(3 * DAY), at_ms=NOON + 3 * DAY)
    lake.write()
    path = labels_file(shop, [("u1", NOON + 3 * DAY + HOUR), ("u1", NOON + 5 * DAY)])
    out = shop.home / "set"
    told: list[str] = []
    made(shop, SetRequest(mode=SERVED, out=out, labels=path), told)
    assert not [line for line in told if "25 h" in line]
    handle = opened(shop.lake_path / FEATURE_LOG.name)
    assert handle is not None
    first_kept = datetime.fromtimestamp((NOON + DAY) / 1000, UTC).date()
    assert sum(drop_days(handle, FEATURE_LOG, first_kept).values()) == 1
    rows = made(shop, SetRequest(mode=SERVED, out=out, labels=path, overwrite=True), told)
    assert [row["clicks_version"] for row in rows] == [2, 2]
    (warning,) = [line for line in told if "25 h" in line]
    assert warning.startswith("1 of 2 labels lie less than 25 h after the beginning of what the lake holds")
    assert json.loads((out / MANIFEST).read_text())["warnings"] == [warning, NO_REGISTRY]


def erasure(step: str, noted_ms: int) -> ErasureRow:
    key = Pseudonyms(KEY.encode())
    return ErasureRow("request", step, key.subject("u1"), key.key_id, "clicksid:2", CLICKS_TOPIC, 0, 2, noted_ms)


def test_labels_from_before_an_erasure_of_their_user_are_left_out(shopper: RecordedLake, shop: Settings) -> None:
    with_key = load_settings(
        {"home": shop.home, "redis": {"url": "redis://localhost:1/0"}, "privacy": {"key": KEY}, "registry": {"url": ""}}
    )
    path = labels_file(with_key, [("u1", NOON + MINUTE), ("u2", NOON + MINUTE), ("u1", NOON + HOUR)])
    note_erasures(with_key.lake_path, [erasure(REQUESTED, NOON + 30 * MINUTE)])
    with pytest.raises(NotInLakeError, match="1 erasure of this lake is not finished"):
        made(with_key, SetRequest(mode=SERVED, out=shop.home / "set", labels=path))
    note_erasures(with_key.lake_path, [erasure(FINISHED, NOON + 31 * MINUTE)])
    for mode in SetMode:
        rows = made(with_key, SetRequest(mode=mode, out=shop.home / mode, labels=path))
        assert [(row["user_id"], row["label_ms"]) for row in rows] == [("u2", NOON + MINUTE), ("u1", NOON + HOUR)]


def test_a_user_who_is_erased_meanwhile_is_in_no_set(shopper: RecordedLake, shop: Settings) -> None:
    with_key = load_settings(
        {"home": shop.home, "redis": {"url": "redis://localhost:1/0"}, "privacy": {"key": KEY}, "registry": {"url": ""}}
    )
    path = labels_file(with_key, [("u1", NOON + MINUTE)])

    def erase(line: str) -> None:
        if line.startswith("Writing"):
            note_erasures(with_key.lake_path, [erasure(REQUESTED, NOON + HOUR)])

    with pytest.raises(NotInLakeError, match="was erased while it was being made"):
        make_set(with_key, with_key.lake_path, SetRequest(mode=CORRECTED, out=shop.home / "s", labels=path), erase)
    assert not (shop.home / "s").exists()


def test_a_set_is_made_of_one_snapshot(shopper: RecordedLake, shop: Settings) -> None:
    path = labels_file(shop, [("u1", NOON + HOUR)])
    arrived = threading.Event()

    def meanwhile(line: str) -> None:
        if "looking at their events" in line and not arrived.is_set():
            arrived.set()
            shopper.arrive(event(30 * MINUTE, event_id="meanwhile"), at_ms=NOON + 30 * MINUTE)
            shopper.write()

    for mode in SetMode:
        arrived.clear()
        request = SetRequest(mode=mode, out=shop.home / mode, labels=path)
        report = make_set(shop, shop.lake_path, request, meanwhile)
        (row,) = pq.read_table(request.out).to_pylist()
        assert report.manifest["lake"]["versions"]["raw_events"] == (1 if mode is SERVED else 2)
        assert row["page_view_count_24h"] == {SERVED: 3, CORRECTED: 4}[mode]


def test_ids_are_stored_as_the_lake_stores_them(shop: Settings) -> None:
    pseudonymous = load_settings(
        {
            "home": shop.home,
            "redis": {"url": "redis://localhost:1/0"},
            "privacy": {"key": KEY, "pseudonymise": True},
            "registry": {"url": ""},
        }
    )
    stored = Pseudonyms(KEY.encode()).of("u1")
    lake = RecordedLake(pseudonymous.lake_path)
    lake.arrive(Event(event_id="e", kind="click", user_id=stored, event_time_ms=NOON), at_ms=NOON)
    lake.write()
    path = labels_file(pseudonymous, [("u1", NOON + MINUTE)])
    for mode in SetMode:
        (row,) = made(pseudonymous, SetRequest(mode=mode, out=shop.home / mode, labels=path))
        assert (row["user_id"], row["click_count_5m"]) == (stored, 1)


def test_no_label_column_may_be_taken_for_a_feature(shopper: RecordedLake, shop: Settings) -> None:
    assert {*NAMES, "label_ms", "clicks_age_ms"} <= RESERVED
    path = labels_file(shop, [("u1", NOON + HOUR)], session_open=[True])
    with pytest.raises(ShopstreamError, match="named as columns of the set are: session_open"):
        made(shop, SetRequest(mode=CORRECTED, out=shop.home / "set", labels=path))
