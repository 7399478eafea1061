"""Which letters are meant: by reason, topic, partition, time, fate, or one by one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from replay.dead_letter_fates import Told
from replay.errors import NoSuchLetterError
from sinks.lake_root import Lake
from sinks.letter_reads import LetterFilter, LetterHead, letter_heads

_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_RELATIVE: Final = re.compile(r"-(\d+)([smhdw])")
_NUMBER: Final = re.compile(r"\d+")


class PositionName(NamedTuple):
    """A letter as a person names it: `TOPIC/PARTITION/OFFSET`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


def parse_position(text: str) -> PositionName:
    """Read `TOPIC/PARTITION/OFFSET`.

    Raises:
        ValueError: it is something else; the message is for people.
    """
    topic, _, rest = text.partition("/")
    partition, _, offset = rest.partition("/")
    if not (topic and _NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset)):
        raise ValueError(f"{text!r} is not TOPIC/PARTITION/OFFSET, for example shop.clicks.v1/0/1234")
    return PositionName(topic, int(partition), int(offset))


def parse_time(text: str, now_ms: int) -> int:
    """Read a time: ISO 8601 with its zone, milliseconds UTC, or so long ago (`-2h`; s, m, h, d, w).

    A time without a zone is refused: whose would it be?

    Args:
        now_ms: what `-2h` counts from.

    Raises:
        ValueError: it is none of these; the message is for people.
    """
    relative = _RELATIVE.fullmatch(text)
    if relative is not None:
        return now_ms - int(relative[1]) * _UNITS_MS[relative[2]]
    if _NUMBER.fullmatch(text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: give 2026-11-23T12:00:00Z, -2h (s, m, h, d, w), or milliseconds UTC"
        ) from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: add Z for UTC, or an offset such as +01:00")
    return round(moment.astimezone(UTC).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class RedriveOptions:
    """Which letters, and how.

    Attributes:
        named: letters asked for one by one; with these, `wanted` takes all.
        attempts_max: how often a record is redriven unless its letter is named.
        dry_run: publish nothing and write nothing.
    """

    wanted: LetterFilter = field(default_factory=LetterFilter)
    named: tuple[PositionName, ...] = ()
    attempts_max: int = 3
    dry_run: bool = False


def named_heads(
    heads: Iterable[LetterHead], names: Sequence[PositionName]
) -> tuple[list[LetterHead], list[PositionName]]:
    """Return the letters that are named, and the names that no letter has.

    Where a topic was created again, several letters have one name: the newest is meant.
    """
    newest: dict[PositionName, LetterHead] = {}
    for head in heads:
        name = PositionName(head.topic, head.partition, head.offset)
        if name not in newest or newest[name].append_time_ms < head.append_time_ms:
            newest[name] = head
    unique = list(dict.fromkeys(names))
    return [newest[name] for name in unique if name in newest], [name for name in unique if name not in newest]


def count_by(letters: Iterable[Told]) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many letters there are by reason, and by fate; the most frequent first."""
    reasons: dict[str, int] = {}
    fates: dict[str, int] = {}
    for told in letters:
        reasons[told.head.reason] = reasons.get(told.head.reason, 0) + 1
        fates[told.fate.value] = fates.get(told.fate.value, 0) + 1
    return _sorted(reasons), _sorted(fates)


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def select(lake: Lake, options: RedriveOptions) -> list[LetterHead]:
    """Return the letters that are meant, newest first, or in the order in which they were named.

    Raises:
        NoSuchLetterError: one that was named is not there.
        LakeUnavailableError: the lake cannot be read.
    """
    if not options.named:
        return letter_heads(lake, options.wanted)
    partitions = dict.fromkeys((name.topic, name.partition) for name in options.named)
    heads = [
        head
        for topic, partition in partitions
        for head in letter_heads(lake, LetterFilter(topic=topic, partition=partition))
    ]
    found, missing = named_heads(heads, options.named)
    if missing:
        raise NoSuchLetterError([str(name) for name in missing])
    return found
