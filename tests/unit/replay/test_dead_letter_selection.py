"""Which letters are meant: times, positions, names."""

import pytest

from replay.dead_letter_selection import PositionName, named_heads, parse_position, parse_time
from sinks.letter_reads import LetterHead

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2026-11-23T12:00:00Z", 1_795_435_200_000),
        ("2026-11-23T13:00:00+01:00", 1_795_435_200_000),
        ("2026-11-23 12:00:00.250+00:00", 1_795_435_200_250),
        ("1795435200000", 1_795_435_200_000),
        ("-90s", NOW_MS - 90_000),
        ("-2h", NOW_MS - 7_200_000),
        ("-1w", NOW_MS - 604_800_000),
    ],
)
def test_a_time_is_read(text: str, time_ms: int) -> None:
    assert parse_time(text, NOW_MS) == time_ms


@pytest.mark.parametrize("text", ["2026-11-23T12:00:00", "2026-11-23", "2026-11-23 12:00"])
def test_a_time_without_a_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has no time zone: add Z for UTC"):
        parse_time(text, NOW_MS)


@pytest.mark.parametrize("text", ["yesterday", "-2 h", "-2y", "2h", "", "-"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_time(text, NOW_MS)


def test_a_position_is_read() -> None:
    assert parse_position("shop.clicks.v1/3/42") == PositionName("shop.clicks.v1", 3, 42)


@pytest.mark.parametrize("text", ["shop.clicks.v1", "shop.clicks.v1/3", "/3/4", "t/a/4", "t/3/-4", "t/3/4/5", ""])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not TOPIC/PARTITION/OFFSET"):
        parse_position(text)


def head(epoch: str, offset: int, append_time_ms: int) -> LetterHead:
    return LetterHead(epoch, "t", 0, offset, append_time_ms, 1, None, "frame", "undecodable", 0)


def test_of_two_logs_with_one_name_the_newest_is_meant() -> None:
    old, new, other = head("a:4", 5, 10), head("b:4", 5, 20), head("a:4", 6, 10)
    names = [PositionName("t", 0, 6), PositionName("t", 0, 5), PositionName("t", 0, 5), PositionName("t", 1, 5)]
    assert named_heads([old, new, other], names) == ([other, new], [PositionName("t", 1, 5)])
