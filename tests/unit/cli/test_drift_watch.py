"""The watch goes round: each part by itself, what fails is told once and tried again."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cli import drift_watch
from cli.drift_watch import RedGates, Watch, red_gates
from config.errors import ShopstreamError
from config.settings import Settings, load_settings
from feature_repo.gate_store import GateNotes, Halt
from quality.gates import Gate, GateStatus, Verdict
from sinks.errors import LakeUnavailableError
from sinks.retraining import Retraining
from streams import gate_report, observing
from streams.gate_report import GateStanding, TopicStanding
from streams.observing import PartitionLag
from streams.ports import TopicPartition
from streams.watching import watching_alone


class World:
    """What the parts find, instead of services that are not there."""

    def __init__(self) -> None:
        self.standings: Sequence[TopicStanding] | Exception = []
        self.checked: list[RedGates] = []
        self.lags: list[PartitionLag] = []
        self.waited_for: list[Collection[int]] = []
        self.failure: Exception | None = None
        self.guarded = 0

    def told(self, _settings: Settings) -> Sequence[TopicStanding]:
        if isinstance(self.standings, Exception):
            raise self.standings
        return self.standings

    def check(self, _settings: Settings, red: RedGates, behind: Collection[int]) -> Any:
        if self.failure is not None:
            raise self.failure
        self.checked.append(red)
        self.waited_for.append(behind)
        return type("Report", (), {"windows": []})

    def group(self, _settings: Settings) -> Any:
        return type("Lags", (), {"read": lambda _self: self.lags})()

    def guard(self, _settings: Settings) -> list[Any]:
        self.guarded += 1
        return []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"home": tmp_path / "home"})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(gate_report, "standings", made.told)
    monkeypatch.setattr(observing, "GroupLags", made.group)
    monkeypatch.setattr(drift_watch, "check_windows", made.check)
    monkeypatch.setattr("serving.rollout.guard", made.guard)
    return made


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watch(settings: Settings, said: list[str]) -> Iterator[Watch]:
    made = Watch(settings, said.append)
    yield made
    made.close()


def topic(halt: Halt | None = None, status: GateStatus = GateStatus.PASS) -> TopicStanding:
    verdict = Verdict(Gate.NULLS, status, 0.05, 0.01, 1_000, "click.category_id is empty in 5 %")
    return TopicStanding("shop.clicks.v1", GateNotes(halt=halt), {Gate.NULLS: GateStanding("halt", verdict)}, 1, 0)


def test_a_round_looks_at_each_part_and_writes_metrics(
    watch: Watch, world: World, settings: Settings, said: list[str]
) -> None:
    done = watch.round()
    assert (done.failures, said, done.is_eventful) == ({}, [], False)
    assert world.checked == [RedGates([], [])]
    assert world.guarded == 1
    metrics = (settings.home / "metrics" / "drift.prom").read_text()
    for part in ("gates", "windows", "outbox", "training", "rollout"):
        assert f'shopstream_drift_part_failing{{part="{part}"}} 0.0' in metrics


def test_windows_wait_for_partitions_that_hold_more_of_what_is_judged(watch: Watch, world: World) -> None:
    ends = {("shop.clicks.v1", 0): 7, ("shop.clicks.v1", 3): 8, ("shop.carts.v1", 1): 8}
    world.lags = [PartitionLag(TopicPartition(*tp), 0, produced, 7) for tp, produced in ends.items()]
    watch.round()
    assert world.waited_for == [{3}]


def test_without_knowing_the_gates_no_window_is_judged_and_the_rest_goes_on(
    watch: Watch, world: World, settings: Settings, said: list[str]
) -> None:
    world.standings = ShopstreamError("Redis does not answer.")
    done = watch.round()
    assert done.failures == {"gates": "Redis does not answer."}
    assert (world.checked, world.guarded) == ([], 1)
    assert 'shopstream_drift_part_failing{part="gates"} 1.0' in (settings.home / "metrics" / "drift.prom").read_text()
    watch.round()
    assert said == ["gates failed, and is tried again: Redis does not answer."]  # once
    world.standings = []
    assert watch.round().failures == {}
    assert said[1:] == ["gates works again"]
    assert len(world.checked) == 1


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (LakeUnavailableError("x", "gone", hint=""), "The lake's table at x cannot be used: gone."),
        (ValueError("a bug"), "ValueError: a bug"),
    ],
)
def test_a_part_that_fails_does_not_stop_the_others(
    watch: Watch, world: World, failure: Exception, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.failure = failure
    for _ in range(2):
        done = watch.round()
        assert done.failures["windows"].startswith(why)
    assert world.guarded == 2
    assert caplog.text.count("Traceback") == isinstance(failure, ValueError)


def test_what_is_not_delivered_is_counted(watch: Watch, world: World, settings: Settings) -> None:
    answer = Retraining.from_settings(settings).force(reason="by hand")
    assert answer["outcome"] == "requested"
    done = watch.round()
    assert done.waiting == 1  # no Kafka runs here
    assert "shopstream_drift_outbox 1.0" in (settings.home / "metrics" / "drift.prom").read_text()


def test_red_gates_are_told_in_words(settings: Settings, world: World) -> None:
    halt = Halt("shop.clicks.v1", Gate.NULLS, 5, "click.category_id is empty in 5 %")
    world.standings = [topic(halt, GateStatus.FAIL)]
    found = red_gates(settings)
    assert [(span.topic, span.gate, span.since_ms, span.until_ms) for span in found.halts] == [
        ("shop.clicks.v1", "nulls", 5, None)
    ]
    assert found.words == ["shop.clicks.v1 is halted by its gate nulls: click.category_id is empty in 5 %"]
    world.standings = [topic(None, GateStatus.FAIL)]
    found = red_gates(settings)
    assert (list(found.halts), len(found.words)) == ([], 1)
    for status in (GateStatus.PASS, GateStatus.UNKNOWN, GateStatus.OVERRIDDEN):
        world.standings = [topic(None, status)]
        assert red_gates(settings) == RedGates([], [])


def test_a_second_watch_of_a_home_leaves_it_to_the_first(settings: Settings, said: list[str]) -> None:
    with watching_alone(settings.home):
        assert not drift_watch.watch(settings, 0.0, tell=said.append, took=lambda _done: None)


def test_a_watch_ends_with_an_interrupt(settings: Settings, world: World, said: list[str]) -> None:
    def interrupted(_settings: Settings) -> list[Any]:
        if world.guard(_settings) or world.guarded < 3:
            return []
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.rollout.guard", interrupted)
        assert drift_watch.watch(settings, 0.0, tell=said.append, took=lambda _done: None)
    assert (world.guarded, said) == (3, ["begins, and goes round every 0 s until it is ended"])
