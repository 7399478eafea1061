"""What `--from` and `--to` mean, and which of them are refused."""

from typing import Any

import pytest

from replay.errors import NotRetainedError, RangeError
from replay.ranges import Instant, Offsets, RangeRequest, named_logs, parse_bound, resolve
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from schemas.topics import TopicInfo
from sinks.lake_reads import PartitionLog
from tests.fakes.appended_source import AppendedSource
from tests.logs import NOON, SECOND, event

LOG = PartitionLog("id:2", CLICKS_TOPIC, 0)


def source(count: int = 10, *, first_offset: int = 0) -> AppendedSource:
    return AppendedSource(
        {LOG: [(n, NOON + n * SECOND, event(n * SECOND)) for n in range(count)]}, first_offset=first_offset
    )


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2023-11-15T12:00:00Z", Instant(NOON)),
        ("2023-11-15T14:00:00+02:00", Instant(NOON)),
        ("-2h", Instant(NOON - 7_200_000)),
        ("now", Instant(NOON)),
        ("beginning", None),
        ("0=5,1=7", Offsets({(CLICKS_TOPIC, 0): 5, (CLICKS_TOPIC, 1): 7})),
        (f"{CARTS_TOPIC}:3=9", Offsets({(CARTS_TOPIC, 3): 9})),
    ],
)
def test_a_bound_is_a_time_or_offsets(text: str, meant: object) -> None:
    topic = CLICKS_TOPIC if text.startswith("0=") else None
    assert parse_bound(text, "--from", topic, NOON) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2023-11-15T12:00:00", "no time zone"),
        ("yesterday", "neither"),
        ("2023-11-15T12:00:01Z", "in the future"),
        ("end", "nothing to read"),
        ("0=5", "of which topic"),
        (f"{CLICKS_TOPIC}:0=x", "not topic:partition=offset"),
        (f"{CLICKS_TOPIC}:0=1,{CLICKS_TOPIC}:0=2", "twice"),
    ],
)
def test_what_is_no_bound_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(RangeError, match=said):
        parse_bound(text, "--from", None, NOON)


@pytest.mark.parametrize(
    ("begin", "end", "offsets"),
    [
        (None, None, (0, 10)),
        (Instant(NOON + 3 * SECOND), Instant(NOON + 6 * SECOND), (3, 6)),
        (Instant(NOON + 2_500), Instant(NOON + 3_600_000), (3, 10)),
        (Offsets({(CLICKS_TOPIC, 0): 4}), None, (4, 10)),
        (Instant(NOON + 3_600_000), None, (10, 10)),
        (None, Instant(NOON + 1), (0, 1)),
    ],
)
def test_a_range_resolves_to_offsets(begin: Any, end: Any, offsets: tuple[int, int]) -> None:
    (found,) = resolve(RangeRequest(begin, end), [LOG], source())
    assert (found.first_offset, found.end_offset) == offsets
    assert found.warm_up_offset == found.first_offset


def test_a_range_that_ends_before_anything_was_appended_is_refused() -> None:
    with pytest.raises(NotRetainedError, match="holds begins at 2023-11-15T12:00:00"):
        resolve(RangeRequest(None, Instant(NOON)), [LOG], source())


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(RangeError, match="ends before it begins"):
        resolve(RangeRequest(Instant(NOON + 2), Instant(NOON)), [LOG], source())
    with pytest.raises(RangeError, match="ends before it begins"):
        resolve(RangeRequest(Offsets({(CLICKS_TOPIC, 0): 7}), Offsets({(CLICKS_TOPIC, 0): 2})), [LOG], source())


def test_a_range_outside_what_is_retained_is_refused_and_says_what_is_held() -> None:
    with pytest.raises(NotRetainedError, match="begins at"):
        resolve(RangeRequest(Instant(NOON), None), [LOG], source(first_offset=5))
    with pytest.raises(NotRetainedError, match="5 to before 10"):
        resolve(RangeRequest(Offsets({(CLICKS_TOPIC, 0): 2}), None), [LOG], source(first_offset=5))
    with pytest.raises(NotRetainedError, match="0 to before 10"):
        resolve(RangeRequest(None, Offsets({(CLICKS_TOPIC, 0): 99})), [LOG], source())


def test_unknown_topics_and_partitions_are_refused() -> None:
    topics = {CLICKS_TOPIC: TopicInfo(CLICKS_TOPIC, "id", 2, "LogAppendTime")}
    for place, said in ((("shop.tea", 0), "no topic"), ((CLICKS_TOPIC, 7), "no partition 7")):
        with pytest.raises(RangeError, match=said):
            named_logs(RangeRequest(Offsets({place: 0}), None), topics)
    with pytest.raises(RangeError, match="different partitions"):
        named_logs(RangeRequest(Offsets({(CLICKS_TOPIC, 0): 0}), Offsets({(CLICKS_TOPIC, 1): 0})), topics)
