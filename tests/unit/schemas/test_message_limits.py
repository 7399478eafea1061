"""A message holds only so many values: items of a byte each would cost hundreds of bytes of memory, and seconds."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from config.settings import EventSettings
from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter, Reason
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.loading import load, own_schema
from schemas.wire_check import TooManyValuesError, check
from tests.unit.schemas.conftest import HeldSchemas, RecordOf
from tests.unit.schemas.test_loading import array, record

VALUES_MAX = EventSettings().message_values_max


def number(value: int) -> bytes:
    raw = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*out, raw])


def nest(levels: int) -> Any:
    return "boolean" if levels == 0 else record(nest(levels - 1), name=f"N{levels}")


def mapping(values: Any) -> dict[str, Any]:
    return {"type": "map", "values": values}


def blocks_of_one(item: bytes, count: int) -> bytes:
    return (number(1) + item) * count + b"\0"


def one_block(item: bytes, count: int) -> bytes:
    return number(count) + item * count + b"\0"


def counted_block(item: bytes, count: int) -> bytes:
    return number(-count) + number(len(item) * count) + item * count + b"\0"


@pytest.fixture
def decode(
    codec: Codec, source: HeldSchemas, click: Event, record_of: RecordOf
) -> Callable[[Any, bytes], Decoded | DeadLetter]:
    """Decode a click that carries one more field of that type, with those bytes."""

    def decode(extra: Any, body: bytes) -> Decoded | DeadLetter:
        schema = json.loads(own_schema(CLICKS_TOPIC))
        schema["fields"].append({"name": "extra", "type": extra})
        source.texts[9] = json.dumps(schema)
        good = record_of(click)
        assert good.value is not None
        made = record_of(click, value=b"\0\0\0\0\x09" + good.value[5:] + body)
        codec.resolve(codec.unresolved([made]))
        return codec.decode(made, 4)

    return decode


@pytest.mark.parametrize("block", [one_block, counted_block, blocks_of_one])
@pytest.mark.parametrize(
    ("extra", "item"),
    [
        (array("boolean"), b"\0"),
        (array("int"), b"\2"),
        (array(array("int")), b"\0"),
        (array(nest(12)), b"\0"),
        (array(["null", nest(4)]), b"\0"),
        (mapping("boolean"), b"\0\0"),
        (mapping(array("long")), b"\0\0"),
    ],
)
def test_a_message_of_many_small_items_is_too_large_and_costs_no_memory(
    decode: Callable[[Any, bytes], Decoded | DeadLetter],
    extra: Any,
    item: bytes,
    block: Callable[[bytes, int], bytes],
) -> None:
    body = block(item, 900_000 // (len(item) + (block is blocks_of_one)))
    tracemalloc.start()
    result = decode(extra, body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(result, DeadLetter)
    assert (result.reason, result.detail) == (Reason.TOO_LARGE, f"The body holds more than {VALUES_MAX} values.")
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("items", "body"),
    [
        ("boolean", one_block(b"\0", VALUES_MAX - 100)),
        ("string", one_block(number(90) + b"x" * 90, VALUES_MAX - 1_000)),
    ],
)
def test_items_up_to_the_limit_are_read(
    decode: Callable[[Any, bytes], Decoded | DeadLetter], items: str, body: bytes
) -> None:
    assert isinstance(decode(array(items), body), Decoded)


@pytest.mark.parametrize("count", [-(2**63), 2**62, -(2**62), 2**63 - 1, -1])
def test_a_count_that_lies_is_broken_however_large_it_is(
    decode: Callable[[Any, bytes], Decoded | DeadLetter], count: int
) -> None:
    result = decode(array("boolean"), number(count) + b"\0" * 5)
    assert isinstance(result, DeadLetter | Decoded)
    long = decode(array("boolean"), number(count) + b"\0" * 20_000)
    assert isinstance(long, DeadLetter)


@pytest.mark.parametrize(
    ("types", "item"),
    [
        ((array("boolean"),), b"\0"),
        ((array(nest(7)), "long"), b"\0"),
        ((array(array(array("int"))),), b"\0"),
        ((array(record("string", ["null", "int"], array("long"), name="S")), "string"), b"\0\0\0"),
        ((mapping(["null", record("double", "float", name="D")]),), b"\0\0"),
        ((mapping(record("boolean", "boolean", name="B")),), b"\0\0\0"),
        ((array({"type": "fixed", "name": "F", "size": 4}),), b"abcd"),
    ],
)
def test_a_body_that_is_not_walked_cannot_hold_too_much(types: tuple[Any, ...], item: bytes) -> None:
    loaded = load(json.dumps(record(*types)))
    values_max = 5_000
    safe = loaded.bytes_for(values_max)
    rest = b"\0" * (len(types) - 1)
    count = (safe - 12) // len(item)
    assert check(loaded.wire, one_block(item, count) + rest, values_max) is None
    with pytest.raises(TooManyValuesError):
        check(loaded.wire, one_block(item, 5_000) + rest, values_max)


def test_schemas_without_collections_are_never_walked() -> None:
    loaded = load(own_schema(CLICKS_TOPIC))
    assert loaded.bytes_for(VALUES_MAX) > 10**9


@pytest.fixture
def resolving(source: HeldSchemas, codec: Codec) -> Callable[[bytes, Record], Decoded | DeadLetter]:
    """Decode the bytes of three more fields behind a click whose schema needs resolution."""
    other = json.loads(own_schema(CLICKS_TOPIC))
    session = next(part for part in other["fields"] if part["name"] == "session_id")
    session["type"].reverse()
    del session["default"]
    shared = {"type": "record", "name": "Shared", "fields": [{"name": "a", "type": "int"}]}
    other["fields"] += [
        {"name": "flags", "type": array("boolean")},
        {"name": "one", "type": ["null", shared]},
        {"name": "many", "type": array("Shared")},
    ]
    source.texts[9] = json.dumps(other)

    def decode(body: bytes, good: Record) -> Decoded | DeadLetter:
        assert good.value is not None
        fields = bytearray(good.value[5:])
        fields[fields.index(b"\2\6s-1")] = 0  # the branches of session_id have changed places
        made = structs.replace(good, value=b"\0\0\0\0\x09" + bytes(fields) + body)
        codec.resolve(codec.unresolved([made]))
        return codec.decode(made, 4)

    return decode


def test_what_a_resolution_would_skip_is_read(
    resolving: Callable[[bytes, Record], Decoded | DeadLetter], click: Event, record_of: RecordOf
) -> None:
    flags, one, many = one_block(b"\0", 3), b"\2\6", one_block(b"\4", 2)
    assert resolving(flags + one + many, record_of(click)) == Decoded(click, 9)


def test_a_block_whose_size_lies_does_not_make_it_skip_for_ever(
    resolving: Callable[[bytes, Record], Decoded | DeadLetter], click: Event, record_of: RecordOf
) -> None:
    # who reads the nine items finds the end; who skips by the size of their block finds a count of 2**60
    items = number(2**60)
    lying = number(-len(items)) + number(0) + items + b"\0" + b"\0" + b"\0"
    assert resolving(lying, record_of(click)) == Decoded(click, 9)
