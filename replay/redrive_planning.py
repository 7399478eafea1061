"""What a redrive would do with each letter: a pure computation over the letters and what the codec says of them now."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from replay.dead_letter_fates import Fate, Told
from schemas.codec import Decoded
from schemas.dead_letter import DeadLetter
from schemas.event import Record
from schemas.partitioner import partition_of
from sinks.letter_reads import Letter, LetterHead, LogPosition


class Verdict(StrEnum):
    """What a redrive does with one letter."""

    REDRIVE = "redrive"  # readable now: publish it again
    UNREADABLE = "unreadable"  # the codec refuses it still
    BYTES_NOT_KEPT = "bytes_not_kept"  # user ids are pseudonymised: there is nothing to publish
    ERASED = "erased"  # its user was erased after it was sent
    ATTEMPTS_MAX = "attempts_max"  # came back too often: only when it is named
    APPLIED = "applied"
    IN_FLIGHT = "in_flight"
    REDRIVEN = "redriven"
    FAILED_AGAIN = "failed_again"


_BY_FATE = {
    Fate.APPLIED: (Verdict.APPLIED, "It was readable when it was read again; its event is in raw_events."),
    Fate.REDRIVEN: (Verdict.REDRIVEN, "It was published again, and its event is in raw_events."),
    Fate.FAILED_AGAIN: (Verdict.FAILED_AGAIN, "It was published again, and is another letter since."),
    Fate.IN_FLIGHT: (Verdict.IN_FLIGHT, "It was published again, and no worker has read it yet."),
}


IsErased = Callable[[str, Letter], bool]


def never(_user_id: str, _letter: Letter) -> bool:
    """Tell that nobody was erased."""
    return False


class Decoding(Protocol):
    """How records are read now."""

    def user_of(self, record: Record) -> str | None:
        """Return whose event a record holds, whatever else is wrong with it; None where that cannot be read."""
        ...

    def decode(self, record: Record, partition_count: int) -> Decoded | DeadLetter:
        """Decode and check one record."""
        ...


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be done with one letter.

    Attributes:
        why: for people, one sentence; empty for `redrive`.
        key: of what is to be published.
        partition: where that key belongs.
    """

    head: LetterHead
    verdict: Verdict
    why: str = ""
    key: bytes = b""
    partition: int = -1


def sift(
    letters: Iterable[Told], *, attempts_max: int, named: frozenset[LogPosition], lost_logs: frozenset[str]
) -> tuple[list[Told], list[Planned]]:
    """Part the letters that may be redriven from those that may not, without looking at their bytes.

    Args:
        attempts_max: how often a record is redriven unless its letter is named.
        named: letters that were asked for one by one.
        lost_logs: topic ids that are gone; what is in flight there will never be read.
    """
    candidates: list[Told] = []
    others: list[Planned] = []
    for told in letters:
        open_again = (
            told.fate is Fate.IN_FLIGHT
            and told.attempt is not None
            and (told.attempt.target_offset is None or told.attempt.target_topic_id in lost_logs)
        )
        if told.fate is not Fate.OPEN and not open_again:
            others.append(Planned(told.head, *_BY_FATE[told.fate]))
        elif told.attempts_before >= attempts_max and told.head.position not in named:
            why = f"Its record was redriven {told.attempts_before} times; name the letter to try once more."
            others.append(Planned(told.head, Verdict.ATTEMPTS_MAX, why))
        else:
            candidates.append(told)
    return candidates, others


def plan(
    letters: Sequence[Letter],
    decoding: Decoding,
    partition_counts: Mapping[str, int],
    now_ms: int,
    is_erased: IsErased = never,
) -> list[Planned]:
    """Decide what becomes of letters, each as if it were appended now, keyed by its user and partitioned by murmur2.

    Args:
        decoding: knows every schema that these letters were written with, or that there is none.
        partition_counts: by topic.
        now_ms: integer milliseconds UTC.
        is_erased: tells of a user and a letter whether the user was erased after it was sent.
    """
    counts = partition_counts
    return [_planned(letter, decoding, counts.get(letter.head.topic, 0), now_ms, is_erased) for letter in letters]


def _planned(letter: Letter, decoding: Decoding, partition_count: int, now_ms: int, is_erased: IsErased) -> Planned:
    head = letter.head
    if letter.value is None and head.value_size is not None:
        return Planned(head, Verdict.BYTES_NOT_KEPT, "Its bytes were not kept, because user ids are pseudonymised.")
    if not partition_count:
        return Planned(head, Verdict.UNREADABLE, f"Topic {head.topic} is not one that events are read from.")
    user = decoding.user_of(letter.record())
    key = letter.key if user is None else user.encode()
    partition = partition_of(key or b"", partition_count)
    as_appended_now = Record(head.topic, partition, head.offset, now_ms, key, letter.value)
    decoded = decoding.decode(as_appended_now, partition_count)
    if isinstance(decoded, DeadLetter):
        return Planned(head, Verdict.UNREADABLE, f"{decoded.reason}: {decoded.detail}")
    user = decoded.event.user_id
    if is_erased(user, letter):
        return Planned(head, Verdict.ERASED, "Its user was erased after it was sent.")
    return Planned(head, Verdict.REDRIVE, "", user.encode(), partition)
