"""20,000 mutated messages in a process of their own: each becomes an event or a dead letter, whatever the bytes.

`make faults` decodes a million with the same program.
"""

import pytest

from tests.unit.schemas import codec_fuzz
from tests.unit.schemas.codec_fuzz import MEMORY_BYTES, Messages, run

MESSAGES = 20_000


def test_no_message_escapes() -> None:
    found = run(MESSAGES)
    assert (found.ended, found.culprit) == ("", None)
    assert found.events + sum(found.letters.values()) == found.count == MESSAGES
    assert found.events > 0, "some changes leave a good event"
    assert {"undecodable", "unknown_schema", "too_large", "missing_field", "invalid_value"} <= set(found.letters)
    assert found.peak_mb * 1_000_000 < 2 * MEMORY_BYTES


def test_a_number_is_always_the_same_message() -> None:
    one, other = Messages(7), Messages(7)
    assert [one.record(number) for number in (3, 1, 2)] == [other.record(number) for number in (3, 1, 2)]
    assert one.record(1) != Messages(8).record(1)


def test_a_message_that_ends_the_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = "tests.unit.schemas.planted_fuzz"
    monkeypatch.setattr(codec_fuzz, "MODULE", planted)
    found = run(3_000)
    assert found.culprit == 2_345
    assert "exit code -11" in found.ended
