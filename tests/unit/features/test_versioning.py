"""Which state wins in the online store: the table of DESIGN section 5, row by row, and what it prevents."""

import pytest

from features.apply import fold
from features.state import Trailer, decode, read_trailer
from features.versioning import VersionConflictError, WriteOutcome, decide
from tests.logs import SECOND, event, numbered

WRITTEN, INCLUDED, CONFLICT = WriteOutcome.WRITTEN, WriteOutcome.ALREADY_INCLUDED, WriteOutcome.CONFLICT


def trailer(generation: int, built_from: int, version: int) -> Trailer:
    return Trailer(generation, built_from, version)


@pytest.mark.parametrize(
    ("stored", "new", "outcome"),
    [
        pytest.param(None, trailer(0, 0, 5), WRITTEN, id="none stored, built from none"),
        pytest.param(None, trailer(0, 3, 5), CONFLICT, id="none stored, built from one that is gone"),
        pytest.param(None, trailer(1, 0, 5), WRITTEN, id="none stored, a repair"),
        pytest.param(trailer(0, 0, 3), trailer(0, 3, 5), WRITTEN, id="what it was built from"),
        pytest.param(trailer(0, 3, 5), trailer(0, 3, 5), INCLUDED, id="the same again"),
        pytest.param(trailer(0, 3, 8), trailer(0, 3, 5), INCLUDED, id="a later one is stored"),
        pytest.param(trailer(0, 0, 4), trailer(0, 3, 5), CONFLICT, id="greater, but built from another"),
        pytest.param(trailer(0, 0, 4), trailer(0, 0, 5), CONFLICT, id="greater, but built from none"),
        pytest.param(trailer(0, 3, 5), trailer(1, 0, 5), WRITTEN, id="a repair of the same version"),
        pytest.param(trailer(0, 3, 5), trailer(1, 0, 9), WRITTEN, id="a repair of a later version"),
        pytest.param(trailer(0, 3, 5), trailer(1, 0, 4), CONFLICT, id="a repair that lacks events"),
        pytest.param(trailer(1, 0, 5), trailer(0, 5, 7), CONFLICT, id="built from what has been repaired since"),
        pytest.param(trailer(2, 0, 5), trailer(1, 0, 9), CONFLICT, id="an older repair"),
        pytest.param(trailer(1, 0, 5), trailer(2, 5, 7), CONFLICT, id="built on a repair that is gone"),
    ],
)
def test_decides_by_the_table(stored: Trailer | None, new: Trailer, outcome: WriteOutcome) -> None:
    assert decide(stored, new) is outcome


def test_a_stale_cache_cannot_undo_what_another_worker_applied() -> None:
    """A partition moves A -> B -> A; A's old state would give a greater version without B's event."""
    first, second, third = numbered([event(0), event(SECOND), event(2 * SECOND)])
    cache_of_a = fold(None, [first]).state
    stored = fold(cache_of_a, [second]).state  # by B
    stale = fold(cache_of_a, [third]).state  # by A again
    assert read_trailer(stale).version > read_trailer(stored).version

    assert decide(read_trailer(stored), read_trailer(stale)) is CONFLICT

    again = fold(stored, [third]).state
    assert decide(read_trailer(stored), read_trailer(again)) is WRITTEN
    assert sum(totals[0] for totals in decode(again).panes.values()) == 3


def test_a_conflict_names_its_users() -> None:
    error = VersionConflictError(tuple(f"u{n}" for n in range(7)))

    assert error.users == ("u0", "u1", "u2", "u3", "u4", "u5", "u6")
    assert "7 user(s)" in error.message
    assert "u4, …" in error.message
    assert "again" in error.hint
