"""Rehearsing a schema: what is harmless passes, what is compatible and wrong is caught, and said how."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import EventSettings
from replay.errors import NothingRecordedError
from replay.rehearse import RehearsalOptions, rehearse
from replay.rehearse_report import Rehearsal, Way
from schemas.compatibility import problems_of_reading
from schemas.encoder import Encoder
from schemas.errors import UnknownSchemaIdError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS, Event, Record
from schemas.loading import own_schema
from schemas.privacy import Pseudonyms
from sinks.erasures import Tombstones, log_of
from sinks.lake import LakeSink
from sinks.rows import PartitionFlush, RawRow
from tests.logs import DAY, MINUTE, NOON, SECOND, event, topic_of

USERS = 10
SCHEMA_ID = 7

Change = Callable[[dict[str, Any]], None]


class Held:
    """A registry in memory."""

    def __init__(self) -> None:
        self.texts = {SCHEMA_ID + place: own_schema(topic) for place, topic in enumerate(EVENT_TOPICS)}

    def fetch(self, schema_id: int) -> str:
        if schema_id not in self.texts:
            raise UnknownSchemaIdError(schema_id)
        return self.texts[schema_id]


def recorded(lake: Path, *, values: bool = True, days: int = 1) -> None:
    """Let ten users view, click, add and buy."""
    encoder = Encoder({topic: SCHEMA_ID + place for place, topic in enumerate(EVENT_TOPICS)})
    rows: dict[str, list[RawRow]] = {topic: [] for topic in EVENT_TOPICS}
    for day in range(days):
        for n in range(8 * USERS):
            kind = ("page_view", "click", "search", "page_view", "add", "add", "remove", "purchase")[n // USERS]
            more: dict[str, Any] = {"unit_price_minor": 1_999} if kind in {"add", "purchase"} else {}
            if kind != "search":
                more |= {"product_id": f"p{n % 7}", "category_id": f"c{n % 3}"}
            made = event(day * DAY + n * SECOND, kind, f"e{day}-{n}", **more)
            made = Event(
                **{**{name: getattr(made, name) for name in made.__struct_fields__}, "user_id": f"u{n % USERS}"}
            )
            topic = topic_of(made)
            value = encoder.event(topic, made) if values else None
            record = Record(topic, 0, len(rows[topic]), made.event_time_ms + 20, made.user_id.encode(), value)
            rows[topic].append(RawRow(record, made, SCHEMA_ID, made.event_time_ms + 30))
    for topic, of_topic in rows.items():
        LakeSink(lake).write([PartitionFlush(topic, "id", "id:1", 0, 0, len(of_topic) - 1, of_topic)])


def part(schema: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(part for part in schema["fields"] if part["name"] == name)
    return found


def alter(name: str, /, **changes: Any) -> Change:
    return lambda schema: part(schema, name).update(changes)


def drop(name: str) -> Change:
    return lambda schema: schema["fields"].remove(part(schema, name))


def add(name: str, type_: Any, **more: Any) -> Change:
    return lambda schema: schema["fields"].append({"name": name, "type": type_, **more})


def both(*changes: Change) -> Change:
    def apply(schema: dict[str, Any]) -> None:
        for change in changes:
            change(schema)

    return apply


def changed(change: Change, topic: str) -> str:
    schema = json.loads(own_schema(topic))
    change(schema)
    return json.dumps(schema)


def rehearsed(lake: Path, change: Change, topic: str = CARTS_TOPIC, **more: Any) -> Rehearsal:
    options = RehearsalOptions(topic, changed(change, topic), EventSettings(), **more)
    return rehearse(lake, Held(), options, Tombstones())


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lake")
    recorded(path)
    return path


OPTIONAL = ["null", "string"]
PRICE: dict[str, Any] = {"name": "unit_price", "aliases": ["unit_price_minor"], "doc": "Price of one piece."}
HARMLESS = {
    "nothing": (lambda schema: None, CARTS_TOPIC),
    "other words": (lambda schema: schema.update(doc="else"), CARTS_TOPIC),
    "an optional field is added": (add("coupon", OPTIONAL, default=None), CARTS_TOPIC),
    "a field with a default is added": (add("channel", "string", default="web"), CLICKS_TOPIC),
    "an optional field is renamed with an alias": (alter("page", name="path", aliases=["page"]), CLICKS_TOPIC),
    "a product is renamed with an alias": (alter("product_id", name="sku", aliases=["product_id"]), CARTS_TOPIC),
    "a category is renamed with an alias": (
        alter("category_id", name="category", aliases=["category_id"]),
        CLICKS_TOPIC,
    ),
    "a price is renamed and stays in cents": (
        alter("unit_price_minor", name="unit_price_cents", aliases=["unit_price_minor"]),
        CARTS_TOPIC,
    ),
    "a price whose documentation says cents": (
        alter("unit_price_minor", **PRICE | {"doc": "Price of a piece, in euro cents."}),
        CARTS_TOPIC,
    ),
    "a field that no feature needs is dropped": (drop("device"), CARTS_TOPIC),
    "another order": (lambda schema: schema["fields"].reverse(), CARTS_TOPIC),
    "a default for what was required": (alter("currency", default="EUR"), CARTS_TOPIC),
}


@pytest.mark.parametrize(("change", "topic"), HARMLESS.values(), ids=HARMLESS)
def test_what_is_harmless_changes_no_feature(lake: Path, change: Change, topic: str) -> None:
    assert problems_of_reading(changed(change, topic), own_schema(topic)) == []
    found = rehearsed(lake, change, topic)
    assert not found.differs, found.payload()
    assert found.payload()["features_changed"] == {}
    assert found.user_count == USERS


# compatible, all of them: the registry lets them pass
WRONG = {
    "cents become whole units, with an alias and a double": (alter("unit_price_minor", **PRICE, type="double"), "cart"),
    "cents become whole units, with an alias and the same type": (alter("unit_price_minor", **PRICE), "cart"),
    "cents become whole units, and only the documentation says so": (
        alter("unit_price_minor", doc="Price of one piece in whole units of its currency."),
        "cart",
    ),
    "cents become whole units in a new field with a default": (
        both(drop("unit_price_minor"), add("unit_price", "double", default=0.0)),
        "cart",
    ),
    "cents become whole units in a new field beside a default": (
        both(alter("unit_price_minor", default=0), add("unit_price", "double", default=0.0)),
        "cart",
    ),
    "cents become a float": (alter("unit_price_minor", type="double"), "cart"),
    "a default hides a missing quantity": (
        both(drop("quantity"), add("pieces", "int", default=1)),
        "cart",
    ),
    "products and categories are swapped by alias": (
        both(
            alter("product_id", aliases=["category_id"], type=OPTIONAL, default=None),
            alter("category_id", aliases=["product_id"]),
        ),
        "distinct",
    ),
    "a product may be null, which the system requires": (drop("product_id"), "distinct"),
}


@pytest.mark.parametrize(("change", "feature"), WRONG.values(), ids=WRONG)
def test_what_is_compatible_and_wrong_is_caught(lake: Path, change: Change, feature: str) -> None:
    assert problems_of_reading(changed(change, CARTS_TOPIC), own_schema(CARTS_TOPIC)) == []
    found = rehearsed(lake, change)
    assert found.differs
    named = found.payload()["features_changed"]
    assert any(feature in name for name in named), named
    assert max(named.values()) == USERS


def test_a_renamed_field_without_an_alias_is_caught(lake: Path) -> None:
    rename = alter("product_id", name="sku")
    assert problems_of_reading(changed(rename, CLICKS_TOPIC), own_schema(CLICKS_TOPIC)) == []
    found = rehearsed(lake, rename, CLICKS_TOPIC)
    named = found.payload()["features_changed"]
    assert named["product_distinct_24h"] == USERS
    assert "click_count_24h" not in named
    assert {way.way: bool(way.refused) for way in found.ways} == {Way.READ: False, Way.WRITTEN: False}


def test_the_report_says_what_changes_for_whom(lake: Path) -> None:
    found = rehearsed(lake, alter("unit_price_minor", **PRICE))
    written = next(way for way in found.ways if way.way is Way.WRITTEN)
    example = written.examples["purchase_value_minor_24h"]
    assert (example.old, example.new) == (1_999, 20)
    assert example.user_id == "u0"
    read = next(way for way in found.ways if way.way is Way.READ)
    assert read.examples["purchase_value_minor_24h"].new == 199_900
    assert any("in minor units, becomes unit_price, in whole units" in notice for notice in found.notices)
    assert json.loads(json.dumps(found.payload()))["ways"][1]["features"]["purchase_value_minor_24h"]["users"] == USERS


def test_a_refused_record_says_why(lake: Path) -> None:
    found = rehearsed(lake, alter("unit_price_minor", type="double"))
    written = next(way for way in found.ways if way.way is Way.WRITTEN)
    assert written.refused == {"invalid_value": 4 * USERS}
    assert written.refusal == "unit_price_minor was written as float; it must be long."


def test_a_wider_type_is_harmless_once_the_system_has_it_and_not_before(lake: Path) -> None:
    found = rehearsed(lake, alter("quantity", type="long"))
    assert {way.way: way.differs for way in found.ways} == {Way.READ: False, Way.WRITTEN: True}


def test_a_changed_logical_type_is_caught(lake: Path) -> None:
    micros = {"type": "long", "logicalType": "timestamp-micros"}
    found = rehearsed(lake, alter("event_time", type=micros), CLICKS_TOPIC)
    assert found.differs
    assert all(way.refused["invalid_value"] == 4 * USERS for way in found.ways)


def test_a_default_that_may_hide_a_value_is_a_warning(lake: Path) -> None:
    found = rehearsed(lake, alter("quantity", default=9))
    assert not found.differs
    left_out = next(way for way in found.ways if way.way is Way.LEFT_OUT)
    assert left_out.is_warning
    assert left_out.examples["purchase_value_minor_24h"].new == 9 * 1_999
    assert any("may leave quantity to its default 9" in notice for notice in found.notices)


def test_words_that_change_are_named_since_no_replay_sees_a_meaning(lake: Path) -> None:
    found = rehearsed(lake, alter("quantity", doc="Packs of six."))
    assert not found.differs
    assert found.notices == ("the documentation of quantity changes: a replay cannot see whether its meaning does",)


def test_events_without_their_bytes_are_taken_from_the_columns(tmp_path: Path) -> None:
    recorded(tmp_path, values=False)
    assert not rehearsed(tmp_path, add("coupon", OPTIONAL, default=None)).differs
    assert rehearsed(tmp_path, alter("unit_price_minor", **PRICE)).differs


def test_so_are_those_whose_schema_the_registry_does_not_know(lake: Path) -> None:
    held = Held()
    held.texts.clear()
    options = RehearsalOptions(CARTS_TOPIC, own_schema(CARTS_TOPIC), EventSettings())
    assert not rehearse(lake, held, options, Tombstones()).differs


def test_the_newest_events_are_replayed_and_those_since(tmp_path: Path) -> None:
    recorded(tmp_path, days=3)
    assert rehearsed(tmp_path, lambda schema: None).event_count == 120
    newest = rehearsed(tmp_path, lambda schema: None, events_max=30)
    assert (newest.event_count, newest.first_ms) == (30, NOON + 2 * DAY + 50 * SECOND + 20)
    assert rehearsed(tmp_path, lambda schema: None, first_ms=NOON + DAY).event_count == 80


def test_a_change_that_only_shows_on_an_earlier_day_is_found(tmp_path: Path) -> None:
    recorded(tmp_path, days=2)
    limited = EventSettings(future_tolerance_ms=0)
    options = RehearsalOptions(CARTS_TOPIC, changed(alter("unit_price_minor", **PRICE), CARTS_TOPIC), limited)
    found = rehearse(tmp_path, Held(), options, Tombstones())
    assert found.ways[0].examples["cart_value_minor_24h"].as_of_ms < NOON + DAY


def test_erased_events_are_not_replayed(lake: Path) -> None:
    pseudonyms = Pseudonyms(b"0123456789abcdef")
    ends = [(log_of(CARTS_TOPIC, "id:1", 0), pseudonyms.subject("u1"), 10**6)]
    options = RehearsalOptions(CARTS_TOPIC, own_schema(CARTS_TOPIC), EventSettings())
    found = rehearse(lake, Held(), options, Tombstones(pseudonyms=pseudonyms).with_ends(ends))
    assert (found.user_count, found.event_count) == (USERS - 1, 4 * (USERS - 1))


def test_a_lake_without_events_says_so(tmp_path: Path) -> None:
    with pytest.raises(NothingRecordedError, match=r"no event of shop\.carts\.v1"):
        rehearsed(tmp_path, lambda schema: None)
    recorded(tmp_path)
    with pytest.raises(NothingRecordedError):
        rehearsed(tmp_path, lambda schema: None, first_ms=NOON + 60 * MINUTE)
