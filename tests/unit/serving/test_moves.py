"""Moves of models, killed at every point between their parts: the next finishes what was decided, if anything was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.models_in_service import CANARY, CHALLENGER, CHAMPION, FORMER
from serving.moves import REBASING, SETTLING
from tests.unit.serving.rollout_shop import Shop, Shops
from training.artefacts import ArtefactError

Arrange = Callable[[Shop], object]


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shops:
    return Shops(tmp_path, monkeypatch)


@pytest.fixture
def shop(shops: Shops) -> Shop:
    return shops.open()


def promote(version: str) -> Arrange:
    def move(shop: Shop) -> None:
        shop.moves().promote(shop.registry.held[version], "guard", "it won", {"newest_ms": 5})
        shop.moves().rebase()

    return move


def start_canary(version: str) -> Arrange:
    return lambda shop: shop.moves().start_canary(shop.registry.held[version], "guard", "a tenth")


def roll_back(version: str, **evidence: str) -> Arrange:
    return lambda shop: shop.moves().roll_back(shop.registry.held[version], "guard", "it lost", evidence)


def challenge(version: str) -> Arrange:
    return lambda shop: shop.registry.set_alias(CHALLENGER, version)


MOVES: dict[str, tuple[list[Arrange], Arrange]] = {
    "the first champion": ([], promote("1")),
    "a canary begins": ([promote("1"), challenge("2")], start_canary("2")),
    "a canary wins": ([promote("1"), challenge("2"), start_canary("2")], promote("2")),
    "a canary loses": ([promote("1"), challenge("2"), start_canary("2")], roll_back("2")),
    "a champion is taken back": ([promote("1"), promote("2")], roll_back("2", to="1")),
    "there and back and there": ([promote("1"), promote("2"), promote("1")], promote("2")),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_kill_in_the_middle_of_a_move_leaves_all_of_it_or_nothing(shops: Shops, shop: Shop, name: str) -> None:
    arranged, move = MOVES[name]
    for step in arranged:
        step(shop)
    before, unkilled = shop.state(), shops.copy(shop)
    move(unkilled)
    after = unkilled.state()
    assert SETTLING not in after["aliases"]
    points = []
    for killed, point in shops.each_kill(shop, move):
        points.append(point)
        is_noted = len(killed.steps()) > len(before["steps"])
        killed.moves().settle()
        killed.moves().rebase()
        assert killed.state() == (after if is_noted else before), point
    assert len(points) >= 6


def test_the_first_champion(shop: Shop) -> None:
    step = shop.moves().promote(shop.registry.held["1"], "command:ann", "it is the first", {})
    assert shop.registry.aliases == {CHAMPION: "1", REBASING: "1"}
    shop.moves().rebase()
    assert shop.registry.aliases == {CHAMPION: "1"}
    assert (step.by, step.reason, step.evidence) == (
        "command:ann",
        "it is the first",
        {"from": None, "request_id": "req-1"},
    )
    assert shop.log.steps() == [step]
    assert shop.request_steps("1") == ["validated", "promoted"]
    assert shop.baselines == ["1"]


def test_a_canary_that_wins_takes_the_place_of_the_champion(shop: Shop) -> None:
    for move in (promote("1"), challenge("2"), start_canary("2")):
        move(shop)
    assert shop.registry.aliases == {CHAMPION: "1", CHALLENGER: "2", CANARY: "2"}
    promote("2")(shop)
    assert shop.registry.aliases == {CHAMPION: "2", FORMER: "1"}
    assert shop.request_steps("2") == ["validated", "canary", "promoted"]
    assert shop.baselines == ["1", "2"]


def test_a_canary_that_loses_is_none_and_the_reference_of_drift_stays(shop: Shop) -> None:
    for move in (promote("1"), challenge("2"), start_canary("2"), roll_back("2")):
        move(shop)
    assert shop.registry.aliases == {CHAMPION: "1"}
    assert shop.request_steps("2") == ["validated", "canary", "rolled_back"]
    assert shop.baselines == ["1"]


def test_a_champion_that_is_taken_back_leaves_its_place_to_the_former_one(shop: Shop) -> None:
    for move in (promote("1"), promote("2"), roll_back("2", to="1")):
        move(shop)
    assert shop.registry.aliases == {CHAMPION: "1"}
    assert shop.baselines == ["1", "2"], "it moves only after a promotion"


def test_a_move_that_was_begun_and_never_noted_does_not_repeat_an_older_one(shop: Shop) -> None:
    """Model 2 is promoted, then 1 again; then somebody begins with 2 and dies before the row."""
    for move in (promote("1"), promote("2"), promote("1")):
        move(shop)
    shop.registry.set_alias(SETTLING, "2")
    shop.moves().settle()
    shop.moves().rebase()
    assert shop.registry.aliases == {CHAMPION: "1", FORMER: "2"}
    assert shop.baselines == ["1", "2", "1"]


def test_a_reference_of_drift_that_nobody_waits_for_any_more_is_not_moved(shop: Shop) -> None:
    promote("1")(shop)
    shop.moves().promote(shop.registry.held["2"], "guard", "it won", {})
    roll_back("2", to="1")(shop)
    shop.moves().rebase()
    assert shop.registry.aliases == {CHAMPION: "1"}
    assert shop.baselines == ["1"]


def test_a_clock_that_is_set_back_does_not_turn_steps_around(shop: Shop) -> None:
    promote("1")(shop)
    shop.now_ms -= 3_600_000
    for move in (challenge("2"), start_canary("2"), promote("2")):
        move(shop)
    assert shop.steps() == [("1", "promoted"), ("2", "canary"), ("2", "promoted")]
    assert shop.registry.aliases == {CHAMPION: "2", FORMER: "1"}


def test_a_version_that_cannot_be_loaded_is_not_staged(shop: Shop) -> None:
    shop.registry.tamper("1")
    with pytest.raises(ArtefactError):
        shop.moves().stage(shop.registry.held["1"], "guard", "it was validated")
    assert shop.steps() == []


def test_a_model_without_a_request_tells_nobody(shop: Shop) -> None:
    shop.registry.add("4")
    promote("4")(shop)
    assert (shop.registry.aliases, shop.steps()) == ({CHAMPION: "4"}, [("4", "promoted")])


def test_a_registry_that_fails_in_the_middle_is_asked_again_by_the_next(shop: Shop) -> None:
    promote("1")(shop)
    wanted = shop.moves()

    def fall(point: str) -> None:
        if point == "after promoted is noted":
            shop.registry.is_down = True

    shop.shops.reached = fall
    with pytest.raises(ConnectionError):
        wanted.promote(shop.registry.held["2"], "guard", "it won", {})
    shop.shops.reached = lambda _point: None
    with pytest.raises(ConnectionError):
        wanted.settle()
    shop.registry.is_down = False
    wanted.settle()
    wanted.rebase()
    assert shop.registry.aliases == {CHAMPION: "2", FORMER: "1"}
    assert shop.steps() == [("1", "promoted"), ("2", "promoted")]
