"""What a redrive would do with each letter, by what the real codec says of it now."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from config.settings import EventSettings
from replay.dead_letter_fates import Fate, Told
from replay.letter_decoding import LetterDecoder
from replay.redrive_planning import Planned, Verdict, plan, sift
from schemas.dead_letter import DeadLetter, Reason
from schemas.event import CLICKS_TOPIC, Record
from schemas.partitioner import partition_of
from sinks.letter_reads import Letter, LetterFilter, LetterHead, LogPosition, letter_heads, letters
from sinks.redrives import Attempt
from tests.letters import LATE_ID, NOW_MS, TOPICS, Registry, decoder, event, refused, value, write

COUNTS = {CLICKS_TOPIC: 4}
BELONGS = partition_of(b"u1", 4)
ELSEWHERE = (BELONGS + 1) % 4


def planned(lake: Path, letter: DeadLetter, registry: Registry | None = None, **limits: int) -> Planned:
    write(lake, [letter])
    whole = letters(lake, letter_heads(lake, LetterFilter()))
    decoding = decoder(registry or Registry(), **limits)
    decoding.look(whole)
    (found,) = plan(whole, decoding, COUNTS, NOW_MS)
    assert found.head.reason == letter.reason
    return found


@pytest.mark.parametrize(
    ("key", "partition"), [(b"u1", ELSEWHERE), (b"someone", BELONGS), (None, ELSEWHERE), (b"\xff", ELSEWHERE)]
)
def test_misrouted_is_keyed_by_its_user_and_goes_where_it_belongs(
    tmp_path: Path, key: bytes | None, partition: int
) -> None:
    found = planned(tmp_path, refused(1, key, value(event()), partition=partition))
    assert (found.head.reason, found.verdict) == ("misrouted", Verdict.REDRIVE)
    assert (found.key, found.partition) == (b"u1", BELONGS)


def test_an_unknown_schema_is_retried_once_it_is_registered(tmp_path: Path) -> None:
    registry = Registry()
    letter = refused(1, b"u1", value(event(), LATE_ID), partition=BELONGS)
    before = planned(tmp_path / "before", letter, registry)
    assert before.verdict is Verdict.UNREADABLE
    assert before.why == f"unknown_schema: The schema registry has no schema with id {LATE_ID}."
    registry.late = True
    after = planned(tmp_path / "after", letter, registry)
    assert (after.verdict, after.key, after.partition) == (Verdict.REDRIVE, b"u1", BELONGS)


def test_an_unknown_schema_under_a_wrong_key_is_both_mended(tmp_path: Path) -> None:
    registry = Registry()
    registry.late = True
    found = planned(tmp_path, refused(1, b"x", value(event(), LATE_ID), partition=ELSEWHERE), registry)
    assert (found.verdict, found.key, found.partition) == (Verdict.REDRIVE, b"u1", BELONGS)


def test_an_event_of_the_future_is_readable_when_its_time_has_come(tmp_path: Path) -> None:
    soon = value(event(event_time_ms=NOW_MS + 290_000))
    assert planned(tmp_path / "soon", refused(1, b"u1", soon, partition=BELONGS)).verdict is Verdict.REDRIVE
    late = value(event(event_time_ms=NOW_MS + 310_000))
    stays = planned(tmp_path / "late", refused(1, b"u1", late, partition=BELONGS))
    assert (stays.verdict, stays.why[:13]) == (Verdict.UNREADABLE, "future_event:")


def test_what_is_too_large_is_readable_under_a_greater_limit(tmp_path: Path) -> None:
    letter = refused(1, b"u1", value(event("u1", "e" * 60)) + b"\x00" * 2_000, message_bytes_max=1_000)
    assert planned(tmp_path, letter).why.startswith("undecodable: 2000 bytes follow the Avro body")


@pytest.mark.parametrize("body", [None, b"", b"\x01abcdef", b"\x00\x00", value(event())[:-3]])
def test_what_can_never_be_read_stays(tmp_path: Path, body: bytes | None) -> None:
    found = planned(tmp_path, refused(1, b"u1", body, partition=BELONGS))
    assert (found.verdict, found.why[:12]) == (Verdict.UNREADABLE, "undecodable:")


def test_a_letter_that_ends_who_decodes_it_is_not_decoded_here(tmp_path: Path) -> None:
    deadly, other = value(event(event_id="deadly"))[:-1], value(event(event_id="other"))[:-1]
    write(tmp_path, [refused(1, b"u1", deadly), refused(2, b"u1", other), refused(3, b"x", value(event()))])
    whole = letters(tmp_path, letter_heads(tmp_path, LetterFilter()))
    tried: list[bytes | None] = []

    def probe(records: Sequence[Record]) -> Mapping[int, str]:
        tried.extend(record.value for record in records)
        return {place: "Boom." for place, record in enumerate(records) if record.value == deadly}

    decoding = LetterDecoder(Registry(), EventSettings(), lambda: NOW_MS, probe)
    decoding.look(whole)
    by_offset = {found.head.offset: found for found in plan(whole, decoding, COUNTS, NOW_MS)}
    assert set(tried) == {deadly, other}  # the third was decoded by the worker that refused it
    assert (by_offset[1].verdict, by_offset[1].why) == (Verdict.UNREADABLE, "undecodable: Boom.")
    assert by_offset[2].why.startswith("undecodable: The body is not Avro")
    assert by_offset[3].verdict is Verdict.REDRIVE
    assert decoding.fields_of(whole[-1].record()) == (Reason.UNDECODABLE, "Boom.")


def head(offset: int, value_size: int | None = 1) -> LetterHead:
    epoch = TOPICS[CLICKS_TOPIC].log_epoch
    return LetterHead(epoch, CLICKS_TOPIC, 0, offset, NOW_MS, value_size, None, "validate", "misrouted", NOW_MS)


def test_a_letter_whose_bytes_were_not_kept_stays() -> None:
    (found,) = plan([Letter(head(1, 80), None, None, None, "")], decoder(Registry()), COUNTS, NOW_MS)
    assert found.verdict is Verdict.BYTES_NOT_KEPT


def test_a_letter_of_an_erased_user_stays() -> None:
    whole = Letter(head(1), b"x", value(event()), None, "")
    decoding = decoder(Registry())
    decoding.look([whole])
    (found,) = plan([whole], decoding, COUNTS, NOW_MS, lambda user, letter: (user, letter) == ("u1", whole))
    assert found.verdict is Verdict.ERASED


def attempt(offset: int, number: int, target: int | None, topic_id: str = "") -> Attempt:
    letter = head(offset).position
    topic_id = topic_id or letter.topic_id
    return Attempt(letter, head(offset).log_epoch, Reason.MISROUTED, number, letter, topic_id, 1, 0, NOW_MS, target)


def verdict(told: Told, *, named: frozenset[LogPosition] = frozenset(), attempts_max: int = 3) -> Verdict | None:
    candidates, others = sift([told], attempts_max=attempts_max, named=named, lost_logs=frozenset({"gone"}))
    assert len(candidates) + len(others) == 1
    return others[0].verdict if others else None


def test_only_open_letters_are_redriven() -> None:
    assert verdict(Told(head(1), Fate.OPEN, None, None)) is None
    assert verdict(Told(head(1), Fate.APPLIED, None, None)) is Verdict.APPLIED
    assert verdict(Told(head(1), Fate.REDRIVEN, attempt(1, 1, 9), None)) is Verdict.REDRIVEN
    assert verdict(Told(head(1), Fate.FAILED_AGAIN, attempt(1, 1, 9), None)) is Verdict.FAILED_AGAIN


def test_what_was_intended_and_not_found_is_open_again_and_what_is_under_way_is_not() -> None:
    assert verdict(Told(head(1), Fate.IN_FLIGHT, attempt(1, 1, None), None)) is None
    assert verdict(Told(head(1), Fate.IN_FLIGHT, attempt(1, 1, 9), None)) is Verdict.IN_FLIGHT
    assert verdict(Told(head(1), Fate.IN_FLIGHT, attempt(1, 1, 9, "gone"), None)) is None


def test_a_record_that_came_back_too_often_is_left_unless_it_is_named() -> None:
    told = Told(head(9), Fate.OPEN, None, attempt(1, 3, 9))
    assert verdict(told) is Verdict.ATTEMPTS_MAX
    assert verdict(told, attempts_max=4) is None
    assert verdict(told, named=frozenset({told.head.position})) is None
