"""The bytes of a state: what they hold, how long they get, and what is refused."""

import hashlib
import random
import struct
from typing import Any

import msgspec
import pytest

from features.apply import apply, fold
from features.errors import StateError
from features.finalize import finalize
from features.retention import DISTINCT_IDS_MAX, SEEN_IDS_MAX
from features.state import TRAILER_BYTES, Trailer, decode, encode, read_trailer, with_trailer
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from tests.logs import DAY, HOUR, MINUTE, NOON, SECOND, Log, event, folded, numbered

KINDS = {CLICKS_TOPIC: ("page_view", "click", "search"), CARTS_TOPIC: ("add", "remove", "purchase")}


def uuid_of(random_: random.Random) -> str:
    digits = f"{random_.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def a_days_log(topic: str) -> Log:
    """Three visits of ten events, each around five products of three categories."""
    random_ = random.Random(7)
    events = []
    for visit_ms in (-9 * HOUR, -5 * HOUR, 0):
        products = [f"product-{random_.randrange(10_000)}" for _ in range(5)]
        at_ms = visit_ms - random_.randrange(MINUTE)
        for _ in range(10):
            product = random_.choice(products)
            category = f"category-{int(product[8:]) % 3}"
            kind = random_.choice(KINDS[topic])
            events.append(event(at_ms, kind, uuid_of(random_), product_id=product, category_id=category))
            at_ms += random_.randrange(5 * SECOND, 90 * SECOND)
    return numbered(events)


def a_full_log() -> Log:
    """Reach every cap at once: panes, ids, products and categories of the greatest length, values of 64 bits."""
    random_ = random.Random(7)
    events = []
    times = [*range(-DAY, -10 * MINUTE, 10 * SECOND), *range(-10 * MINUTE, 0, 500)]
    for n, at_ms in enumerate(times):
        product = f"{n % 700:040d}"
        fields: dict[str, Any] = {"product_id": product, "category_id": f"{n % 700:064d}"}
        value = {"quantity": 1_000, "unit_price_minor": 10**9 - random_.randrange(10**6)}
        events.append(event(at_ms, random_.choice(KINDS[CARTS_TOPIC]), uuid_of(random_), **fields, **value))
    return numbered(events)


@pytest.mark.parametrize("topic", [CLICKS_TOPIC, CARTS_TOPIC])
def test_a_typical_user_takes_at_most_650_bytes(topic: str) -> None:
    state = fold(None, a_days_log(topic)).state

    assert len(state) <= 650


def test_with_every_cap_reached_it_takes_at_most_32_kb() -> None:
    blob = fold(None, a_full_log()).state
    state = decode(blob)

    assert len(state.seen_times) == SEEN_IDS_MAX
    assert len(state.products.ids) == len(state.categories.ids) == DISTINCT_IDS_MAX
    assert len(state.panes) > 180
    assert len(blob) <= 32_768


@pytest.mark.parametrize("log", [a_days_log(CLICKS_TOPIC), a_days_log(CARTS_TOPIC), a_full_log()])
def test_decoding_and_encoding_gives_the_same_bytes(log: Log) -> None:
    blob = fold(None, log).state

    assert encode(decode(blob)) == blob


def test_the_trailer_tells_what_it_was_built_from() -> None:
    first = fold(None, numbered([event(0)], first_offset=4)).state
    second = fold(first, numbered([event(1)], first_offset=9)).state

    assert read_trailer(first) == Trailer(generation=0, built_from=0, version=5)
    assert read_trailer(second) == Trailer(generation=0, built_from=5, version=10)
    assert second[-TRAILER_BYTES:] == struct.pack(">HQQ", 0, 5, 10)


def test_a_fold_keeps_the_generation() -> None:
    repaired = decode(fold(None, numbered([event(0)])).state)
    repaired.generation = 3

    assert read_trailer(fold(encode(repaired), numbered([event(1)], 1)).state) == Trailer(3, 1, 2)


def test_another_language_can_read_it_by_the_reference_page() -> None:
    """docs/reference/state.md in code, with nothing of `features`."""
    blob = fold(
        None,
        numbered(
            [
                event(-2 * HOUR, "add", quantity=2, unit_price_minor=250),
                event(-61 * SECOND, "remove", product_id="p2", category_id="c1"),
                event(0, "purchase", "last", product_id="p3", category_id="c2", unit_price_minor=900),
            ],
            first_offset=7,
        ),
    ).state

    origin = (NOON - 2 * DAY) // (5 * DAY) * (5 * DAY)

    def times(packed: bytes) -> list[int]:
        return [origin + time for time in struct.unpack(f"<{len(packed) // 4}I", packed)]

    def key(text: str) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    row = msgspec.msgpack.decode(blob[:-18])
    assert struct.unpack(">HQQ", blob[-18:]) == (0, 0, 10)
    assert row[:4] == [1, NOON, False, 5]
    starts = [origin + 10_000 * start for start in struct.unpack("<3H", row[4])]
    assert starts == [NOON - 2 * HOUR, NOON - 70_000, NOON]
    assert row[5] == [1, 0, 0, 500, 0, 0, 1, 0, -100, 0, 0, 0, 1, 0, 900]
    assert [origin + bound for bound in row[6]] == [NOON - 2 * HOUR, NOON - 2 * HOUR, NOON - 61 * SECOND, NOON]
    assert row[7] == [1, 0, 0, 500, 0, 0, 1, 1, -100, 900]
    assert row[8] == ["p1", "p2", "p3"]
    assert times(row[9]) == [NOON - 2 * HOUR, NOON - 61 * SECOND, NOON]
    assert (row[11], times(row[12])) == (key("c1")[:6] + key("c2")[:6], [NOON - 61 * SECOND, NOON])
    assert row[14][8:] == key("last")
    assert times(row[15]) == [NOON - 61 * SECOND, NOON]
    assert (row[10], row[13], row[16], len(row)) == (0, 0, 0, 17)


@pytest.mark.parametrize("later_ms", [0, DAY, 4 * DAY, 5 * DAY, 400 * DAY])
def test_the_origin_moves_with_the_newest_event_and_nothing_else_changes(later_ms: int) -> None:
    """A state whose newest event crosses into another origin equals one that was born there, whatever the batches."""
    log = a_days_log(CLICKS_TOPIC)
    for edge_ms in range(0, 6 * DAY, 6 * HOUR):
        at_ms = edge_ms + later_ms + HOUR
        moved = numbered([event(at_ms, "click", "x", product_id="p"), event(at_ms + 2 * HOUR, "click", "y")], len(log))
        parts = fold(None, log).state
        for each in moved:
            parts = fold(parts, [each]).state
        state = decode(parts)
        assert parts[:-18] == fold(None, [*log, *moved]).state[:-18]
        assert state.origin_ms <= state.newest_ms - 2 * DAY < state.origin_ms + 5 * DAY
        assert [state.origin_ms + time for time in state.products.times][-1] == NOON + at_ms


def test_the_bytes_of_layout_1_never_change() -> None:
    """States outlive releases: a difference here is another layout, with another number."""
    log = numbered([event(-20 * SECOND, event_id="a", product_id="p1", category_id="c1"), event(0, "click", "b")], 41)

    assert fold(None, log).state.hex() == GOLDEN


GOLDEN = (
    "dc001101cf0000018bd2da3e00c203c4045edb60db9601000000010092ce217907e0ce217956009301010091a27031c404e0"
    "07792100c40643f000a36f6dc404e007792100c41040f89e395b66422f8472c2e34d854f75c408e007792100567921000000"
    "0000000000000000000000000000002b"
)

GOOD = fold(None, a_days_log(CLICKS_TOPIC)).state
CLICKED = decode(GOOD).products.ids


def changed(index: int, value: Any) -> bytes:
    row = msgspec.msgpack.decode(GOOD[:-TRAILER_BYTES])
    row[index] = value
    return msgspec.msgpack.encode(row) + GOOD[-TRAILER_BYTES:]


@pytest.mark.parametrize(
    ("junk", "wrong"),
    [
        pytest.param(b"", "too few", id="nothing"),
        pytest.param(b"hello world", "too few", id="text"),
        pytest.param(b"hello world, this is no state at all", "no state", id="more text"),
        pytest.param(GOOD[:-1], "no state", id="cut at the end"),
        pytest.param(GOOD[1:], "no state", id="cut at the start"),
        pytest.param(b"\xc0" + GOOD[-TRAILER_BYTES:], "no state", id="null"),
        pytest.param(changed(0, 2), "layout 2", id="another layout"),
        pytest.param(changed(1, -1), "no state", id="a time before 1970"),
        pytest.param(changed(1, "now"), "no state", id="a text for a time"),
        pytest.param(changed(3, 0), "no state", id="no sums"),
        pytest.param(changed(3, 4), "panes", id="another width"),
        pytest.param(changed(3, 64), "panes", id="a width that does not divide"),
        pytest.param(changed(4, bytes(2)), "panes", id="a pane without sums"),
        pytest.param(changed(4, bytes(3)), "a part of one", id="a cut pane"),
        pytest.param(changed(4, b"\2\0\1\0"), "out of order", id="a step backwards"),
        pytest.param(changed(6, [0, 0]), "sessions", id="a session without sums"),
        pytest.param(changed(8, ["p1", "p1"]), "products", id="products without times"),
        pytest.param(changed(8, [CLICKED[0], *CLICKED[:-1]]), "repeat", id="a product twice"),
        pytest.param(changed(8, [b"\xff"]), "no state", id="bytes for a product"),
        pytest.param(changed(9, b"\xff" * 4 * len(CLICKED)), "after its newest", id="a product after the newest event"),
        pytest.param(changed(9, bytes(4 * len(CLICKED) - 1)), "a part of one", id="a cut time"),
        pytest.param(changed(11, b"1234567"), "categories", id="a cut key"),
        pytest.param(changed(14, b"1234567"), "event ids", id="a cut key of an event id"),
        pytest.param(changed(14, b""), "event ids", id="times without keys"),
        pytest.param(changed(6, []), "no event", id="no session"),
        pytest.param(msgspec.msgpack.encode([1]) + GOOD[-TRAILER_BYTES:], "no state", id="too few elements"),
        pytest.param(
            msgspec.msgpack.encode([*msgspec.msgpack.decode(GOOD[:-TRAILER_BYTES]), 1]) + GOOD[-TRAILER_BYTES:],
            "no state",
            id="too many elements",
        ),
    ],
)
def test_junk_is_refused_and_named(junk: bytes, wrong: str) -> None:
    with pytest.raises(StateError) as refused:
        decode(junk)

    assert wrong in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize("first_offset", [0, 4_711])
def test_a_state_that_a_new_log_began_with_is_folded_on(first_offset: int) -> None:
    """Its version is where that log begins: no event of it is taken for one that is in the state already."""
    log = a_days_log(CLICKS_TOPIC)
    before, after = log[:20], [event for _, event in log[20:]]
    began = with_trailer(fold(None, before).state, Trailer(1, 0, first_offset))

    moved = fold(began, numbered(after, first_offset)).state

    whole = fold(None, log).state
    assert moved[:-TRAILER_BYTES] == whole[:-TRAILER_BYTES]
    assert read_trailer(moved) == Trailer(1, first_offset, first_offset + len(after))


def test_a_changed_byte_is_refused_or_is_another_state() -> None:
    """No byte can make `decode`, `apply` or `finalize` fail in any other way than with StateError."""
    random_ = random.Random(7)
    for _ in range(3_000):
        mutated = bytearray(GOOD)
        for _ in range(random_.randrange(1, 4)):
            mutated[random_.randrange(len(mutated))] = random_.randrange(256)
        try:
            state = decode(bytes(mutated))
            finalize({CLICKS_TOPIC: state}, NOON)
            apply(state, event(2 * DAY), 2**62)
        except StateError:
            continue


def test_a_sum_beyond_64_bits_is_refused_not_wrapped() -> None:
    state = folded(numbered([event(0, "add")]))
    state.pane_sums[3] = 2**64

    with pytest.raises(StateError, match="does not fit"):
        encode(state)
