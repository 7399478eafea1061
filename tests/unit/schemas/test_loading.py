import json
from typing import Any

import pytest

from schemas.errors import UnsafeSchemaError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, RETRAIN_TOPIC
from schemas.loading import NESTING_MAX, load, own_schema, topic_of


def record(*types: Any, name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"f{at}", "type": t} for at, t in enumerate(types)]}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def nested(depth: int) -> Any:
    return "int" if depth == 0 else array(nested(depth - 1))


def doubling(levels: int) -> dict[str, Any]:
    """Each record holds two of the one before: 2**levels parts from a schema of a few lines."""
    doubled = [record(f"R{level - 1}", f"R{level - 1}", name=f"R{level}") for level in range(1, levels)]
    return record(record("null", name="R0"), *doubled)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (record(["null", "R"]), "is recursive: R holds itself"),
        (record(array("R")), "is recursive"),
        (record({"type": "map", "values": record(["null", "R"], name="S")}), "is recursive"),
        (record(array("null")), "an array whose items hold a part that takes no byte"),
        (record({"type": "map", "values": "null"}), "a map whose items hold a part that takes no byte"),
        (record(array(record(name="Empty"))), "takes no byte"),
        (record(array({"type": "fixed", "name": "F", "size": 0})), "takes no byte"),
        (record(array(record("boolean", *["null"] * 1000, name="Wide"))), "takes no byte"),
        (record(array([record(name="Empty"), "int"])), "takes no byte"),
        (record(record(name="Empty"), array("Empty")), "takes no byte"),
        (record(nested(NESTING_MAX)), "nested deeper than"),
        (doubling(30), "more than 4096 types"),
        (record(*["int"] * 5000), "more than 4096 types"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "is not an Avro record"),
        (record("strange"), "is not Avro"),
        (record({"type": "array"}), "is not Avro"),
        (record({"type": "fixed", "name": "F", "size": -1}), "without a size"),
        ([record("int")], "is not an Avro record"),
    ],
)
def test_schemas_that_cost_too_much_are_refused(schema: Any, words: str) -> None:
    with pytest.raises(UnsafeSchemaError, match=words):
        load(json.dumps(schema))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "x" * 300_000, "\ud800"])
def test_texts_that_are_no_schema_are_refused(text: str) -> None:
    with pytest.raises(UnsafeSchemaError):
        load(text)


@pytest.mark.parametrize(
    "schema",
    [
        record("null", "int"),
        record(array(["null", "string"])),
        record(array({"type": "fixed", "name": "F", "size": 4})),
        record({"type": "record", "name": "S", "fields": []}),
        record({"type": "enum", "name": "E", "symbols": ["A"]}, ["null", "E"]),
        record({"type": "long"}),
    ],
)
def test_harmless_schemas_are_loaded(schema: Any) -> None:
    assert load(json.dumps(schema)).field_names == tuple(part["name"] for part in schema["fields"])


def test_what_does_not_change_the_bytes_is_dropped() -> None:
    plain = record("long")
    dressed = record({"type": "long", "logicalType": "timestamp-millis"}) | {"doc": "x", "aliases": ["old"]}
    dressed["fields"][0] |= {"default": 0, "doc": "y", "order": "ignore"}
    loaded = load(json.dumps(dressed))
    assert loaded.wire == load(json.dumps(plain)).wire
    assert loaded.logical_types == {"f0": "timestamp-millis"}
    assert loaded.defaults == {"f0": 0}


def test_our_own_schemas_are_safe_and_named_as_documented() -> None:
    topics = (CLICKS_TOPIC, CARTS_TOPIC, DEAD_LETTERS_TOPIC, RETRAIN_TOPIC)
    names = {topic: load(own_schema(topic)).name for topic in topics}
    assert names == {
        CLICKS_TOPIC: "shop.ClickEvent",
        CARTS_TOPIC: "shop.CartEvent",
        DEAD_LETTERS_TOPIC: "shop.DeadLetter",
        RETRAIN_TOPIC: "shop.RetrainingRequest",
    }
    assert {topic_of(name) for name in names.values()} == set(names)
    assert topic_of("other.ClickEvent") is None
