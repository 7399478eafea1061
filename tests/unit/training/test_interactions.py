"""Interactions: which events they are, each once, in which order, and nobody's who was erased."""

from pathlib import Path

import pytest

from schemas.event import CLICKS_TOPIC
from schemas.privacy import Pseudonyms
from sinks.erasures import ErasedLog, Tombstones
from tests.taste_lakes import HOUR_MS, START_MS, Row, viewed, write_rows
from training.interactions import KINDS, WEIGHTS, Interactions, read_interactions
from training.lake_snapshot import Snapshot

NOBODY = Tombstones()
END_MS = START_MS + HOUR_MS


def found(lake: Path, *, from_ms: int = START_MS, to_ms: int = END_MS, tombstones: Tombstones = NOBODY) -> Interactions:
    return read_interactions(Snapshot.of(lake), from_ms, to_ms, tombstones)


def rows_of(read: Interactions) -> list[tuple[str, str, str, int]]:
    users, products = read.user_ids.to_pylist(), read.product_ids.to_pylist()
    columns = (read.users.tolist(), read.products.tolist(), read.kinds.tolist(), read.times_ms.tolist())
    return [(users[u], products[p], KINDS[k], at_ms - START_MS) for u, p, k, at_ms in zip(*columns, strict=True)]


def test_kinds_weigh_what_they_say_about_interest(tmp_path: Path) -> None:
    assert WEIGHTS["page_view"] == WEIGHTS["click"] < WEIGHTS["add"] < WEIGHTS["purchase"]
    kinds = ["page_view", "click", "add", "remove", "purchase", "search"]
    write_rows(tmp_path, [viewed("u1", 1, START_MS + n, kind) for n, kind in enumerate(kinds)])
    assert rows_of(found(tmp_path)) == [
        ("u1", "p1", "page_view", 0), ("u1", "p1", "click", 1), ("u1", "p1", "add", 2), ("u1", "p1", "purchase", 4),
    ]  # fmt: skip
    assert found(tmp_path).weights.tolist() == [1.0, 1.0, 3.0, 5.0]


def test_events_without_a_product_or_outside_the_range_are_none(tmp_path: Path) -> None:
    without = {**viewed("u1", 1, START_MS + 5), "product_id": None}
    write_rows(tmp_path, [viewed("u1", 1, START_MS - 1), without, viewed("u1", 2, END_MS), viewed("u1", 3, END_MS - 1)])
    assert rows_of(found(tmp_path)) == [("u1", "p3", "page_view", HOUR_MS - 1)]


def test_an_event_that_was_delivered_again_is_one_at_its_earliest_time(tmp_path: Path) -> None:
    def twice(at_ms: int, user: str = "u1") -> Row:
        return {**viewed(user, 1, at_ms), "event_id": "same"}

    write_rows(tmp_path, [twice(START_MS + 9), twice(START_MS + 4), twice(START_MS + 6, "u2")])
    assert rows_of(found(tmp_path)) == [("u1", "p1", "page_view", 4), ("u2", "p1", "page_view", 6)]


def test_rows_of_a_user_are_together_and_in_the_order_of_time(tmp_path: Path) -> None:
    rows = [viewed("u2", 1, START_MS + 3), viewed("u1", 2, START_MS + 9), viewed("u1", 3, START_MS + 1)]
    write_rows(tmp_path, rows)
    write_rows(tmp_path, [viewed("u2", 4, START_MS + 2)], {"offset": 10})
    read = found(tmp_path)
    assert [(user, product) for user, product, _, _ in rows_of(read)] == [
        ("u1", "p3"), ("u1", "p2"), ("u2", "p4"), ("u2", "p1"),
    ]  # fmt: skip
    assert read.follows.tolist() == [False, True, False, True]


def test_a_product_has_the_category_of_its_newest_event_that_names_one(tmp_path: Path) -> None:
    moved = {**viewed("u2", 1, START_MS + 5), "category_id": "c9"}
    unnamed = {**viewed("u1", 1, START_MS + 9), "category_id": None}
    write_rows(tmp_path, [viewed("u1", 1, START_MS + 1), moved, unnamed, {**unnamed, "product_id": "p2"}])
    read = found(tmp_path)
    named = [read.category_ids.to_pylist()[number] if number >= 0 else None for number in read.categories.tolist()]
    assert dict(zip(read.product_ids.to_pylist(), named, strict=True)) == {"p1": "c9", "p2": None}


@pytest.mark.parametrize("stored", ["u1", None])
def test_what_was_erased_is_left_out_and_what_came_later_is_not(tmp_path: Path, stored: str | None) -> None:
    pseudonyms = Pseudonyms(b"a key of the tests, long enough")
    user = stored or pseudonyms.of("u1")
    write_rows(tmp_path, [viewed(user, n, START_MS + n) for n in range(4)] + [viewed("u2", 1, START_MS + 9)])
    log = ErasedLog(CLICKS_TOPIC, CLICKS_TOPIC, 0)
    tombstones = Tombstones(pseudonyms=pseudonyms).with_ends([(log, pseudonyms.subject("u1"), 2)])
    kept = [(who, product) for who, product, _, _ in rows_of(found(tmp_path, tombstones=tombstones))]
    assert sorted(kept) == sorted([(user, "p2"), (user, "p3"), ("u2", "p1")])


def test_what_comes_after_the_snapshot_is_not_read(tmp_path: Path) -> None:
    write_rows(tmp_path, [viewed("u1", 1, START_MS)])
    snapshot = Snapshot.of(tmp_path)
    write_rows(tmp_path, [viewed("u1", 2, START_MS + 1)], {"offset": 1})
    assert len(read_interactions(snapshot, START_MS, END_MS, NOBODY)) == 1
    assert len(found(tmp_path)) == 2


def test_there_may_be_none(tmp_path: Path) -> None:
    write_rows(tmp_path, [viewed("u1", 1, START_MS)])
    read = found(tmp_path, from_ms=END_MS, to_ms=END_MS + 1)
    assert len(read) == 0
    assert rows_of(read) == []


def test_only_products_of_the_rows_are_left_when_they_are_numbered_anew(tmp_path: Path) -> None:
    write_rows(tmp_path, [viewed("u1", n, START_MS + n) for n in (5, 1, 3)])
    read = found(tmp_path)
    part = read.kept(read.times_ms >= START_MS + 3).compacted()
    assert part.product_ids.to_pylist() == ["p3", "p5"]
    assert [product for _, product, _, _ in rows_of(part)] == ["p3", "p5"]
