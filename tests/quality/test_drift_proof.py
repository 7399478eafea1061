"""A hundred windows in which nothing changes, a null bug, a shift: at most one alarm, no trigger, exactly one."""

from pathlib import Path

from tests.quality.__main__ import problems
from tests.quality.proof import prove
from tests.quality.world import Plan


def test_a_hundred_stationary_windows_a_null_bug_and_a_shift(tmp_path: Path) -> None:
    found = prove(tmp_path, Plan(seed=12, events=1_700), min_rows=100)
    assert found.stable + found.unjudged == 100
    assert found.stable >= 95
    assert problems(found) == []
    assert "label_category_id" in found.words
