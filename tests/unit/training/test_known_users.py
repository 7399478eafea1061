"""Users are found by their ids, whatever these are made of."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from training.known_users import KnownUsers

IDS = ["", "a", "aa", "b", "user 9", "zoë", "ß", "日本", "u" * 900]


def known(ids: list[str]) -> KnownUsers:
    column = pa.array(ids, pa.string())
    return KnownUsers.of(column.take(pc.sort_indices(column)))


def test_every_user_is_found_at_the_place_of_its_id() -> None:
    users = known(IDS)
    assert len(users) == len(IDS)
    assert [users.find(user) for user in users.ids()] == list(range(len(IDS)))


@pytest.mark.parametrize("stranger", ["A", "ab", "user 99", "日", "u" * 899, "z", "\udc80"])
def test_strangers_are_not_found(stranger: str) -> None:
    assert known(IDS).find(stranger) is None


def test_nobody_is_found_where_nobody_is() -> None:
    assert known([]).find("a") is None
    assert list(known([]).ids()) == []


def test_those_who_are_kept_are_found_and_the_others_are_gone() -> None:
    users = known(["a", "bb", "ccc", "d"])
    kept = users.kept(np.array([True, False, True, False]))
    assert list(kept.ids()) == ["a", "ccc"]
    assert kept.find("bb") is None
    assert b"bb" not in kept.texts.tobytes()


def test_a_part_of_a_column_is_taken_as_it_is() -> None:
    users = KnownUsers.of(pa.array(["x", "a", "b", "y"]).slice(1, 2))
    assert list(users.ids()) == ["a", "b"]
