"""The reference: which windows are alike, counts that add up, bytes."""

from datetime import UTC, datetime

import numpy as np
import pytest

from quality.profile import Categories, Numbers, Profile
from quality.reference import ALL_WINDOWS, HOUR_MS, Level, Reference, Stratum, Window, level_of

MONDAY_MS = round(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)


def window(hour: int, seed: int = 0) -> Window:
    rng, start_ms = np.random.default_rng([seed, hour]), MONDAY_MS + hour * HOUR_MS
    values = rng.poisson(3.0, 100).astype(float)
    kinds = Categories.of(rng.choice(["a", "b", "c"], 100, p=[0.6, 0.3, 0.1]).tolist())
    return Window(start_ms, start_ms + HOUR_MS, Profile(100, {"n": Numbers.of(values), "kind": kinds}))


@pytest.mark.parametrize(
    ("hours", "level"),
    [
        (range(47), Level.ALL),
        (range(48), Level.HOUR_OF_DAY),
        (range(335), Level.HOUR_OF_DAY),
        (range(336), Level.HOUR_OF_WEEK),
        # two weeks apart, but hardly an hour twice
        ([*range(24), *range(360, 384)], Level.HOUR_OF_DAY),
    ],
)
def test_windows_are_alike_by_the_finest_hours_that_history_has_twice(hours: list[int], level: Level) -> None:
    assert level_of([window(hour) for hour in hours]) is level


def test_hours_are_named() -> None:
    saturday_9 = MONDAY_MS + (5 * 24 + 9) * HOUR_MS
    assert Level.HOUR_OF_WEEK.words(Level.HOUR_OF_WEEK.stratum(saturday_9)) == "Saturdays 09:00 UTC"
    assert Level.HOUR_OF_DAY.words(Level.HOUR_OF_DAY.stratum(saturday_9 + HOUR_MS // 2)) == "all days 09:00 UTC"
    assert Level.ALL.words(Level.ALL.stratum(saturday_9)) == "all windows of the reference"
    assert Level.HOUR_OF_WEEK.stratum(MONDAY_MS) == 0


def test_strata_hold_each_window_once_and_all_of_them_together() -> None:
    windows = [window(hour) for hour in range(72)]
    found = Reference.of(windows)
    assert found.level is Level.HOUR_OF_DAY
    assert sorted(found.strata) == [ALL_WINDOWS, *range(24)]
    assert found.strata[5].windows == {"n": 3, "kind": 3}
    assert found.strata[ALL_WINDOWS].windows["n"] == 72
    total = sum(found.strata[hour].counts["n"] for hour in range(24))
    assert total.tolist() == found.strata[ALL_WINDOWS].counts["n"].tolist()
    assert total.sum() == 7_200


def test_a_stratum_without_a_window_is_that_of_the_others() -> None:
    windows = [window(hour) for hour in range(72)]
    found = Reference.of(windows)
    left = found.strata[5].without([found.counted(windows[5].profile)])
    others = Stratum()
    for each in (windows[29], windows[53]):
        others.add(found.counted(each.profile))
    assert left.windows == others.windows
    assert left.counts["n"].tolist() == others.counts["n"].tolist()
    assert found.strata[5].windows["n"] == 3  # it is left as it was


def test_a_window_of_an_hour_that_history_lacks_has_none_alike() -> None:
    found = Reference.of([window(hour) for hour in range(72) if hour % 24 != 3])
    assert not found.has_alike(MONDAY_MS + 99 * HOUR_MS)
    assert found.number(MONDAY_MS + 99 * HOUR_MS) == ALL_WINDOWS
    assert found.has_alike(MONDAY_MS + 100 * HOUR_MS)


def test_a_variable_that_some_windows_lack_is_counted_by_those_that_have_it() -> None:
    early = window(0)._replace(profile=Profile(100, {"kind": window(0).profile.variables["kind"]}))
    found = Reference.of([early, *(window(hour) for hour in range(1, 24))])
    assert found.strata[ALL_WINDOWS].windows == {"kind": 24, "n": 23}


def test_bytes_hold_all_of_it() -> None:
    found = Reference.of([window(hour) for hour in range(72)])
    again = Reference.from_bytes(found.to_bytes())
    assert again.level is found.level
    assert again.bins == found.bins
    assert again.to_bytes() == found.to_bytes()
    assert again.strata[7].counts["kind"].tolist() == found.strata[7].counts["kind"].tolist()
    assert again.strata[7].null_share("n") == 0.0
