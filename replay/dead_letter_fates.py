"""What became of dead letters, from what the lake holds; nothing of it is stored anywhere.

A letter's own row is never changed: its fate follows from `redrives` (was it published again, and where?) and from
whether a position is in `raw_events` or among the letters. So it cannot contradict them, whatever was killed when.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sinks.lake_root import Lake
from sinks.letter_reads import LetterHead, LogPosition, held_positions
from sinks.redrives import Attempt, read_attempts
from sinks.tables import DEAD_LETTERS, RAW_EVENTS


class Fate(StrEnum):
    """What became of one letter."""

    OPEN = "open"  # nothing was done
    APPLIED = "applied"  # it was read again, and was readable then: its own position is in raw_events
    IN_FLIGHT = "in_flight"  # published again or about to be, and not read by a worker yet
    REDRIVEN = "redriven"  # published again, and in raw_events
    FAILED_AGAIN = "failed_again"  # published again, and a letter of its own at its new position


CLOSED: frozenset[Fate] = frozenset({Fate.APPLIED, Fate.REDRIVEN, Fate.FAILED_AGAIN})


@dataclass(frozen=True, slots=True)
class Told:
    """A letter and what became of it.

    Attributes:
        attempt: its own redrive; None where there was none. One that was applied where it lies has itself as target.
        came_from: the redrive that brought its record to this position; None where a producer did.
    """

    head: LetterHead
    fate: Fate
    attempt: Attempt | None
    came_from: Attempt | None

    @property
    def attempts_before(self) -> int:
        """How often its record was redriven before it became this letter."""
        return 0 if self.came_from is None else self.came_from.number

    @property
    def origin(self) -> LogPosition:
        """The first letter of its record."""
        return self.head.position if self.came_from is None else self.came_from.origin


def tell(
    heads: Iterable[LetterHead],
    attempts: Mapping[LogPosition, Attempt],
    applied: frozenset[LogPosition],
    failed: frozenset[LogPosition],
) -> list[Told]:
    """Say what became of each letter.

    Args:
        attempts: by letter.
        applied: positions, of letters and of targets, that `raw_events` holds.
        failed: positions of targets that are letters.
    """
    arrivals = _arrivals(attempts)
    told = []
    for head in heads:
        attempt = attempts.get(head.position)
        told.append(Told(head, _fate(head.position, attempt, applied, failed), attempt, arrivals.get(head.position)))
    return told


def _fate(
    letter: LogPosition, attempt: Attempt | None, applied: frozenset[LogPosition], failed: frozenset[LogPosition]
) -> Fate:
    if letter in applied:
        return Fate.APPLIED
    if attempt is None:
        return Fate.OPEN
    if attempt.target in applied:
        return Fate.REDRIVEN
    if attempt.target in failed:
        return Fate.FAILED_AGAIN
    return Fate.OPEN if attempt.is_finished else Fate.IN_FLIGHT  # finished, and nowhere: retention was faster


def read_fates(
    lake: Lake, heads: Sequence[LetterHead], attempts: Mapping[LogPosition, Attempt] | None = None
) -> list[Told]:
    """Say what became of each letter, from the lake; reads one column of `raw_events` where letters lie.

    Args:
        attempts: what is known of redrives; read from the lake when not given.

    Raises:
        LakeUnavailableError: a table cannot be read.
    """
    if attempts is None:
        attempts = read_attempts(lake)
    positions = {head.position for head in heads}
    own = (attempts[position] for position in positions if position in attempts)
    targets = {attempt.target for attempt in own if attempt.target is not None}
    applied = held_positions(lake, RAW_EVENTS, positions | targets)
    failed = held_positions(lake, DEAD_LETTERS, targets - applied)
    return tell(heads, attempts, applied, failed)


def chain(letter: LogPosition, attempts: Mapping[LogPosition, Attempt]) -> list[Attempt]:
    """Return all redrives of the record that this letter is of, the first one first."""
    arrivals = _arrivals(attempts)
    found: list[Attempt] = []
    earlier = arrivals.get(letter)
    while earlier is not None:
        found.insert(0, earlier)
        earlier = arrivals.get(earlier.letter)
    later = attempts.get(letter)
    while later is not None:
        found.append(later)
        later = None if later.target in (None, later.letter) else attempts.get(later.target)
    return found


def _arrivals(attempts: Mapping[LogPosition, Attempt]) -> dict[LogPosition, Attempt]:
    """Return what was published again, by where it is; a letter that was applied where it lies went nowhere."""
    return {each.target: each for each in attempts.values() if each.target not in (None, each.letter)}
