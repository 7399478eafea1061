import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from schemas.compatibility import differences, fingerprints, incompatibilities, order_problems, problems_of_reading
from schemas.errors import UnsafeSchemaError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC
from schemas.loading import own_schema

OLD = own_schema(CARTS_TOPIC)
Change = Callable[[dict[str, Any]], None]


def changed(change: Change, text: str = OLD) -> str:
    schema = json.loads(text)
    change(schema)
    return json.dumps(schema)


def field(schema: dict[str, Any], name: str) -> dict[str, Any]:
    part: dict[str, Any] = next(part for part in schema["fields"] if part["name"] == name)
    return part


def add(**part: Any) -> Change:
    return lambda schema: schema["fields"].append(part)


def remove(name: str) -> Change:
    return lambda schema: schema["fields"].remove(field(schema, name))


def retype(name: str, type_: Any) -> Change:
    def change(schema: dict[str, Any]) -> None:
        field(schema, name).pop("default", None)
        field(schema, name)["type"] = type_

    return change


@pytest.mark.parametrize(
    "change",
    [
        add(name="coupon", type=["null", "string"], default=None),
        add(name="coupon", type="string", default=""),
        remove("device"),
        remove("currency"),
        retype("quantity", "long"),
        retype("product_id", ["null", "string"]),
        lambda schema: schema["fields"].reverse(),
        lambda schema: schema.update(doc="else"),
    ],
)
def test_changes_that_can_read_older_events(change: Change) -> None:
    assert problems_of_reading(changed(change), OLD) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add(name="coupon", type="string"), "coupon is required (it has no default), and is not in what was written"),
        (retype("quantity", "string"), "quantity is string, and was int: reader type: string not compatible"),
        (retype("unit_price_minor", "int"), "unit_price_minor is int, and was long: "),
        (retype("order_id", "string"), "order_id is string, and was null or string: "),
        (retype("event_time", {"type": "long", "logicalType": "timestamp-micros"}),
         "event_time is timestamp-micros, and was timestamp-millis"),
        (retype("event_time", "long"), "event_time is a plain number, and was timestamp-millis"),
        (lambda schema: schema.update(namespace="store"),
         "the record is named store.CartEvent, and was shop.CartEvent"),
    ],
)  # fmt: skip
def test_changes_that_cannot(change: Change, words: str) -> None:
    problems = problems_of_reading(changed(change), OLD)
    assert len(problems) == 1
    assert problems[0].startswith(words)


def rename(name: str, new_name: str, **more: Any) -> Change:
    return lambda schema: field(schema, name).update(name=new_name, **more)


def test_a_field_may_be_renamed_with_an_alias_and_not_without() -> None:
    with_alias = changed(rename("product_id", "sku", aliases=["product_id"]))
    assert problems_of_reading(with_alias, OLD) == []
    assert order_problems(with_alias, OLD) == []  # producers may go first: the codec follows their aliases, too
    assert differences(OLD, with_alias) == ["product_id is renamed to sku, which has an alias"]
    without = changed(rename("product_id", "sku"))
    assert problems_of_reading(without, OLD) == ["sku is required (it has no default), and is not in what was written"]


def test_a_renamed_field_keeps_its_meaning() -> None:
    micros = {"type": "long", "logicalType": "timestamp-micros"}
    renamed = changed(rename("event_time", "happened", aliases=["event_time"], type=micros))
    assert problems_of_reading(renamed, OLD) == ["happened is timestamp-micros, and was timestamp-millis"]


def test_the_check_is_transitive() -> None:
    """Version 2 made a field optional, version 3 drops it: fine for 2, and version 4 may not want it back as an int."""
    second = changed(add(name="points", type="int", default=0))
    third = OLD
    fourth = changed(add(name="points", type="string", default=""))
    assert problems_of_reading(fourth, third) == []
    found = incompatibilities(fourth, [(1, OLD), (2, second), (3, third)])
    assert [each.version for each in found] == [2]
    assert found[0].problems[0].startswith("points is string, and was int")


def test_text_that_is_no_schema() -> None:
    with pytest.raises(UnsafeSchemaError):
        fingerprints("{}")


def test_differences_in_words() -> None:
    def change(schema: dict[str, Any]) -> None:
        remove("device")(schema)
        add(name="coupon", type=["null", "string"], default=None)(schema)
        retype("quantity", "long")(schema)
        field(schema, "currency")["default"] = "EUR"
        field(schema, "order_id")["doc"] = "new words"
        schema["fields"][0], schema["fields"][1] = schema["fields"][1], schema["fields"][0]

    rest = "user_id, event_time, session_id, product_id, category_id, quantity, unit_price_minor, currency, order_id"
    assert differences(OLD, changed(change)) == [
        "device is removed (null or string)",
        "quantity changes from int to long",
        'currency had no default and has default "EUR"',
        "the documentation of order_id changes",
        "coupon is added (null or string, default null)",
        f"the order of the fields changes to kind, event_id, {rest}, coupon",
    ]
    assert differences(OLD, OLD) == []


def crc_64_avro(data: bytes) -> int:
    """As in the specification's appendix."""
    empty = 0xC15D213AA4D7A795
    table = []
    for byte in range(256):
        entry = byte
        for _ in range(8):
            entry = (entry >> 1) ^ (empty & -(entry & 1))
        table.append(entry)
    mark = empty
    for byte in data:
        mark = (mark >> 8) ^ table[(mark ^ byte) & 0xFF]
    return mark


def test_fingerprints_are_those_of_the_specification() -> None:
    text = """{"doc": "x", "type": "record", "name": "R", "namespace": "n", "fields": [
        {"default": 0, "name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "u", "type": ["null", {"type": "enum", "name": "E", "symbols": ["A"], "doc": "y"}]}]}"""
    canonical = (
        b'{"name":"n.R","type":"record","fields":[{"name":"t","type":"long"},'
        b'{"name":"u","type":["null",{"name":"n.E","type":"enum","symbols":["A"]}]}]}'
    )
    assert fingerprints(text).crc64 == crc_64_avro(canonical).to_bytes(8, "little").hex()
    assert fingerprints(text).sha256 == hashlib.sha256(canonical).hexdigest()


def test_fingerprints_look_at_the_bytes_only() -> None:
    assert fingerprints(changed(lambda schema: schema.update(doc="other words"))) == fingerprints(OLD)
    assert fingerprints(changed(retype("quantity", "long"))) != fingerprints(OLD)


@pytest.mark.parametrize("topic", [CLICKS_TOPIC, CARTS_TOPIC, DEAD_LETTERS_TOPIC])
def test_our_optional_fields_are_null_by_default(topic: str) -> None:
    """So that a field may be left out by older writers, and dropped by newer ones."""
    for part in json.loads(own_schema(topic))["fields"]:
        if isinstance(part["type"], list):
            assert part["type"][0] == "null"
            assert part["default"] is None
        else:
            assert "default" not in part
