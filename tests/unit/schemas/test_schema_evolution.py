"""Writers of other releases, and schemas that nobody should have registered."""

import json
import threading
import tracemalloc
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from config.settings import EventSettings
from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.errors import RegistryUnavailableError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event, Record
from schemas.loading import own_schema
from tests.unit.schemas.conftest import NOW_MS, PARTITIONS, HandClock, HeldSchemas, RecordOf

FIELDS = {
    CLICKS_TOPIC: {"event_id": "e", "kind": "click", "user_id": "u-1", "event_time": NOW_MS, "page": "/"},
    CARTS_TOPIC: {
        "event_id": "e", "kind": "add", "user_id": "u-1", "event_time": NOW_MS, "product_id": "p",
        "quantity": 2, "unit_price_minor": 5, "currency": "EUR",
    },
}  # fmt: skip


class Foreign:
    """Publishes with any schema."""

    def __init__(self, codec: Codec, source: HeldSchemas, record_of: RecordOf) -> None:
        self._codec, self._source, self._record_of = codec, source, record_of

    def decode(
        self, schema: dict[str, Any], topic: str = CLICKS_TOPIC, *, cut: int = 0, **changes: object
    ) -> Decoded | DeadLetter:
        schema_id = 100 + len(self._source.texts)
        self._source.texts[schema_id] = json.dumps(schema)
        out = BytesIO()
        schemaless_writer(out, parse_schema(schema), FIELDS[topic] | changes)
        value = b"\0" + schema_id.to_bytes(4, "big") + out.getvalue()
        return self.decode_bytes(topic, value[: len(value) - cut])

    def decode_bytes(self, topic: str, value: bytes) -> Decoded | DeadLetter:
        event = Event(event_id="e", kind="click", user_id="u-1", event_time_ms=NOW_MS)
        record: Record = self._record_of(event, topic=topic, value=value)
        self._codec.resolve(self._codec.unresolved([record]))
        return self._codec.decode(record, PARTITIONS)

    def letter(self, schema: dict[str, Any], topic: str = CLICKS_TOPIC, **changes: Any) -> DeadLetter:
        result = self.decode(schema, topic, **changes)
        assert isinstance(result, DeadLetter)
        return result


@pytest.fixture
def foreign(codec: Codec, source: HeldSchemas, record_of: RecordOf) -> Foreign:
    return Foreign(codec, source, record_of)


def own(topic: str = CLICKS_TOPIC) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(own_schema(topic))
    return schema


def with_type(name: str, type_: Any, topic: str = CLICKS_TOPIC) -> dict[str, Any]:
    schema = own(topic)
    for part in schema["fields"]:
        if part["name"] == name:
            part["type"] = type_
            part.pop("default", None)
    return schema


def without(name: str, topic: str = CLICKS_TOPIC) -> dict[str, Any]:
    schema = own(topic)
    schema["fields"] = [part for part in schema["fields"] if part["name"] != name]
    return schema


def renamed(name: str, new_name: str, aliases: list[str], topic: str = CLICKS_TOPIC) -> dict[str, Any]:
    schema = own(topic)
    for part in schema["fields"]:
        if part["name"] == name:
            part.update(name=new_name, aliases=aliases)
    return schema


def test_a_field_that_a_producer_renamed_is_found_by_its_alias(foreign: Foreign) -> None:
    schema = renamed("product_id", "sku", ["article", "product_id"], CARTS_TOPIC)
    decoded = foreign.decode(schema, CARTS_TOPIC, sku="p-9")
    assert isinstance(decoded, Decoded)
    assert decoded.event.product_id == "p-9"


def test_without_an_alias_it_is_another_field(foreign: Foreign) -> None:
    letter = foreign.letter(renamed("product_id", "sku", [], CARTS_TOPIC), CARTS_TOPIC, sku="p-9")
    assert (letter.reason, letter.detail) == (
        Reason.MISSING_FIELD,
        f"Schema {letter.schema_id} has no product_id, which is required.",
    )


def test_an_alias_takes_nothing_from_a_field_of_that_very_name(foreign: Foreign) -> None:
    schema = own()
    schema["fields"].append({"name": "landing", "type": "string", "aliases": ["page"]})
    decoded = foreign.decode(schema, landing="/landing")
    assert isinstance(decoded, Decoded)
    assert decoded.event.page == "/"


def test_of_two_fields_with_one_alias_the_first_has_it(foreign: Foreign) -> None:
    schema = renamed("page", "path", ["page"])
    schema["fields"].append({"name": "landing", "type": "string", "aliases": ["page"]})
    decoded = foreign.decode(schema, path="/path", landing="/landing")
    assert isinstance(decoded, Decoded)
    assert decoded.event.page == "/path"


def test_a_renamed_field_of_another_type_names_ours(foreign: Foreign) -> None:
    schema = renamed("unit_price_minor", "unit_price", ["unit_price_minor"], CARTS_TOPIC)
    next(part for part in schema["fields"] if part["name"] == "unit_price")["type"] = "double"
    letter = foreign.letter(schema, CARTS_TOPIC, unit_price=19.99)
    assert letter.reason is Reason.INVALID_VALUE
    assert letter.detail == "unit_price_minor was written as float; it must be long."


def with_more(*parts: dict[str, Any]) -> dict[str, Any]:
    schema = own()
    schema["fields"] += parts
    return schema


EXPECTED = Event(event_id="e", kind="click", user_id="u-1", event_time_ms=NOW_MS, page="/")
NESTED = {
    "name": "context",
    "type": {
        "type": "record",
        "name": "Context",
        "fields": [
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "scores", "type": {"type": "map", "values": ["null", "double"]}},
            {"name": "mood", "type": {"type": "enum", "name": "Mood", "symbols": ["GOOD", "BAD"]}},
            {"name": "mark", "type": {"type": "fixed", "name": "Mark", "size": 2}},
        ],
    },
}
CONTEXT = {"tags": ["a", "b"], "scores": {"x": 1.5, "y": None}, "mood": "BAD", "mark": b"ok"}


def test_an_older_writer_without_optional_fields(foreign: Foreign) -> None:
    schema = own()
    schema["fields"] = schema["fields"][:4]
    result = foreign.decode(schema)
    assert isinstance(result, Decoded)
    assert result.event == Event(event_id="e", kind="click", user_id="u-1", event_time_ms=NOW_MS)


@pytest.mark.parametrize("type_", ["string", ["string", "null"], ["null", "int", "string"]])
def test_a_writer_with_another_but_readable_type(type_: Any, foreign: Foreign) -> None:
    result = foreign.decode(with_type("page", type_))
    assert isinstance(result, Decoded)
    assert result.event == EXPECTED


def test_a_writer_with_fields_in_another_order_and_documentation_of_its_own(foreign: Foreign) -> None:
    schema = own() | {"doc": "ours"}
    schema["fields"].reverse()
    result = foreign.decode(schema)
    assert isinstance(result, Decoded)
    assert result.event == EXPECTED


def test_a_newer_writer_with_fields_that_we_do_not_know(foreign: Foreign) -> None:
    result = foreign.decode(with_more(NESTED, {"name": "note", "type": "string"}), context=CONTEXT, note="n")
    assert isinstance(result, Decoded)
    assert result.event == EXPECTED


@pytest.mark.parametrize("cut", range(1, 20))
@pytest.mark.parametrize("page", [["null", "string"], ["string", "null"]])  # the second needs a resolution
def test_a_cut_inside_fields_that_we_skip_is_found(cut: int, page: list[str], foreign: Foreign) -> None:
    """fastavro does not check the length of what it skips."""
    schema = with_type("page", page)
    schema["fields"] += [NESTED, {"name": "note", "type": "string"}]
    letter = foreign.letter(schema, context=CONTEXT, note="n", cut=cut)
    assert letter.reason == Reason.UNDECODABLE
    assert "note: " in letter.detail or "context" in letter.detail


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x02\x01", "mood: branch"),
        (b"\x03", "symbol -2 of 2"),
    ],
)
def test_a_negative_symbol_is_found(body: bytes, words: str, foreign: Foreign, source: HeldSchemas) -> None:
    schema = with_more({"name": "mood", "type": {"type": "enum", "name": "Mood", "symbols": ["GOOD", "BAD"]}})
    good = foreign.decode(schema, mood="GOOD")
    assert isinstance(good, Decoded)
    out = BytesIO()
    schemaless_writer(out, parse_schema(schema), FIELDS[CLICKS_TOPIC] | {"mood": "GOOD"})
    value = b"\0" + good.schema_id.to_bytes(4, "big") + out.getvalue()[:-1] + body
    result = foreign.decode_bytes(CLICKS_TOPIC, value)
    assert isinstance(result, DeadLetter)
    assert result.reason == Reason.UNDECODABLE


@pytest.mark.parametrize("items", ["string", "long", "boolean", ["null", "int"]])
def test_a_huge_count_allocates_nothing(items: Any, foreign: Foreign) -> None:
    schema = with_more({"name": "many", "type": {"type": "array", "items": items}})
    good = foreign.decode(schema, many=[])
    assert isinstance(good, Decoded)
    out = BytesIO()
    schemaless_writer(out, parse_schema(schema), FIELDS[CLICKS_TOPIC] | {"many": []})
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 2**63 - 1
    value = b"\0" + good.schema_id.to_bytes(4, "big") + out.getvalue()[:-1] + huge + b"\0\0"
    tracemalloc.start()
    try:
        result = foreign.decode_bytes(CLICKS_TOPIC, value)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(result, DeadLetter)
    assert result.reason == Reason.UNDECODABLE
    assert peak_bytes < 1_000_000


def test_a_writer_without_a_required_field(foreign: Foreign) -> None:
    letter = foreign.letter(without("user_id"))
    assert (letter.stage, letter.reason) == (Stage.DECODE, Reason.MISSING_FIELD)
    assert "has no user_id, which is required" in letter.detail


def test_a_null_in_a_required_field(foreign: Foreign) -> None:
    letter = foreign.letter(with_type("user_id", ["null", "string"]), user_id=None)
    assert (letter.reason, letter.detail) == (Reason.MISSING_FIELD, "user_id is null; it is required.")
    assert isinstance(foreign.decode(with_type("user_id", ["null", "string"])), Decoded)


@pytest.mark.parametrize(
    ("name", "type_", "value", "words"),
    [
        ("quantity", "string", "two", "quantity was written as str; it must be int."),
        ("quantity", "double", 2.0, "quantity was written as float; it must be int."),
        ("quantity", "boolean", True, "quantity was written as bool; it must be int."),
        ("device", ["null", "int"], 3, "device was written as int; it must be null or string."),
        ("currency", {"type": "array", "items": "string"}, ["EUR"], "currency was written as list; it must be string."),
    ],
)
def test_a_field_of_another_type(name: str, type_: Any, value: object, words: str, foreign: Foreign) -> None:
    letter = foreign.letter(with_type(name, type_, CARTS_TOPIC), CARTS_TOPIC, **{name: value})
    assert (letter.stage, letter.reason, letter.detail) == (Stage.DECODE, Reason.INVALID_VALUE, words)


def test_a_corrupt_body_behind_a_field_of_another_type(foreign: Foreign) -> None:
    letter = foreign.letter(with_type("kind", "int"), kind=3, cut=3)
    assert letter.reason == Reason.UNDECODABLE


def test_micros_are_not_read_as_millis(foreign: Foreign) -> None:
    micros = {"type": "long", "logicalType": "timestamp-micros"}
    letter = foreign.letter(with_type("event_time", micros), event_time=NOW_MS * 1000)
    assert letter.reason == Reason.INVALID_VALUE
    assert "event_time is timestamp-micros in schema" in letter.detail
    optional = foreign.letter(with_type("event_time", ["null", micros]), event_time=NOW_MS * 1000)
    assert optional.reason == Reason.INVALID_VALUE
    plain = foreign.decode(with_type("event_time", "long"))
    assert isinstance(plain, Decoded)
    assert plain.event == EXPECTED


def test_a_record_of_another_name(foreign: Foreign) -> None:
    letter = foreign.letter(own() | {"namespace": "elsewhere"})
    assert letter.reason == Reason.UNDECODABLE
    assert "is elsewhere.ClickEvent; only shop.ClickEvent and shop.CartEvent are read." in letter.detail


@pytest.mark.parametrize("text", ["", "{", "null", '"string"', '{"type": "record"}', 'syntax = "proto3";'])
def test_a_schema_that_is_not_avro(text: str, foreign: Foreign, source: HeldSchemas) -> None:
    source.texts[50] = text
    result = foreign.decode_bytes(CLICKS_TOPIC, b"\0\0\0\0\x32abc")
    assert isinstance(result, DeadLetter)
    assert (result.stage, result.reason) == (Stage.DECODE, Reason.UNDECODABLE)
    assert result.detail.startswith("Schema 50 is refused: The schema is not")
    assert source.asked == [50]
    foreign.decode_bytes(CLICKS_TOPIC, b"\0\0\0\0\x32abc")
    assert source.asked == [50], "a refused schema is not asked for again"


def test_an_unknown_id_is_asked_for_once_and_remembered(
    foreign: Foreign, source: HeldSchemas, clock: HandClock
) -> None:
    value = b"\0\0\0\0\x4d" + b"abc"
    result = foreign.decode_bytes(CLICKS_TOPIC, value)
    assert isinstance(result, DeadLetter)
    assert (result.stage, result.reason, result.schema_id) == (Stage.FRAME, Reason.UNKNOWN_SCHEMA, 0x4D)
    clock.now_ms += 29_999
    foreign.decode_bytes(CLICKS_TOPIC, value)
    assert source.asked == [0x4D]
    clock.now_ms += 1
    source.texts[0x4D] = own_schema(CLICKS_TOPIC)
    result = foreign.decode_bytes(CLICKS_TOPIC, value)
    assert source.asked == [0x4D, 0x4D]
    assert isinstance(result, DeadLetter)
    assert result.reason == Reason.UNDECODABLE, "the schema is known now, and the body is not its"


def test_an_id_that_expires_between_resolve_and_decode_stays_unknown(
    codec: Codec, clock: HandClock, click: Event, record_of: RecordOf
) -> None:
    record = record_of(click, value=b"\0\0\0\0\x4dabc")
    codec.resolve(codec.unresolved([record]))
    clock.now_ms += 60_000
    result = codec.decode(record, PARTITIONS)
    assert isinstance(result, DeadLetter)
    assert result.reason == Reason.UNKNOWN_SCHEMA


def test_a_clock_set_back_does_not_remember_for_longer(foreign: Foreign, source: HeldSchemas, clock: HandClock) -> None:
    foreign.decode_bytes(CLICKS_TOPIC, b"\0\0\0\0\x4dabc")
    clock.now_ms -= 3_600_000
    foreign.decode_bytes(CLICKS_TOPIC, b"\0\0\0\0\x4dabc")
    assert source.asked == [0x4D, 0x4D]


def test_many_unknown_ids_do_not_fill_the_memory(codec: Codec, clock: HandClock) -> None:
    codec.resolve(range(1_000, 11_000))
    clock.now_ms += 2 * 3_600_000
    codec.resolve(range(11_000, 11_010))
    assert len(codec._unknown_since_ms) == 10


def test_no_answer_means_wait(codec: Codec, source: HeldSchemas, click: Event, record_of: RecordOf) -> None:
    record = record_of(click, value=b"\0\0\0\0\x4dabc")
    source.answers = False
    with pytest.raises(RegistryUnavailableError):
        codec.resolve(codec.unresolved([record]))
    assert codec.unresolved([record]) == {0x4D}, "nothing was learned"
    source.answers = True
    codec.resolve(codec.unresolved([record]))
    assert codec.unresolved([record]) == set()


def test_several_threads_ask_once(source: HeldSchemas, clock: HandClock) -> None:
    codec = Codec(source, limits=EventSettings(), unknown_id_ttl_s=30, clock_ms=clock)
    threads = [threading.Thread(target=codec.resolve, args=({1, 2, 9},)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(source.asked) == [1, 2, 9]
