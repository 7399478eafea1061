"""Each way in which a record can be wrong, in the order of the checks."""

import json

import msgspec
import pytest

from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.encoder import Encoder
from schemas.errors import UnresolvedSchemaError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, Event
from tests.unit.schemas.conftest import IDS, NOW_MS, PARTITIONS, RecordOf


def refused(codec: Codec, record: object) -> DeadLetter:
    result = codec.decode(record, PARTITIONS)  # type: ignore[arg-type]
    assert isinstance(result, DeadLetter)
    return result


def test_a_good_event_comes_back_as_it_was(codec: Codec, click: Event, cart: Event, record_of: RecordOf) -> None:
    assert codec.decode(record_of(click), PARTITIONS) == Decoded(click, IDS[CLICKS_TOPIC])
    assert codec.decode(record_of(cart), PARTITIONS) == Decoded(cart, IDS[CARTS_TOPIC])


def test_optional_fields_may_all_be_null(codec: Codec, record_of: RecordOf) -> None:
    bare = Event(event_id="e", kind="page_view", user_id="u", event_time_ms=NOW_MS)
    assert codec.decode(record_of(bare), PARTITIONS) == Decoded(bare, IDS[CLICKS_TOPIC])


def test_an_empty_optional_id_is_none(codec: Codec, click: Event, cart: Event, record_of: RecordOf) -> None:
    result = codec.decode(record_of(msgspec.structs.replace(click, product_id="", category_id="")), PARTITIONS)
    assert isinstance(result, Decoded)
    assert result.event == msgspec.structs.replace(click, product_id=None, category_id=None)
    result = codec.decode(record_of(msgspec.structs.replace(cart, category_id="")), PARTITIONS)
    assert isinstance(result, Decoded)
    assert result.event.category_id is None


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        (None, Reason.UNDECODABLE, "The record has no value."),
        (b"", Reason.UNDECODABLE, "The value is empty."),
        (b"\0" * 1_000_001, Reason.TOO_LARGE, "The value has 1000001 bytes; at most 1000000 are read."),
        (b"{}", Reason.UNDECODABLE, "The first byte is 123; a framed value starts with 0."),
        (b"\0\0\0", Reason.UNDECODABLE, "The value has 3 bytes; the frame alone takes 5."),
    ],
)
def test_a_broken_frame(
    value: bytes | None, reason: Reason, words: str, codec: Codec, click: Event, record_of: RecordOf
) -> None:
    record = record_of(click, value=value)
    assert codec.unresolved([record]) == set()
    letter = refused(codec, record)
    assert (letter.stage, letter.reason, letter.detail) == (Stage.FRAME, reason, words)
    assert letter.schema_id is None


def test_a_letter_keeps_all_of_the_record(codec: Codec, click: Event, record_of: RecordOf) -> None:
    letter = refused(codec, record_of(click, value=b"?", key=b"k", offset=99, partition=3))
    assert letter == DeadLetter(
        topic=CLICKS_TOPIC,
        partition=3,
        offset=99,
        append_time_ms=NOW_MS,
        key=b"k",
        value=b"?",
        schema_id=None,
        stage=Stage.FRAME,
        reason=Reason.UNDECODABLE,
        detail="The first byte is 63; a framed value starts with 0.",
        first_seen_ms=NOW_MS,
    )


def test_decode_before_resolve_is_the_callers_mistake(codec: Codec, click: Event, record_of: RecordOf) -> None:
    with pytest.raises(UnresolvedSchemaError, match="Schema 99 was not resolved"):
        codec.decode(record_of(click, value=b"\0\0\0\0\x63?"), PARTITIONS)


def test_a_record_of_the_other_topic(codec: Codec, cart: Event, record_of: RecordOf) -> None:
    letter = refused(codec, record_of(cart, topic=CLICKS_TOPIC, value=record_of(cart).value))
    assert (letter.stage, letter.reason) == (Stage.DECODE, Reason.UNDECODABLE)
    assert letter.detail == "Schema 2 is shop.CartEvent, which does not belong on shop.clicks.v1."
    assert letter.schema_id == 2


def test_a_dead_letter_on_an_event_topic(codec: Codec, encoder: Encoder, click: Event, record_of: RecordOf) -> None:
    value = encoder.letter(refused(codec, record_of(click, value=None)), bytes_max=10)
    letter = refused(codec, record_of(click, value=value))
    assert letter.reason == Reason.UNDECODABLE
    assert letter.schema_id == IDS[DEAD_LETTERS_TOPIC]
    assert "only shop.ClickEvent and shop.CartEvent are read" in letter.detail


def test_every_cut_of_a_body_is_refused(codec: Codec, click: Event, record_of: RecordOf) -> None:
    value = record_of(click).value
    assert value is not None
    for length in range(5, len(value)):
        letter = refused(codec, record_of(click, value=value[:length]))
        assert (letter.stage, letter.reason) == (Stage.DECODE, Reason.UNDECODABLE), length
        assert "The body is not Avro of schema 1; " in letter.detail


def test_trailing_bytes(codec: Codec, click: Event, record_of: RecordOf) -> None:
    value = record_of(click).value
    assert value is not None
    letter = refused(codec, record_of(click, value=value + b"\0\0"))
    assert (letter.reason, letter.detail) == (Reason.UNDECODABLE, "2 bytes follow the Avro body.")


def _patched(value: bytes | None, old: bytes, new: bytes) -> bytes:
    assert value is not None
    assert value.count(old) == 1
    return value.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"\x06e-1", b"\x06e\xff1", "event_id: its text is not UTF-8"),
        (b"\x06e-1", b"\x06\xed\xa0\x80", "event_id: its text is not UTF-8"),  # a lone surrogate
        (b"\x06e-1", b"\x05e-1", "event_id: a length of -3"),
        (
            b"\x06e-1",
            b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01e-1",
            "event_id: 9223372036854775807 bytes are announced",
        ),
        (b"\x06e-1", b"\xff" * 11, "event_id: a number of more than 10 bytes"),
        (b"\x02\x06s-1", b"\x04\x06s-1", "session_id: branch 2 of 2"),
        (b"\x02\x06s-1", b"\x01\x06s-1", "session_id: branch -1 of 2"),  # fastavro reads it as the last branch
        (b"\x02\x06s-1", b"\x03", "session_id: branch -2 of 2"),
    ],
)
def test_a_broken_body_names_its_field(
    old: bytes, new: bytes, words: str, codec: Codec, click: Event, record_of: RecordOf
) -> None:
    letter = refused(codec, record_of(click, value=_patched(record_of(click).value, old, new)))
    assert (letter.stage, letter.reason) == (Stage.DECODE, Reason.UNDECODABLE)
    assert words in letter.detail


def test_control_characters_in_a_text_are_not_taken_for_a_broken_body(
    codec: Codec, click: Event, record_of: RecordOf
) -> None:
    event = msgspec.structs.replace(click, query="\x01\x02\x03")
    assert codec.decode(record_of(event), PARTITIONS) == Decoded(event, 1)


def test_a_number_beyond_avros_int_is_refused(codec: Codec, click: Event, record_of: RecordOf) -> None:
    old, new = b"\x02\x18\x02\x06\x02\x06r-1", b"\x02\xfe\xff\xff\xff\xff\x03\x02\x06\x02\x06r-1"
    letter = refused(codec, record_of(click, value=_patched(record_of(click).value, old, new)))
    assert (letter.stage, letter.reason) == (Stage.VALIDATE, Reason.INVALID_VALUE)
    assert "result_count is" in letter.detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_id": ""}, Reason.MISSING_FIELD),
        ({"quantity": -1}, Reason.INVALID_VALUE),
        ({"event_time_ms": 0}, Reason.INVALID_VALUE),
        ({"event_time_ms": NOW_MS + 300_001}, Reason.FUTURE_EVENT),
        ({"event_time_ms": 2**63 - 1}, Reason.FUTURE_EVENT),
    ],
)
def test_broken_rules(
    changes: dict[str, object], reason: Reason, codec: Codec, cart: Event, record_of: RecordOf
) -> None:
    letter = refused(codec, record_of(msgspec.structs.replace(cart, **changes)))
    assert (letter.stage, letter.reason) == (Stage.VALIDATE, reason)
    assert letter.schema_id == IDS[CARTS_TOPIC]


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"key": None}, "The record has no key; it must be user_id."),
        ({"key": b"u-2"}, "The record's key is not its user_id."),
        ({"key": b"\xff"}, "The record's key is not its user_id."),
        ({"key": json.dumps("u-1").encode()}, "The record's key is not its user_id."),
        ({"partition": 0}, "The key belongs to partition 3 of 4 by murmur2, and was found in 0"),
    ],
)
def test_misrouted(replaced: dict[str, object], words: str, codec: Codec, click: Event, record_of: RecordOf) -> None:
    letter = refused(codec, record_of(click, **replaced))
    assert (letter.stage, letter.reason) == (Stage.VALIDATE, Reason.MISROUTED)
    assert words in letter.detail


def test_the_first_failing_check_decides(codec: Codec, cart: Event, record_of: RecordOf) -> None:
    """One record with every fault of the validation, mended one by one in the documented order."""
    faults: dict[str, object] = {"product_id": "", "quantity": -1, "event_time_ms": NOW_MS + 10**9}
    seen = []
    for name, good in [("product_id", "p"), ("quantity", 1), ("event_time_ms", NOW_MS)]:
        seen.append(refused(codec, record_of(msgspec.structs.replace(cart, **faults), key=b"other")).reason)
        faults[name] = good
    seen.append(refused(codec, record_of(msgspec.structs.replace(cart, **faults), key=b"other")).reason)
    assert seen == [Reason.MISSING_FIELD, Reason.INVALID_VALUE, Reason.FUTURE_EVENT, Reason.MISROUTED]
