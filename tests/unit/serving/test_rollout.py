"""The guard and what people may do beside it: on real tables, killed at every point, and twice at once."""

import threading
from pathlib import Path

import pytest

from config.quality import RolloutSettings
from serving.errors import ModelRefusedError, RebasingError, RolloutBusyError, RolloutError
from serving.models_in_service import CANARY, CHALLENGER, CHAMPION, FORMER
from serving.moves import REBASING
from tests.fakes.models import FakeModel
from tests.unit.serving.answers import NOON_MS, answer, click, write_answers, write_clicks
from tests.unit.serving.rollout_shop import Shop, Shops
from training.artefacts import ArtefactError
from training.errors import DefinitionError
from training.model_log import ModelStep, Step

ATTRIBUTION_MS = RolloutSettings().attribution_ms


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shops:
    return Shops(tmp_path, monkeypatch)


@pytest.fixture
def shop(shops: Shops) -> Shop:
    return shops.open()


def told(steps: list[ModelStep]) -> list[tuple[str, str]]:
    return [(step.model, step.step.value) for step in steps]


def on_trial(shop: Shop) -> None:
    """Have model 1 in charge and model 2 on trial."""
    shop.rollout().promote("1", "command:ann", "it is the first")
    shop.registry.set_alias(CHALLENGER, "2")
    assert told(shop.rollout().guard()) == [("2", "staged"), ("2", "canary")]


def serve(shop: Shop, *, clicked: float, failing: int = 0, slow: int = 0, first: int = 0, canaries: int = 400) -> int:
    """Have both models answer, the champion three times as often and with a fifth of its answers clicked.

    Args:
        clicked: share of the canary's answers that are clicked.
        first: number of the first answer, so that ids differ.

    Returns:
        The event time up to which clicks are known.
    """
    at_ms = shop.now_ms
    ours = [
        answer(
            f"c{first + n}",
            f"u{first + n}",
            model="2",
            role=CANARY,
            at_ms=at_ms,
            error="ValueError" if n < failing else None,
            seconds=0.06 if n < slow else 0.001,
        )
        for n in range(canaries)
    ]
    theirs = [answer(f"m{first + n}", f"v{first + n}", at_ms=at_ms) for n in range(3 * canaries)]
    write_answers(shop.lake, [*ours, *theirs], f"writer-{first}")
    kinds = (("c", "u", failing, round(canaries * clicked)), ("m", "v", 0, round(3 * canaries * 0.2)))
    clicks = [
        click(f"{id_}{first + n}", f"{user}{first + n}", at_ms + 5)
        for id_, user, begin, count in kinds
        for n in range(begin, begin + count)
    ]
    write_clicks(shop.events, [*clicks, click(None, "w", at_ms + ATTRIBUTION_MS)])
    shop.now_ms += 2 * ATTRIBUTION_MS
    return at_ms + ATTRIBUTION_MS


def test_without_models_there_is_nothing_to_do(shop: Shop) -> None:
    assert shop.rollout().guard() == []
    assert shop.rollout().standing() is None
    assert shop.steps() == []


def test_the_first_model_that_was_validated_serves_at_once(shop: Shop) -> None:
    shop.registry.set_alias(CHALLENGER, "1")
    steps = shop.rollout().guard()
    assert told(steps) == [("1", "staged"), ("1", "promoted")]
    assert {step.by for step in steps} == {"guard"}
    assert shop.registry.aliases == {CHAMPION: "1"}
    assert shop.rollout().guard() == []


def test_a_challenger_becomes_a_canary_and_waits_for_clicks(shop: Shop) -> None:
    on_trial(shop)
    assert shop.registry.aliases == {CHAMPION: "1", CHALLENGER: "2", CANARY: "2"}
    assert shop.rollout().guard() == []
    step, judgement = shop.rollout().standing() or pytest.fail("there is no canary")
    assert (step.model, step.step, judgement.fate.value) == ("2", Step.CANARY, "wait")


def test_a_canary_that_is_made_worse_is_rolled_back_by_itself(shop: Shop) -> None:
    on_trial(shop)
    serve(shop, clicked=0.05)
    (step,) = shop.rollout().guard()
    assert (step.model, step.step, step.by) == ("2", Step.ROLLED_BACK, "guard")
    assert "it loses more than 10 %" in step.reason
    assert step.evidence["canary"] == {
        "answers": 400,
        "failures": 0,
        "slow": 0,
        "impressions": 400,
        "clicked": 20,
        "click_through": 0.05,
        "spread": pytest.approx(1.0, abs=0.01),
    }
    assert shop.registry.aliases == {CHAMPION: "1"}
    assert shop.request_steps("2") == ["validated", "canary", "rolled_back"]
    assert shop.baselines == ["1"]
    assert shop.rollout().guard() == []


def test_a_canary_that_is_better_is_promoted_and_the_reference_of_drift_moves(shop: Shop) -> None:
    on_trial(shop)
    serve(shop, clicked=0.3)
    (step,) = shop.rollout().guard()
    assert (step.model, step.step) == ("2", Step.PROMOTED)
    assert shop.registry.aliases == {CHAMPION: "2", FORMER: "1"}
    assert shop.baselines == ["1", "2"]
    assert shop.rollout().guard() == []


def test_an_equal_canary_is_promoted_in_the_end(shop: Shop) -> None:
    on_trial(shop)
    serve(shop, clicked=0.2)
    assert shop.rollout().guard() == [], "so few answers cannot show it"
    serve(shop, clicked=0.2, first=10_000, canaries=6_000)
    assert told(shop.rollout().guard()) == [("2", "promoted")]


@pytest.mark.parametrize(("fault", "says"), [({"failing": 30}, "failed"), ({"slow": 30}, "took longer than 50 ms")])
def test_a_canary_that_fails_or_is_slow_is_rolled_back_without_waiting_for_clicks(
    shop: Shop, fault: dict[str, int], says: str
) -> None:
    on_trial(shop)
    until_ms = serve(shop, clicked=0.3, **fault)
    (step,) = shop.rollout().guard(until_ms - ATTRIBUTION_MS - 1)
    assert (step.step, says in step.reason) == (Step.ROLLED_BACK, True), step.reason
    assert step.evidence["canary"]["impressions"] == 0


def test_clicks_are_known_up_to_the_newest_event_of_the_lake(shop: Shop) -> None:
    on_trial(shop)
    at_ms = shop.now_ms
    write_answers(shop.lake, [answer(f"c{n}", f"u{n}", model="2", role=CANARY, at_ms=at_ms) for n in range(9)])
    write_clicks(shop.events, [click(None, "w", at_ms + ATTRIBUTION_MS - 1)])
    shop.now_ms += 10 * ATTRIBUTION_MS  # the worker is behind
    _, judgement = shop.rollout().standing() or pytest.fail("there is no canary")
    assert judgement.evidence["canary"]["answers"] == 9
    assert judgement.evidence["canary"]["impressions"] == 0


def test_answers_from_before_another_champion_do_not_count(shop: Shop) -> None:
    on_trial(shop)
    serve(shop, clicked=0.05)
    shop.rollout().promote("3", "command:ann", "in a hurry")
    _, judgement = shop.rollout().standing() or pytest.fail("there is no canary")
    assert judgement.evidence["canary"]["answers"] == 0


@pytest.mark.parametrize("clicked", [0.05, 0.3])
def test_a_guard_that_is_killed_anywhere_is_finished_by_the_next(shops: Shops, shop: Shop, clicked: float) -> None:
    on_trial(shop)
    serve(shop, clicked=clicked)
    unkilled = shops.copy(shop)
    unkilled.rollout().guard()
    points = 0
    for killed, point in shops.each_kill(shop, lambda shop: shop.rollout().guard()):
        points += 1
        killed.rollout().guard()
        assert killed.state() == unkilled.state(), point
    assert points >= 8


def test_a_beginning_that_is_killed_anywhere_is_finished_by_the_next(shops: Shops, shop: Shop) -> None:
    shop.rollout().promote("1", "command:ann", "it is the first")
    shop.registry.set_alias(CHALLENGER, "2")
    unkilled = shops.copy(shop)
    unkilled.rollout().guard()
    points = 0
    for killed, point in shops.each_kill(shop, lambda shop: shop.rollout().guard()):
        points += 1
        killed.rollout().guard()
        assert killed.state() == unkilled.state(), point
    assert points >= 8


def test_two_guards_at_once_decide_once(shop: Shop) -> None:
    on_trial(shop)
    serve(shop, clicked=0.3)
    is_inside, may_go_on = threading.Event(), threading.Event()

    def wait(_point: str) -> None:
        is_inside.set()
        assert may_go_on.wait(30)

    shop.shops.reached = wait
    first: list[ModelStep] = []
    thread = threading.Thread(target=lambda: first.extend(shop.rollout().guard()))
    thread.start()
    assert is_inside.wait(30)
    assert shop.rollout().guard() == []
    with pytest.raises(RolloutBusyError):
        shop.rollout().roll_back("command:ann", "now")
    shop.shops.reached = lambda _point: None
    may_go_on.set()
    thread.join()
    assert told(first) == [("2", "promoted")]
    assert shop.steps()[-1:] == [("2", "promoted")]
    assert shop.rollout().guard() == []


@pytest.mark.parametrize("error", [ArtefactError("It was changed."), DefinitionError("It needs another release.")])
def test_a_challenger_that_cannot_serve_is_given_up_and_its_request_is_told(shop: Shop, error: Exception) -> None:
    shop.rollout().promote("1", "command:ann", "it is the first")
    shop.registry.set_alias(CHALLENGER, "2")
    shop.registry.refused["2"] = error
    (step,) = shop.rollout().guard()
    assert (step.model, step.step, step.reason) == ("2", Step.ROLLED_BACK, str(error))
    assert shop.registry.aliases == {CHAMPION: "1"}
    assert shop.request_steps("2") == ["validated", "rolled_back"]
    assert shop.rollout().guard() == []


def test_a_challenger_that_was_decided_upon_is_none(shop: Shop) -> None:
    on_trial(shop)
    shop.rollout().roll_back("command:ann", "a complaint")
    shop.registry.set_alias(CHALLENGER, "2")
    assert shop.rollout().guard() == []
    assert shop.registry.aliases == {CHAMPION: "1"}


def test_a_canary_that_is_gone_from_the_registry_is_given_up(shop: Shop) -> None:
    on_trial(shop)
    shop.registry.drop("2")
    assert told(shop.rollout().guard()) == [("2", "rolled_back")]
    assert shop.request_steps("2") == ["validated", "canary", "rolled_back"]
    shop.registry.set_alias(CHALLENGER, "3")
    assert told(shop.rollout().guard()) == [("3", "staged"), ("3", "canary")]


def test_a_canary_whose_champion_is_gone_takes_its_place(shop: Shop) -> None:
    on_trial(shop)
    shop.registry.drop("1")
    assert told(shop.rollout().guard()) == [("2", "promoted")]
    assert shop.registry.aliases == {CHAMPION: "2"}


def test_a_registry_that_is_down_is_told_and_nothing_is_changed(shop: Shop) -> None:
    on_trial(shop)
    before = shop.state()
    shop.registry.is_down = True
    with pytest.raises(ConnectionError):
        shop.rollout().guard()
    shop.registry.is_down = False
    assert shop.state() == before


def test_a_reference_of_drift_that_cannot_be_moved_keeps_nobody_from_moving_models(shop: Shop) -> None:
    on_trial(shop)
    serve(shop, clicked=0.3)
    shop.has_no_baseline = True
    assert told(shop.rollout().guard()) == [("2", "promoted")], "the step is told"
    with pytest.raises(RebasingError, match="Model 2 serves, but the reference of drift cannot be moved") as raised:
        shop.rollout().guard()
    assert "tries again" in str(raised.value.hint)
    assert shop.registry.aliases == {CHAMPION: "2", FORMER: "1", REBASING: "2"}
    assert told([shop.rollout().promote("3", "command:ann", "in a hurry")]) == [("3", "promoted")]
    shop.has_no_baseline = False
    assert shop.rollout().guard() == []
    assert shop.registry.aliases == {CHAMPION: "3", FORMER: "2"}
    assert shop.baselines == ["1", "3"]


def test_a_model_is_taken_back_while_the_reference_of_drift_still_moves(shop: Shop) -> None:
    shop.rollout().promote("1", "command:ann", "it is the first")
    is_inside, may_go_on = threading.Event(), threading.Event()

    def wait(point: str) -> None:
        if point == "before the baseline is moved":
            is_inside.set()
            assert may_go_on.wait(30)

    shop.shops.reached = wait
    thread = threading.Thread(target=lambda: shop.rollout().promote("2", "command:ann", "it is better"))
    thread.start()
    assert is_inside.wait(30)
    assert told([shop.rollout().roll_back("command:ann", "it is not")]) == [("2", "rolled_back")]
    assert shop.rollout().guard() == []
    may_go_on.set()
    thread.join()
    assert shop.registry.aliases == {CHAMPION: "1"}


def test_people_may_go_the_same_way_step_by_step(shop: Shop) -> None:
    rollout = shop.rollout()
    rollout.promote("1", "command:ann", "it is the first")
    with pytest.raises(RolloutError, match="not staged: it is not known yet"):
        rollout.start_canary("2", "command:ann", "try it")
    rollout.stage("2", "command:ann", "try it")
    step = rollout.start_canary("2", "command:ann", "try it")
    assert (step.by, step.evidence["share"]) == ("command:ann", 0.1)
    rollout.stage("3", "command:ann", "try it")
    with pytest.raises(RolloutError, match="Model 2 is the canary already"):
        rollout.start_canary("3", "command:ann", "try it")
    with pytest.raises(RolloutError, match="cannot be staged: it is canary"):
        rollout.stage("2", "command:ann", "again")
    assert told([rollout.promote("2", "command:ann", "good enough")]) == [("2", "promoted")]
    assert shop.registry.aliases == {CHAMPION: "2", FORMER: "1"}


def test_a_canary_needs_a_champion_beside_it(shop: Shop) -> None:
    shop.rollout().stage("2", "command:ann", "try it")
    with pytest.raises(RolloutError, match="no champion to compare it with"):
        shop.rollout().start_canary("2", "command:ann", "try it")


def test_rolling_back_takes_the_canary_then_the_champion_then_nothing(shop: Shop) -> None:
    rollout = shop.rollout()
    rollout.promote("1", "command:ann", "it is the first")
    rollout.promote("2", "command:ann", "it is better")
    shop.registry.set_alias(CHALLENGER, "3")
    rollout.guard()
    assert told([rollout.roll_back("command:ann", "a complaint")]) == [("3", "rolled_back")]
    assert shop.registry.aliases == {CHAMPION: "2", FORMER: "1"}
    step = rollout.roll_back("command:ann", "another")
    assert (step.model, step.evidence["to"]) == ("2", "1")
    assert shop.registry.aliases == {CHAMPION: "1"}
    with pytest.raises(RolloutError, match="neither a canary nor a former champion"):
        rollout.roll_back("command:ann", "a third")


def test_what_was_decided_against_is_promoted_by_force_alone(shop: Shop) -> None:
    rollout = shop.rollout()
    rollout.promote("1", "command:ann", "it is the first")
    shop.log.append(ModelStep("2", Step.REJECTED, "training", "it does not beat champion", NOON_MS + 10**9))
    with pytest.raises(RolloutError, match="Model 2 is rejected: it does not beat champion") as raised:
        rollout.promote("2", "command:ann", "I know better")
    assert "--force" in str(raised.value.hint)
    step = rollout.promote("2", "command:ann", "I know better", is_forced=True)
    assert step.evidence["is_forced"] is True


@pytest.mark.parametrize("version", ["9", ""])
def test_an_unknown_version_is_said_to_be_unknown(shop: Shop, version: str) -> None:
    for move in (shop.rollout().promote, shop.rollout().stage):
        with pytest.raises(RolloutError, match=f"There is no model {version}") as raised:
            move(version, "command:ann", "why not")
        assert "1, 2, 3" in str(raised.value.hint)


def test_a_model_that_cannot_serve_is_not_put_in_charge(shop: Shop) -> None:
    rollout = shop.rollout()
    rollout.promote("1", "command:ann", "it is the first")
    with pytest.raises(RolloutError, match="champion already"):
        rollout.promote("1", "command:ann", "again")
    shop.registry.tamper("2")
    shop.registry.add("3", FakeModel(popular=()), request_id="req-3")
    before = shop.state()
    with pytest.raises(ArtefactError):
        rollout.promote("2", "command:ann", "it is better")
    with pytest.raises(ModelRefusedError):
        rollout.promote("3", "command:ann", "it is better")
    assert shop.state() == before
