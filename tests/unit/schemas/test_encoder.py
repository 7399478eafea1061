import hashlib
import struct

import msgspec
import pytest

from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.encoder import Encoder, PublishedLetter, read_letter, subject_of
from schemas.errors import EncodeError, UnknownSubjectError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, EVENT_TOPICS, Event

LETTER = DeadLetter(
    topic=CLICKS_TOPIC,
    partition=3,
    offset=2**40,
    append_time_ms=1_700_000_000_000,
    key=b"\xff\0key",
    value=b"0123456789",
    schema_id=2**32 - 1,
    stage=Stage.DECODE,
    reason=Reason.UNDECODABLE,
    detail="Schön kaputt.",
    first_seen_ms=1_700_000_000_123,
)


def test_the_frame_is_magic_byte_and_id() -> None:
    framed = Encoder({CLICKS_TOPIC: 258}).event(
        CLICKS_TOPIC, Event(event_id="e", kind="k", user_id="u", event_time_ms=1)
    )
    assert struct.unpack(">bI", framed[:5]) == (0, 258)
    assert framed[5:14] == b"\x02e\x02k\x02u\x02\0\0"


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": None},
        {"quantity": "two"},
        {"unit_price_minor": 2.5},
        {"user_id": None},
        {"device": 3},
        {"event_id": "\ud800"},
    ],
)
def test_what_the_schema_cannot_hold_is_refused(changes: dict[str, object], encoder: Encoder, cart: Event) -> None:
    with pytest.raises(EncodeError, match=r"does not fit the schema of shop\.carts\.v1"):
        encoder.event(CARTS_TOPIC, msgspec.structs.replace(cart, **changes))


def test_a_letter_survives_whole(encoder: Encoder) -> None:
    digest = hashlib.sha256(b"0123456789").hexdigest()
    assert read_letter(encoder.letter(LETTER, bytes_max=100)) == PublishedLetter(LETTER, 5, 10, digest)


def test_a_large_letter_is_cut_and_says_so(encoder: Encoder) -> None:
    published = read_letter(encoder.letter(LETTER, bytes_max=4))
    assert published.letter == msgspec.structs.replace(LETTER, key=b"\xff\0ke", value=b"0123")
    assert (published.key_size_bytes, published.value_size_bytes) == (5, 10)
    assert published.value_sha256 == hashlib.sha256(b"0123456789").hexdigest()


def test_a_letter_without_key_and_value(encoder: Encoder) -> None:
    bare = msgspec.structs.replace(LETTER, key=None, value=None, schema_id=None)
    assert read_letter(encoder.letter(bare, bytes_max=4)) == PublishedLetter(bare, None, None, None)


@pytest.mark.parametrize("framed", [b"", b"x", b"\0\0\0\0\3", b"\0\0\0\0\3\xff", b"\1\0\0\0\3abc"])
def test_other_bytes_are_no_letter(framed: bytes) -> None:
    with pytest.raises(EncodeError, match="not a dead letter"):
        read_letter(framed)


def test_ids_come_from_the_registry_and_nothing_is_registered() -> None:
    class Registered:
        def lookup(self, subject: str, schema: str) -> int:
            if subject == subject_of(DEAD_LETTERS_TOPIC):
                raise UnknownSubjectError("not registered")
            return 1 + [subject_of(topic) for topic in EVENT_TOPICS].index(subject)

    assert Encoder.registered(Registered(), EVENT_TOPICS)._headers == {
        CLICKS_TOPIC: b"\0\0\0\0\1",
        CARTS_TOPIC: b"\0\0\0\0\2",
    }
    with pytest.raises(UnknownSubjectError):
        Encoder.registered(Registered(), (DEAD_LETTERS_TOPIC,))
