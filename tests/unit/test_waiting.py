"""The tests' own polling."""

import pytest

from tests.waiting import wait_until


def test_it_returns_what_became_true() -> None:
    answers = iter([None, 0, "here"])
    assert wait_until(lambda: next(answers), 30, "nothing came") == "here"


def test_it_tells_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match="saw 3"):
        wait_until(lambda: False, 0, lambda: "saw 3")
