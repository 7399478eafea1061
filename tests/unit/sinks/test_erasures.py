"""The tombstones: what they cover, and what becomes of them without their key."""

from pathlib import Path

import pytest

from config.errors import SettingsError
from schemas.event import CLICKS_TOPIC
from schemas.privacy import Pseudonyms
from sinks.erasures import (
    CUT,
    FINISHED,
    LETTER,
    REQUESTED,
    ErasedLog,
    ErasureRow,
    Tombstones,
    note_erasures,
    read_erasures,
    read_tombstones,
)

KEY = Pseudonyms(b"0123456789abcdef")
LOG = ErasedLog("tid", CLICKS_TOPIC, 0)


def row(step: str, offset: int, *, user: str = "u1", partition: int = 0, epoch: str = "tid:4") -> ErasureRow:
    return ErasureRow(
        "r1", step, KEY.subject(user), KEY.key_id, epoch, CLICKS_TOPIC, partition, offset, 1_700_000_000_000
    )


def covers(tombstones: Tombstones, user: str, offset: int, *, epoch: str = "tid:4", partition: int = 0) -> bool:
    return tombstones.covers(user, CLICKS_TOPIC, epoch, partition, offset)


def test_what_is_noted_is_read_back(tmp_path: Path) -> None:
    rows = [row(REQUESTED, 10), row(CUT, 12)]
    note_erasures(tmp_path, rows[:1])
    note_erasures(tmp_path, rows[1:])
    assert sorted(read_erasures(tmp_path)) == sorted(rows)


def test_a_lake_without_erasures_covers_nothing(tmp_path: Path) -> None:
    tombstones = read_tombstones(tmp_path, None)
    assert not tombstones
    assert not covers(tombstones, "u1", 0)


def test_everything_before_the_end_is_covered_and_nothing_else(tmp_path: Path) -> None:
    note_erasures(tmp_path, [row(REQUESTED, 10), row(CUT, 12), row(FINISHED, 10), row(REQUESTED, 5, user="u2")])
    tombstones = read_tombstones(tmp_path, KEY)
    assert tombstones
    assert [covers(tombstones, "u1", offset) for offset in (0, 11, 12, 13)] == [True, True, False, False]
    assert covers(tombstones, KEY.of("u1"), 11)  # stored under its pseudonym
    assert [covers(tombstones, "u2", offset) for offset in (4, 5)] == [True, False]
    assert not covers(tombstones, "u3", 0)
    assert tombstones.reach(LOG) == 12


def test_an_end_holds_when_partitions_are_added_and_not_in_another_log(tmp_path: Path) -> None:
    note_erasures(tmp_path, [row(REQUESTED, 10)])
    tombstones = read_tombstones(tmp_path, KEY)
    assert covers(tombstones, "u1", 9, epoch="tid:8")
    assert not covers(tombstones, "u1", 9, epoch="other:4")
    assert not covers(tombstones, "u1", 9, partition=1)


def test_letters_are_covered_by_key_and_by_place(tmp_path: Path) -> None:
    note_erasures(tmp_path, [row(REQUESTED, 10), row(LETTER, 3)])
    tombstones = read_tombstones(tmp_path, KEY)
    assert tombstones.covers_letter(b"u1", 9, LOG)
    assert not tombstones.covers_letter(b"u1", 10, LOG)
    assert tombstones.covers_letter(None, 3, LOG)
    assert not tombstones.covers_letter(None, 4, LOG)
    assert not tombstones.covers_letter(b"\xff\xfe", 4, LOG)


@pytest.mark.parametrize("key", [None, Pseudonyms(b"fedcba9876543210")])
def test_erasures_without_their_key_are_an_error(tmp_path: Path, key: Pseudonyms | None) -> None:
    note_erasures(tmp_path, [row(REQUESTED, 10)])
    with pytest.raises(SettingsError, match=r"privacy\.key"):
        read_tombstones(tmp_path, key)
