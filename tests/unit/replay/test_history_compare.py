"""Two definition versions side by side, by what the history holds of both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from features.finalize import finalize
from replay.errors import NoSuchDefinitionError
from replay.history_compare import compare_versions
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from sinks.feature_history import HistoryAppender
from sinks.history_reads import held_versions
from sinks.lake_reads import PartitionLog
from tests.rows import NOON_MS

CLICKS = PartitionLog("clicks:4", CLICKS_TOPIC, 0)
CARTS = PartitionLog("carts:4", CARTS_TOPIC, 1)
NOTHING = finalize({}, NOON_MS)

Values = Callable[[PartitionLog, int], dict[str, Any]]


def append(lake: Path, version: int, log: PartitionLog, offsets: range, values: Values = lambda *_: {}) -> None:
    """Write a version's rows of these offsets: of five users in turn, with the values of nobody but those given."""
    rows = [{**NOTHING, **values(log, offset)} for offset in offsets]
    columns = {
        "user_id": [f"u{offset % 5}" for offset in offsets],
        "offset": list(offsets),
        "append_time_ms": [NOON_MS + offset for offset in offsets],
        "event_time_ms": [NOON_MS] * len(offsets),
        "outcome": ["applied"] * len(offsets),
        **{name: [row[name] for row in rows] for name in NOTHING},
    }
    appender = HistoryAppender(lake, version)
    appender.append({log: appender.rows("run", log, columns)})


def test_equal_values_of_the_same_events_are_no_difference(tmp_path: Path) -> None:
    for version in (1, 2):
        append(tmp_path, version, CLICKS, range(40), lambda _, offset: {"click_count_5m": offset})
        append(tmp_path, version, CARTS, range(7))
    found = compare_versions(tmp_path, 2, 1)
    assert (found.event_count, found.users, found.differences) == (47, {f"u{n}" for n in range(5)}, {})
    assert found.is_complete
    assert held_versions(tmp_path) == {1: 47, 2: 47}


def test_each_feature_that_differs_is_counted_by_users_with_examples(tmp_path: Path) -> None:
    append(tmp_path, 1, CLICKS, range(40), lambda *_: {"cart_rate_24h": 0.5, "last_products_24h": ["a", "b"]})
    append(
        tmp_path,
        2,
        CLICKS,
        range(40),
        lambda _, offset: {
            "cart_rate_24h": None if offset in {3, 8, 13, 21} else 0.5,
            "last_products_24h": ["a", "b"] if offset else ["b", "a"],
        },
    )
    found = compare_versions(tmp_path, 2, 1)
    assert found.differences.keys() == {"cart_rate_24h", "last_products_24h"}
    rate = found.differences["cart_rate_24h"]
    assert (rate.event_count, rate.users) == (4, {"u3", "u1"})
    assert [(example["offset"], example["here"], example["there"]) for example in rate.examples] == [
        (3, None, 0.5), (21, None, 0.5),
    ]  # fmt: skip
    payload = found.payload()["features"]["last_products_24h"]
    assert (payload["users"], payload["events"]) == (1, 1)
    assert payload["examples"][0]["user_id"] == "u0"


def test_events_of_which_only_one_version_has_a_row_are_told(tmp_path: Path) -> None:
    append(tmp_path, 1, CLICKS, range(10, 60))
    append(tmp_path, 2, CLICKS, range(50))
    append(tmp_path, 2, CARTS, range(3))
    found = compare_versions(tmp_path, 2, 1)
    assert (found.event_count, found.only_here, found.only_there) == (40, 13, 10)
    assert not found.is_complete


def test_a_feature_that_the_other_catalog_does_not_know_is_no_difference(tmp_path: Path) -> None:
    append(tmp_path, 1, CLICKS, range(20), lambda *_: {"click_count_1h": None})
    append(tmp_path, 2, CLICKS, range(20))
    found = compare_versions(tmp_path, 2, 1)
    assert (found.lacking, found.differences) == (("click_count_1h",), {})


def test_a_sample_of_users_is_always_the_same(tmp_path: Path) -> None:
    append(tmp_path, 1, CLICKS, range(40))
    append(tmp_path, 2, CLICKS, range(40), lambda _, offset: {"click_count_5m": offset})
    found = [compare_versions(tmp_path, 2, 1, users_max=2) for _ in range(2)]
    assert len(found[0].users) == 2
    assert found[0].payload() == found[1].payload()
    assert found[0].event_count == 16


def test_a_version_of_which_nothing_is_held_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(NoSuchDefinitionError, match="no row of definition version 2; there is none"):
        compare_versions(tmp_path, 2, 1)
    append(tmp_path, 1, CLICKS, range(3))
    append(tmp_path, 2, CLICKS, range(3))
    with pytest.raises(
        NoSuchDefinitionError, match=r"no row of definition version 3; there are 1, 2\. .*--into history"
    ):
        compare_versions(tmp_path, 2, 3)
