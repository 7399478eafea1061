"""The pure middle of the batch loop: events of a batch by user, folded into the users' states."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from feature_repo.states import StoredState
from features.apply import Outcome, fold
from features.state import Trailer, read_trailer, with_trailer
from schemas.event import Event
from sinks.rows import FeatureLogRow, RawRow


@dataclass(slots=True)
class UserFold:
    """The events of one user in one batch, and what folding them gave.

    Attributes:
        log: (offset, event) in log order; at least one, unless the user was erased meanwhile.
        is_rebuilding: its partition lost states, so one that is born here is marked as partial.
        stored: what the online store holds, None when it holds nothing.
        state: the folded state.
        outcomes: one per event of `log`.
        forgotten_count: event ids that left the duplicate memory too early (more than 1,024 within the lateness).
        generation: that of a state which is to replace one that should not be there; 0 for any other.
        erased_count: events that left `log` because the user was erased meanwhile.
    """

    log: list[tuple[int, Event]]
    partition: int
    is_rebuilding: bool = False
    stored: StoredState | None = None
    state: bytes = b""
    outcomes: Sequence[Outcome] = ()
    forgotten_count: int = 0
    generation: int = 0
    erased_count: int = 0

    @property
    def is_changed(self) -> bool:
        """Tell whether the state must be written: a redelivered event changes nothing."""
        return bool(self.log) and (self.stored is None or self.state != self.stored.state)

    @property
    def is_born_partial(self) -> bool:
        """Tell whether this batch began the state of a user whose earlier events may be missing."""
        return self.is_rebuilding and self.stored is None and bool(self.log)


def by_user(rows: Iterable[RawRow], *, is_rebuilding: bool) -> dict[str, UserFold]:
    """Group the rows of a batch by user, each user's events in log order."""
    folds: dict[str, UserFold] = {}
    for row in rows:
        user_id = row.event.user_id
        found = folds.get(user_id)
        if found is None:
            found = folds[user_id] = UserFold([], row.record.partition, is_rebuilding)
        found.log.append((row.record.offset, row.event))
    return folds


def fold_all(folds: Mapping[str, UserFold]) -> None:
    """Fold each user's events into the stored state."""
    for item in folds.values():
        if not item.log:
            item.state, item.outcomes, item.forgotten_count = b"", (), 0
            continue
        folded = fold(item.stored.state if item.stored else None, item.log, partial=item.is_rebuilding)
        item.state, item.outcomes, item.forgotten_count = folded
        if item.generation:
            item.state = with_trailer(item.state, Trailer(item.generation, 0, read_trailer(item.state).version))


def is_older(found: StoredState | None, known: StoredState | None) -> bool:
    """Tell whether the online store holds less than it once did; without losses (generation, version) only grows."""
    if known is None:
        return False
    if found is None:
        return True
    now, before = read_trailer(found.state), read_trailer(known.state)
    return (now.generation, now.version) < (before.generation, before.version)


def feature_log_rows(folds: Mapping[str, UserFold], servable_ms: int) -> list[FeatureLogRow]:
    """Return a row per state version that ends at one of these events.

    A version is logged with the offset before it, so that every version is logged exactly once even when a crash came
    between its push and its flush: the event is then redelivered, and the version that the store already holds is
    logged with the time that it was written at.
    """
    rows: list[FeatureLogRow] = []
    for user_id, item in folds.items():
        if item.stored is not None and item.log:
            version = read_trailer(item.stored.state).version
            if item.log[0][0] < version and any(offset == version - 1 for offset, _ in item.log):
                rows.append(FeatureLogRow(user_id, version, item.stored.state, item.stored.servable_ms))
        if item.is_changed:
            rows.append(FeatureLogRow(user_id, read_trailer(item.state).version, item.state, servable_ms))
    return rows
